// Connects over WebSocket, reads nothing more after the first `connected` until SIGUSR2, and prints what it hears as
// lines of JSON: ["connected", socketId], ["not reading"], ["disconnect", reason], ["snapshot", seq].
// Usage: node non-reading.js URL
const socket = require('socket.io-client')(process.argv[2], { path: '/api/socket.io', transports: ['websocket'] });
const say = (...words) => console.log(JSON.stringify(words));

socket.once('connected', () => {
  const line = socket.io.engine.transport.ws._socket;
  process.on('SIGUSR2', () => line.resume());
  line.pause();
  say('not reading');
});
socket.on('connected', (payload) => say('connected', payload.socketId));
socket.on('disconnect', (reason) => say('disconnect', reason));
socket.on('balance:snapshot', (snapshot) => say('snapshot', snapshot.seq));
