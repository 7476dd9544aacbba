// A client that uses everything in protocol/types.d.ts as client teams do. It is compiled and never run:
// tests/contract/test_typescript.py checks that it passes, and that it no longer does after one edit of one line.
import { io, type Socket } from 'socket.io-client';
import type {
  AcknowledgedEvents,
  BalanceAck,
  BalanceError,
  BalanceUpdate,
  ClientToServerEvents,
  ConnectAuth,
  ConnectError,
  ErrorCode,
  ErrorReply,
  FeedQuery,
  FeedReply,
  GetReply,
  LatestReply,
  ListQuery,
  ListReply,
  Pong,
  SaveReply,
  ServerToClientEvents,
  Snapshot,
  StreamEvents,
} from '../../protocol/types.d.ts';

type Reply = BalanceAck | BalanceError;
type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;

const URL_OF_SERVER = 'http://127.0.0.1:3000';
const SNAPSHOTS = `${URL_OF_SERVER}/api/balance/snapshot`;
const auth = {} satisfies ConnectAuth;

const socket: Socket<ServerToClientEvents, ClientToServerEvents> = io(URL_OF_SERVER, { path: '/api/socket.io' });

const update: BalanceUpdate = {
  id: '019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51',
  ts: new Date().toISOString(),
  pid: 1132978,
  onchain: { rlb: 100074.99978, usdt: 7656.36, 'other.asset': 0.5 },
  onsite: { rlb: 101132.407627, usd: 7646.96 },
};
const smallest: BalanceUpdate = { id: null, ts: null, pid: null, onchain: { rlb: 0, usdt: 0 }, onsite: { rlb: 0, usd: 0 } };

function report(reply: Reply): string {
  if (reply.success) {
    return `${reply.id} of ${reply.timestamp}${reply.duplicate ? ' (again)' : ''}`;
  }
  return `${reply.code}: ${reply.error}, ${reply.id ?? 'no id'}, ${reply.retryAfter ?? 'never'}`;
}

const temporary: ErrorCode[] = ['busy', 'unavailable', 'rate_limited'];

export function events(): void {
  socket.on('connected', (greeting) => console.log(greeting.message, greeting.socketId, greeting.seq, greeting.epoch));
  socket.on('balance:snapshot', (snapshot) => {
    const seq: number = snapshot.seq;
    const pid: number | null = snapshot.pid;
    console.log(snapshot.id, seq, snapshot.ts, pid, snapshot.onchain.rlb + snapshot.onsite.usd);
  });
  socket.on('balance:ack', (ack) => console.log(ack.id, ack.timestamp));
  socket.on('balance:error', (error) => console.log(error.code, temporary.includes(error.code)));
  socket.once('pong', (pong) => console.log(pong.timestamp));
  socket.on('connect_error', (error) => {
    const refused: Partial<ConnectError> = error;
    console.log(error.message, refused.data?.code);
  });
}

const reportPong = (reply: Pong | BalanceError): string => ('timestamp' in reply ? reply.timestamp : reply.error);

export function emits(): void {
  socket.emit('balance:update', update);
  socket.emit('balance:update', smallest, (reply) => console.log(report(reply)));
  socket.emit('balance:update', { onchain: { rlb: 1, usdt: 2 }, onsite: { rlb: 3, usd: 4 } });
  socket.timeout(1000).emit('balance:update', update);
  socket.timeout(1000).emit('balance:update', update, (error, reply) => console.log(error ?? report(reply)));
  socket.volatile.emit('balance:update', update);
  socket.emit('ping');
  socket.emit('ping', (pong) => console.log(reportPong(pong)));
  socket.timeout(1000).emit('ping', (error, pong) => console.log(error ?? reportPong(pong)));
  socket.volatile.emit('ping');
}

export async function emitsWithAck(): Promise<void> {
  const reply: Reply = await socket.emitWithAck('balance:update', update);
  const inTime: Reply = await socket.timeout(1000).emitWithAck('balance:update', update);
  console.log(report(reply), report(inTime), await socket.emitWithAck('ping'));
}

export async function acknowledged(): Promise<void> {
  const retrying: Socket<ServerToClientEvents, AcknowledgedEvents> = io(URL_OF_SERVER, {
    path: '/api/socket.io',
    auth,
    retries: Infinity,
    ackTimeout: 6000,
  });
  const reply = await retrying.emitWithAck('balance:update', update);
  const known: Equal<typeof reply, Reply> = true;
  console.log(known, reply.success ? reply.timestamp : reply.error);
  const pong = await retrying.emitWithAck('ping');
  const knownToo: Equal<typeof pong, Pong | BalanceError> = true;
  console.log(knownToo, reportPong(pong));
  const same: Socket<ServerToClientEvents, AcknowledgedEvents> = socket;
  same.timeout(1000).emit('balance:update', update, (error, late) => console.log(error ?? report(late)));
  const andBack: Socket<ServerToClientEvents, ClientToServerEvents> = retrying;
  andBack.volatile.emit('ping');
}

export function resumes(last: number, epoch: string): void {
  io(URL_OF_SERVER, { path: '/api/socket.io', auth: { recovery: true } satisfies ConnectAuth });
  const position: ConnectAuth = { after: last, epoch };
  const resuming: typeof socket = io(URL_OF_SERVER, { path: '/api/socket.io', auth: (send) => send(position ?? {}) });
  resuming.on('connected', (greeting, offset) => {
    const lost = greeting.reason === 'diverged' ? last - (greeting.goodUntil ?? 0) : 0;
    console.log(greeting.recovered, greeting.durability, lost, offset?.length);
  });
  resuming.on('balance:snapshot', (snapshot, offset) => console.log(snapshot.seq, offset));
}

export async function feed(): Promise<void> {
  const query: FeedQuery = { after: 'now', wait: 25 };
  const search = new URLSearchParams(Object.entries(query).map(([name, value]) => [name, String(value)]));
  const part: FeedReply | ErrorReply = await (await fetch(`${URL_OF_SERVER}/api/balance/feed?${search}`)).json();
  console.log(!part.success ? part.goodUntil : part.feed.last < part.feed.head);
  const latest: LatestReply | ErrorReply = await (await fetch(`${URL_OF_SERVER}/api/balance/latest`)).json();
  if (latest.success) console.log(latest.data.newest?.seq, latest.data.pids.length, latest.feed.epoch);
  const stream = new EventSource(`${URL_OF_SERVER}/api/balance/stream`);
  stream.addEventListener('balance:snapshot', (event) => {
    const snapshot: StreamEvents['balance:snapshot'] = JSON.parse(event.data);
    console.log(snapshot.seq, event.lastEventId);
  });
  stream.addEventListener('bye', (event) => console.log((JSON.parse(event.data) as StreamEvents['bye']).reason));
}

export async function rest(): Promise<Snapshot[]> {
  const body = JSON.stringify(update satisfies BalanceUpdate);
  const headers = { 'Content-Type': 'application/json' };
  const response = await fetch(SNAPSHOTS, { method: 'POST', headers, body });
  const saved: SaveReply | ErrorReply = await response.json();
  if (!saved.success) throw new Error(`${saved.code}: ${saved.error}`);
  console.log(saved.message, saved.data.id, saved.data.timestamp, saved.data.onchain.rlb, saved.duplicate === true);

  const got: GetReply | ErrorReply = await (await fetch(`${SNAPSHOTS}/${saved.data.id}`)).json();
  const found: Snapshot[] = got.success ? [got.data] : [];

  const query: ListQuery = { limit: 10, from: '2025-11-07T00:00:00Z', pid: 1132978 };
  const search = new URLSearchParams(Object.entries(query).map(([name, value]) => [name, String(value)]));
  const list: ListReply | ErrorReply = await (await fetch(`${SNAPSHOTS}?${search}`)).json();
  if (!list.success) return found;
  const next: string | null = list.pagination.next;
  console.log(next, list.pagination.total ?? 'not counted', list.pagination.hasMore);
  return [...found, ...list.data];
}
