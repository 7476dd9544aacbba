// Saves six updates at once with the client package named on the command line, and disconnects. Prints lines of JSON:
// ["saved", acknowledgement] and ["snapshot", seq], six of each, then ["transport", name].
// Usage: node save-six.js PACKAGE URL TRANSPORT[,TRANSPORT]
const [, , name, url, transports] = process.argv;
const report = (...words) => console.log(JSON.stringify(words));

const io = require(name);
const socket = (io.io || io)(url, { path: '/api/socket.io', transports: transports.split(','), reconnection: false });
let left = 12;

function count(...words) {
  report(...words);
  left -= 1;
  if (left === 0) {
    report('transport', socket.io.engine.transport.name);
    socket.close();
  }
}

socket.on('connect_error', (error) => report('connect_error', error.message));
socket.on('disconnect', (reason) => report('disconnect', reason));
socket.on('balance:snapshot', (snapshot) => count('snapshot', snapshot.seq));
socket.on('connect', () => {
  for (let pid = 0; pid < 6; pid += 1) {
    const update = { pid, onchain: { rlb: 1, usdt: 2 }, onsite: { rlb: 3, usd: 4 } };
    socket.emit('balance:update', update, (ack) => count('saved', ack));
  }
});
