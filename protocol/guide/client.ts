// npm init -y && npm pkg set type=module && npm install socket.io-client typescript
// curl -O http://127.0.0.1:3000/api/protocol/v1/types.d.ts
// npx tsc --strict --module nodenext --target es2022 --skipLibCheck client.ts && node client.js
import { io, type Socket } from 'socket.io-client';
import type { BalanceAck, BalanceError, ClientToServerEvents, ServerToClientEvents } from './types.d.ts';

const options = { path: '/api/socket.io', auth: { recovery: true } }; // misses nothing when it connects again
const socket: Socket<ServerToClientEvents, ClientToServerEvents> = io('http://127.0.0.1:3000', options);
socket.on('balance:snapshot', (snapshot) => console.log(snapshot.seq, snapshot.onchain.rlb));

const update = { onchain: { rlb: 100074.99978, usdt: 7656.36 }, onsite: { rlb: 101132.407627, usd: 7646.96 } };
const reply: BalanceAck | BalanceError = await socket.emitWithAck('balance:update', update);
console.log(reply.success ? `saved as ${reply.id}` : `refused: ${reply.error}`);
