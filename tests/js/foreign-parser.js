// Connects with a parser that the server does not support, and prints how the connection ends as lines of JSON:
// ["close", reason, code of the WebSocket or status of HTTP, reason of the WebSocket].
// Usage: node foreign-parser.js URL TRANSPORT
const [, , url, transport] = process.argv;
const parser = require('socket.io-msgpack-parser');
const { io } = require('socket.io-client-4.8');

const socket = io(url, { path: '/api/socket.io', transports: [transport], parser, reconnection: false });
socket.io.on('close', (reason, details) => {
  const { code, status, reason: text } = details?.context ?? {};
  console.log(JSON.stringify(['close', reason, code ?? status, text]));
});
