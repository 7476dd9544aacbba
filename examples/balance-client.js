// A bot that reports its balances and watches the balances of every bot, over Socket.IO.
//
//   npm install
//   node balance-client.js                               sends an update every 5 seconds, until Ctrl-C
//   node balance-client.js --count 3 --interval 1000     sends three updates, a second apart, and exits
//
// BALANCE_URL is the address of the server; the default is a server on this machine. The exit status is 0 if every
// update was saved, and 1 if the server rejected one. To report your own balances, replace `readBalances`.
'use strict';

const { randomUUID } = require('node:crypto');
const { setTimeout: sleep } = require('node:timers/promises');
const { parseArgs } = require('node:util');
const { io } = require('socket.io-client');

const PING_MS = 30_000;

const { values: options } = parseArgs({
  options: {
    count: { type: 'string', default: 'Infinity' },
    interval: { type: 'string', default: '5000' },
  },
});

const socket = io(process.env.BALANCE_URL || 'http://127.0.0.1:3000', {
  path: '/api/socket.io',
  // Each update is saved exactly once. The client sends it again until the server has answered, also after a
  // lost connection. The server saves an `id` only once, so that sending it again is safe. `retries` needs
  // `ackTimeout`: without it, this library treats every answer as a failure. The server answers within 5
  // seconds, so that no answer is on its way after 6.
  retries: Infinity,
  ackTimeout: 6_000,
});

// An update is saved only if the answer reports it: neither sending it nor the absence of an error proves it.
// The library treats every answer as a success, also an error. The field `success` of the answer distinguishes them.
async function save(update) {
  for (;;) {
    const answer = await socket.emitWithAck('balance:update', update);
    if (answer.success) {
      console.log(`saved ${answer.id} of ${answer.timestamp}${answer.duplicate ? ' (it was saved already)' : ''}`);
      return true;
    }
    console.log(`error ${answer.code}: ${answer.error}`);
    // Only a temporary error has `retryAfter`, in seconds: the same update, with the same id, may succeed then.
    // Any other error would be repeated: a person has to read it, and the bot goes on.
    if (answer.retryAfter === undefined) return false;
    await sleep(answer.retryAfter * 1000);
  }
}

// Returns the balances of the bot. `ts` is the time at which they were read, so that a late update is still true.
//
// A JavaScript number has at least 15 digits, and represents each integer up to 2^53 = 9007199254740992. More digits
// are rounded here before sending, and again when a snapshot is received. The server keeps every digit that it
// receives: a bot that needs more digits must write its JSON itself and send it by POST /api/balance/snapshot.
function readBalances() {
  return {
    id: newId(),
    ts: new Date().toISOString(),
    pid: process.pid,
    onchain: { rlb: 100074.99978, usdt: 7656.36 },
    onsite: { rlb: 101132.407627, usd: 7646.96 },
  };
}

// Returns a UUIDv7 (RFC 9562). It begins with the time: ids that grow keep the index of the server's table dense.
function newId() {
  const time = Date.now().toString(16).padStart(12, '0');
  return `${time.slice(0, 8)}-${time.slice(8)}-7${randomUUID().slice(15)}`;
}

// The library reconnects by itself: first after about a second, later every 5 seconds.
socket.on('connected', (greeting) => console.log(`connected as ${greeting.socketId}`));
socket.on('disconnect', (reason) => console.log(`disconnected: ${reason}`));
socket.on('connect_error', (error) => {
  console.log(`cannot connect: ${error.message}`);
  if (!socket.active) process.exit(1); // rejected by the server: the library does not try again
});

// Every snapshot that any bot saves, this one included. Snapshots that are saved while the connection is down are
// not sent later: `seq` has no gaps and so reveals them, and GET /api/balance/snapshot returns them.
socket.on('balance:snapshot', (snapshot) => console.log(`snapshot ${JSON.stringify(snapshot)}`));
socket.on('pong', (pong) => console.log(`pong ${pong.timestamp}`));

// `volatile`, because with `retries` a plain `emit` would be queued behind the updates and repeated until answered.
setInterval(() => socket.volatile.emit('ping'), PING_MS).unref();

// One update at a time: while the server is away no backlog grows, and the next update has current balances.
// To report every reading instead, do not await `save`: the library then queues the updates in memory.
async function main() {
  for (let sent = 1; ; sent += 1) {
    if (!(await save(readBalances()))) process.exitCode = 1;
    if (sent >= Number(options.count)) break;
    await sleep(Number(options.interval));
  }
  socket.close();
}

main();
