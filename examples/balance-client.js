// A bot that reports what it holds and watches what every bot holds, over Socket.IO.
//
//   npm install
//   node balance-client.js                               sends an update every 5 seconds, until Ctrl-C
//   node balance-client.js --count 3 --interval 1000     sends three, a second apart, and ends
//
// BALANCE_URL names the server; without it, the one on this machine is meant. Exit status: 0 when every update
// was saved, 1 when the server refused one. To make it yours, write your own `readBalances`.
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
  // Saved exactly once, in two halves. Ours: an update is sent again until the server has answered it, also
  // after a lost connection. The server's: an `id` that it has saved is not saved a second time, so sending
  // again does no harm. `retries` needs `ackTimeout`, or this library takes every answer for a failure. The
  // server answers within 5 seconds, so after 6 there is no answer on its way.
  retries: Infinity,
  ackTimeout: 6_000,
});

// Nothing counts as saved until the answer says so: that it was sent, or that no error came, says nothing.
// For the library any answer is a success, a refusal too; which one it is stands in `success`.
async function save(update) {
  for (;;) {
    const answer = await socket.emitWithAck('balance:update', update);
    if (answer.success) {
      console.log(`saved ${answer.id} of ${answer.timestamp}${answer.duplicate ? ' (it was saved already)' : ''}`);
      return true;
    }
    console.log(`error ${answer.code}: ${answer.error}`);
    // Only a temporary refusal has `retryAfter`, in seconds: the same update, with the same id, may pass then.
    // Any other would be refused again and again: a person has to look at it, and the bot goes on.
    if (answer.retryAfter === undefined) return false;
    await sleep(answer.retryAfter * 1000);
  }
}

// What the bot holds now. `ts` is the moment of reading, which stays true however late the update arrives.
//
// A JavaScript number keeps 15 digits for certain, and whole numbers up to 2^53 = 9007199254740992: more is
// rounded here, before it is sent, and again when a snapshot is read. The server keeps every digit it is given;
// a bot that needs more of them writes its JSON by itself and sends it by POST /api/balance/snapshot.
function readBalances() {
  return {
    id: newId(),
    ts: new Date().toISOString(),
    pid: process.pid,
    onchain: { rlb: 100074.99978, usdt: 7656.36 },
    onsite: { rlb: 101132.407627, usd: 7646.96 },
  };
}

// A UUIDv7 (RFC 9562): it begins with the time, and ids that grow keep the server's index dense, however large.
function newId() {
  const time = Date.now().toString(16).padStart(12, '0');
  return `${time.slice(0, 8)}-${time.slice(8)}-7${randomUUID().slice(15)}`;
}

// The library connects again by itself: first after about a second, in the end every 5.
socket.on('connected', (greeting) => console.log(`connected as ${greeting.socketId}`));
socket.on('disconnect', (reason) => console.log(`disconnected: ${reason}`));
socket.on('connect_error', (error) => {
  console.log(`can not connect: ${error.message}`);
  if (!socket.active) process.exit(1); // refused by the server itself: trying again would not help
});

// Every snapshot that anyone saves, this bot's own too. Those that are saved while the connection is down do
// not come later: `seq` counts without a gap and so shows it, and GET /api/balance/snapshot has them.
socket.on('balance:snapshot', (snapshot) => console.log(`snapshot ${JSON.stringify(snapshot)}`));
socket.on('pong', (pong) => console.log(`pong ${pong.timestamp}`));

// `volatile`, because a plain `emit` would wait in line behind the updates, to be sent until it is answered.
setInterval(() => socket.volatile.emit('ping'), PING_MS).unref();

// One update after the other: while the server is away nothing piles up, and the next one is read afresh.
// To keep each moment instead, do not await `save`: the library sends what waits in its turn, from memory.
async function main() {
  for (let sent = 1; ; sent += 1) {
    if (!(await save(readBalances()))) process.exitCode = 1;
    if (sent >= Number(options.count)) break;
    await sleep(Number(options.interval));
  }
  socket.close();
}

main();
