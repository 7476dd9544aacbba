// Connects over WebSocket, reads nothing more after the first `connected` until SIGUSR2, and prints its events as
// lines of JSON: ["connected", socketId], ["not reading"], ["disconnect", reason], ["snapshot", seq].
// Usage: node non-reading.js URL
const socket = require('socket.io-client')(process.argv[2], { path: '/api/socket.io', transports: ['websocket'] });
const report = (...words) => console.log(JSON.stringify(words));

socket.once('connected', () => {
  const line = socket.io.engine.transport.ws._socket;
  process.on('SIGUSR2', () => line.resume());
  line.pause();
  report('not reading');
});
socket.on('connected', (payload) => report('connected', payload.socketId));
socket.on('disconnect', (reason) => report('disconnect', reason));
socket.on('balance:snapshot', (snapshot) => report('snapshot', snapshot.seq));
