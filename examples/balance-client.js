// A bot that reports its balances and watches the balances of every bot, over Socket.IO. It loses no reading and misses
// no snapshot, also when the server, the network or this program itself is away for a while.
//
//   npm install
//   node balance-client.js                               makes a reading every 5 seconds, until Ctrl-C
//   node balance-client.js --count 3 --interval 1000     makes three readings, a second apart, and exits
//
// BALANCE_URL is the address of the server; the default is a server on this machine. BALANCE_TOKEN is the token, if the
// server needs one. `--folder` (default: balance-state) has the two files that survive a restart: readings.jsonl and
// position.json. Each process needs a folder of its own.
// The exit status is 0 if every reading was saved, and 1 if the server rejected one, or the token. To report your own
// balances, replace `readBalances`; to use those of others, replace `handle`.
'use strict';

const { randomUUID } = require('node:crypto');
const { appendFileSync, existsSync, fsyncSync, ftruncateSync, mkdirSync, openSync, readFileSync } = require('node:fs');
const { open, rename } = require('node:fs/promises');
const { join } = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const { parseArgs } = require('node:util');
const { io } = require('socket.io-client');

const PING_MS = 30_000;
const RESUME_MS = 1_000;
const REFUSED = ['unauthorized', 'forbidden']; // by the token

const { values: options } = parseArgs({
  options: {
    count: { type: 'string', default: 'Infinity' },
    interval: { type: 'string', default: '5000' },
    folder: { type: 'string', default: 'balance-state' },
  },
});
mkdirSync(options.folder, { recursive: true });

// The readings that the server has not answered yet: each is a line of a file, and on the disk before it is sent.
class Journal {
  constructor(path) {
    this.file = openSync(path, 'a+');
    const text = readFileSync(path, 'utf8');
    const whole = text.slice(0, text.lastIndexOf('\n') + 1); // the process was killed while it wrote what follows
    ftruncateSync(this.file, Buffer.byteLength(whole));
    this.found = whole.split('\n').filter(Boolean).map((line) => JSON.parse(line));
    this.unanswered = this.found.length;
  }

  add(reading) {
    appendFileSync(this.file, `${JSON.stringify(reading)}\n`);
    fsyncSync(this.file);
    this.unanswered += 1;
  }

  // Call this for each reading that was answered. The file is emptied when that is all of them. After a restart before
  // that, all are sent again, which is safe: the server saves an `id` only once.
  removeOne() {
    this.unanswered -= 1;
    if (this.unanswered === 0) ftruncateSync(this.file, 0);
  }
}

const journal = new Journal(join(options.folder, 'readings.jsonl'));
let sending = Promise.resolve(); // ends when all readings up to now are answered

// One at a time, so that the server saves them in the order in which they were made.
function send(reading) {
  sending = sending.then(async () => {
    if (!(await save(reading))) process.exitCode = 1;
    journal.removeOne();
  });
}

// A reading is saved only if the answer reports it: neither sending it nor the absence of an error proves it.
// The library treats every answer as a success, also an error. The field `success` of the answer distinguishes them.
async function save(reading) {
  for (;;) {
    const answer = await socket.emitWithAck('balance:update', reading);
    if (answer.success) {
      console.log(`saved ${answer.id} of ${answer.timestamp}${answer.duplicate ? ' (it was saved already)' : ''}`);
      return true;
    }
    if (REFUSED.includes(answer.code)) stop(answer.code, answer.error); // the reading stays in the journal
    console.log(`error ${answer.code}: ${answer.error}`);
    // Only a temporary error has `retryAfter`, in seconds: the same reading, with the same id, may succeed then.
    // Any other error would be repeated: a person has to read it, and the bot goes on.
    if (answer.retryAfter === undefined) return false;
    await sleep(answer.retryAfter * 1000);
  }
}

// Ends the program: the server would refuse everything again. What was not answered is sent at the next start.
function stop(code, text) {
  console.error(`refused: ${code}: ${text}: set BALANCE_TOKEN to a token of a writer`);
  process.exit(1);
}

// Returns the balances of the bot. `ts` is the time at which they were read, so that a late reading is still true.
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

const POSITION = join(options.folder, 'position.json');

// The last snapshot that was handled: its `seq`, its `id`, and the epoch, which names the feed. The server sends what
// comes after it. Undefined at the first start: then the server begins with what is saved from now on.
let position = existsSync(POSITION) ? JSON.parse(readFileSync(POSITION, 'utf8')) : undefined;
let epoch;
let storing;
let resuming;

// Every snapshot that any bot saves, this one included, in the order of `seq`.
function handle(snapshot) {
  console.log(`snapshot ${JSON.stringify(snapshot)}`);
}

// The position is stored after the snapshot was handled. If the process is killed between the two, that snapshot comes
// again after the restart: none is missed. While one position is written, the next ones are not: only the newest counts.
function moveTo(next) {
  position = next;
  storing ??= storePosition();
}

async function storePosition() {
  for (let stored; stored !== position; ) {
    stored = position;
    await replaceFile(POSITION, JSON.stringify(stored));
  }
  storing = undefined;
}

// Replaces a file as a whole: whenever the process or the machine ends, the file has the old text or the new one.
async function replaceFile(path, text) {
  const file = await open(`${path}.tmp`, 'w');
  await file.writeFile(text);
  await file.sync();
  await file.close();
  await rename(`${path}.tmp`, path);
}

// Connects again, and so resumes after the position.
function resume() {
  socket.disconnect();
  resuming = setTimeout(() => socket.connect(), RESUME_MS);
}

// The library reconnects by itself: first after about a second, later every 5 seconds.
const socket = io(process.env.BALANCE_URL || 'http://127.0.0.1:3000', {
  path: '/api/socket.io',
  auth: (give) => give({ ...position, token: process.env.BALANCE_TOKEN }), // asked before each connection, so that it is the newest
  // Each reading is saved exactly once. The client sends it again until the server has answered, also after a
  // lost connection. The server saves an `id` only once, so that sending it again is safe. `retries` needs
  // `ackTimeout`: without it, this library treats every answer as a failure. The server answers within 5
  // seconds, so that no answer is on its way after 6.
  retries: Infinity,
  ackTimeout: 6_000,
});

socket.on('connected', ({ socketId, epoch: current, seq, recovered, reason, goodUntil }) => {
  console.log(`connected as ${socketId}`);
  epoch = current;
  if (recovered) {
    console.log(`resumed after seq ${position.after}`);
  } else if (position && goodUntil < position.after) {
    // The database came back without its newest rows. Other snapshots have these numbers now: they come from here on.
    console.log(`lost: seq ${goodUntil + 1} to ${position.after} are gone (${reason}): forget what they were`);
    moveTo({ after: goodUntil, epoch });
    resume();
  } else {
    if (position) console.log(`lost: cannot resume after seq ${position.after} (${reason}), only after seq ${seq}`);
    moveTo({ after: seq, epoch });
  }
});

socket.on('balance:snapshot', (snapshot) => {
  if (snapshot.seq !== position.after + 1) {
    console.log(`gap: seq ${snapshot.seq} came after ${position.after}`); // a fault of the server: it promises none
    resume();
    return;
  }
  handle(snapshot);
  moveTo({ after: snapshot.seq, epoch, id: snapshot.id });
});

socket.on('disconnect', (reason) => console.log(`disconnected: ${reason}`));
socket.on('connect_error', (error) => {
  if (REFUSED.includes(error.data?.code)) stop(error.data.code, error.message);
  console.log(`cannot connect: ${error.message}`);
  if (socket.active) return; // the library tries again
  if (error.data?.retryAfter === undefined) process.exit(1); // rejected by the server, and would be again
  resuming = setTimeout(() => socket.connect(), error.data.retryAfter * 1000);
});
socket.on('pong', (pong) => console.log(`pong ${pong.timestamp}`));

// `volatile`, because with `retries` a plain `emit` would be queued behind the readings and repeated until answered.
setInterval(() => socket.volatile.emit('ping'), PING_MS).unref();

async function main() {
  journal.found.forEach(send); // of the last run
  for (let made = 1; ; made += 1) {
    const reading = readBalances();
    journal.add(reading);
    send(reading);
    if (made >= Number(options.count)) break;
    await sleep(Number(options.interval));
  }
  await sending;
  clearTimeout(resuming);
  socket.close();
}

main();
