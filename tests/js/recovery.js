// Watches by the client package named on the command line, with native recovery and no other code for it. Prints lines of
// JSON: ["connect", recovered], ["connected", payload], ["snapshot", seq], ["disconnect", reason]. On SIGUSR2 it closes
// its connection as a network would; it comes back by itself.
// Usage: node recovery.js PACKAGE URL TRANSPORT[,TRANSPORT]
const [, , name, url, transports] = process.argv;
const report = (...words) => console.log(JSON.stringify(words));

const { io } = require(name);
const socket = io(url, {
  path: '/api/socket.io',
  transports: transports.split(','),
  auth: { recovery: true },
  reconnectionDelay: 50,
  reconnectionDelayMax: 200,
});
socket.on('connect', () => report('connect', Boolean(socket.recovered)));
socket.on('disconnect', (reason) => report('disconnect', reason));
socket.on('connected', (payload) => report('connected', payload));
socket.on('balance:snapshot', (snapshot) => report('snapshot', snapshot.seq));
process.on('SIGUSR2', () => socket.io.engine.close());
