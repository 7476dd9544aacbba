// Connects with the client package named on the command line, sends `ping`, and prints its events as lines
// of JSON: ["connect"], ["connect_error", message], ["connected", payload], ["pong", payload].
// Usage: node ping.js PACKAGE URL TRANSPORT[,TRANSPORT] [PATH]
const [, , name, url, transports, path = '/api/socket.io'] = process.argv;
const report = (...words) => console.log(JSON.stringify(words));

const io = require(name);
const socket = (io.io || io)(url, { path, transports: transports.split(','), reconnection: false, timeout: 60000 });

socket.on('connect', () => {
  report('connect');
  socket.emit('ping');
});
socket.on('connect_error', (error) => {
  report('connect_error', error.message);
  socket.close();
});
for (const event of ['connected', 'pong']) {
  socket.on(event, (payload) => {
    report(event, payload);
    if (event === 'pong') socket.close();
  });
}
