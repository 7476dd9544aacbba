// The Node server that docs/spec.md describes, written as its author would: Express for REST, socket.io for events, one
// INSERT for each update, the answer after it. Usage: DATABASE_URL=… node server.js; prints `listening on URL`.
const { createServer } = require('node:http');
const { randomUUID } = require('node:crypto');
const express = require('express');
const { Pool } = require('pg');
const { Server } = require('socket.io');

const pool = new Pool({ connectionString: process.env.DATABASE_URL, max: 10 });
const app = express();
const server = createServer(app);
const io = new Server(server, { path: '/api/socket.io', perMessageDeflate: false });

const LEDGERS = { onchain: ['rlb', 'usdt'], onsite: ['rlb', 'usd'] };

function check(update) {
  if (typeof update !== 'object' || update === null) throw new Error('payload must be an object');
  for (const [ledger, assets] of Object.entries(LEDGERS)) {
    for (const asset of assets) {
      const amount = update[ledger]?.[asset];
      if (!Number.isFinite(amount) || amount < 0) throw new Error(`${ledger}.${asset} must be a non-negative number`);
    }
  }
}

async function save(update) {
  check(update);
  const snapshot = {
    id: randomUUID(),
    ts: new Date(update.ts ?? Date.now()).toISOString(),
    pid: update.pid ?? null,
    onchain: update.onchain,
    onsite: update.onsite,
  };
  await pool.query({
    name: 'save',
    text: 'INSERT INTO peer_snapshot (id, ts, pid, onchain, onsite) VALUES ($1, $2, $3, $4, $5)',
    values: [snapshot.id, snapshot.ts, snapshot.pid, snapshot.onchain, snapshot.onsite],
  });
  return snapshot;
}

app.use(express.json());
app.post('/api/balance/snapshot', async (request, response) => {
  try {
    const { id, ts, onchain, onsite } = await saveAndShow(request.body);
    const data = { id, timestamp: ts, onchain, onsite };
    response.status(201).json({ success: true, message: 'Balance snapshot saved successfully', data });
  } catch (error) {
    response.status(400).json({ success: false, error: error.message });
  }
});
app.get('/api/balance/snapshot', async (request, response) => {
  const { limit = 100, offset = 0 } = request.query;
  const { rows } = await pool.query({
    name: 'list',
    text: 'SELECT id, ts, pid, onchain, onsite FROM peer_snapshot ORDER BY ts DESC LIMIT $1 OFFSET $2',
    values: [limit, offset],
  });
  response.json({ success: true, data: rows });
});

async function saveAndShow(update) {
  const snapshot = await save(update);
  io.emit('balance:snapshot', snapshot);
  return snapshot;
}

io.on('connection', (socket) => {
  const timestamp = () => new Date().toISOString();
  socket.emit('connected', {
    message: 'Connected to balance snapshot server',
    socketId: socket.id,
    timestamp: timestamp(),
  });
  socket.on('balance:update', async (update) => {
    try {
      const { id, ts } = await saveAndShow(update);
      socket.emit('balance:ack', { success: true, id, timestamp: ts });
    } catch (error) {
      socket.emit('balance:error', { success: false, error: error.message });
    }
  });
  socket.on('ping', () => socket.emit('pong', { timestamp: timestamp() }));
});

async function main() {
  await pool.query(`CREATE TABLE IF NOT EXISTS peer_snapshot (
    id uuid PRIMARY KEY, ts timestamptz NOT NULL, pid bigint, onchain jsonb NOT NULL, onsite jsonb NOT NULL)`);
  await pool.query('CREATE INDEX IF NOT EXISTS peer_snapshot_ts ON peer_snapshot (ts DESC)');
  server.listen(0, '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
}

main();
