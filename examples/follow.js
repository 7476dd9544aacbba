// Prints every snapshot, with the recovery of socket.io-client itself: npm install && node follow.js
'use strict';
const { io } = require('socket.io-client');
const url = process.env.BALANCE_URL || 'http://127.0.0.1:3000';
const token = process.env.BALANCE_TOKEN; // if the server needs one
const headers = token ? { Authorization: `Bearer ${token}` } : {};
const socket = io(url, { path: '/api/socket.io', auth: { recovery: true, token } });
let last;
let handled = Promise.resolve(); // one event after the other
function handle(snapshot) {
  if (snapshot.seq !== last + 1) throw new Error(`${snapshot.seq} came after ${last}`);
  last = snapshot.seq;
  console.log(JSON.stringify(snapshot));
}
async function handleConnected({ seq, epoch, recovered, reason, goodUntil }) {
  if (recovered) return;
  if (last !== undefined) console.log(`lost: ${reason}, going on after ${goodUntil ?? seq}`);
  last = last === undefined ? seq : (goodUntil ?? seq);
  while (last < seq) {
    const page = await (await fetch(`${url}/api/balance/feed?after=${last}&epoch=${epoch}`, { headers })).json();
    page.data.filter((snapshot) => snapshot.seq <= seq).forEach(handle);
  }
}

socket.on('connect_error', ({ message, data }) => {
  if (socket.active) return; // there is no connection: the library tries again
  if (data?.retryAfter) return setTimeout(() => socket.connect(), data.retryAfter * 1000);
  console.error(`refused: ${data?.code}: ${message}: set BALANCE_TOKEN to a token that may read`);
  process.exit(1);
});
socket.on('connected', (greeting) => (handled = handled.then(() => handleConnected(greeting))));
socket.on('balance:snapshot', (snapshot) => (handled = handled.then(() => handle(snapshot))));
