/**
 * The Balance Snapshot System for TypeScript: every request, reply and payload under the title of its schema, and the
 * events as socket.io-client's typed client wants them.
 *
 *     import { io, type Socket } from "socket.io-client";
 *     import type { ClientToServerEvents, ServerToClientEvents } from "./types.d.ts";
 *
 *     const socket: Socket<ServerToClientEvents, ClientToServerEvents> = io(url, { path: "/api/socket.io" });
 *
 * JavaScript reads and writes an amount as a binary float of about 16 digits. A program that needs more must parse and
 * write the JSON itself.
 *
 * Generated from the schemas and the table of events by `python -m tests.support.typescript`; not to be edited.
 */

/**
 * How much there is of one asset: 0, or from 1e-30 to 1e30, with any number of digits. Every digit is kept: read it with a decimal type where that matters.
 */
export type Amount = number;

/**
 * The name of an asset: 1 to 64 of the letters A to Z and a to z, the digits, and . _ : / $ -, of which the first is a letter, a digit or $. Case is kept, so USDT and usdt are two assets.
 */
export type AssetName = string;

/**
 * The payload of balance:ack and of the acknowledgement: the update is saved, and stays so.
 */
export interface BalanceAck {
  /**
   * Always true here.
   */
  success: true;
  /**
   * The id of the snapshot.
   */
  id: Uuid;
  /**
   * Its ts.
   */
  timestamp: UtcTimestamp;
  /**
   * Present if this very update was saved before: nothing was saved or broadcast again.
   */
  duplicate?: true;
}

/**
 * The payload of balance:error and of the acknowledgement: what the client sent was refused.
 */
export interface BalanceError {
  /**
   * Always false here.
   */
  success: false;
  /**
   * What is wrong, for a person: where in the payload, a colon, why. Or only why.
   */
  error: string;
  /**
   * What is wrong, for a program.
   */
  code: ErrorCode;
  /**
   * The id of the update as the client wrote it, if it could be read and had one; the acknowledgement tells it in any case.
   */
  id?: string;
  /**
   * Seconds to wait before sending the same again; only where that may help.
   */
  retryAfter?: number;
}

/**
 * The payload of balance:snapshot, sent to every client when a snapshot was saved.
 */
export type BalanceSnapshot = Snapshot;

/**
 * What a client sends to have a snapshot saved: the body of POST /api/balance/snapshot and the payload of balance:update.
 */
export interface BalanceUpdate {
  /**
   * The client's own id for this update. Sent again with the same content it is saved once; with other content it is refused. Absent or null: the server makes one.
   */
  id?: Uuid | null;
  /**
   * When this was held. Absent or null: the time of arrival.
   */
  ts?: Timestamp | null;
  /**
   * The sender's process id. Absent or null: unknown.
   */
  pid?: number | null;
  /**
   * What is held on chain.
   */
  onchain: Onchain;
  /**
   * What is held on the site.
   */
  onsite: Onsite;
}

/**
 * What a client hands over in `auth` when it connects: nothing so far, so null, nothing at all or an empty object.
 */
export type ConnectAuth = Record<string, never> | null;

/**
 * What a client hears of in connect_error when it may not connect, and when it speaks to a namespace to which it is not connected: a CONNECT_ERROR packet of Socket.IO.
 */
export interface ConnectError {
  /**
   * What is wrong, for a person; error.message in JavaScript.
   */
  message: string;
  /**
   * The same as REST would answer; error.data in JavaScript.
   */
  data: ErrorReply;
}

/**
 * The payload of connected: the first thing a client hears.
 */
export interface Connected {
  /**
   * A sentence for a person.
   */
  message: string;
  /**
   * The id of this connection.
   */
  socketId: string;
  /**
   * The server's time.
   */
  timestamp: UtcTimestamp;
  /**
   * The number of the last snapshot saved; 0 if there is none.
   */
  seq: number;
  /**
   * The name of this feed. Where it differs from one seen before, numbers seen before mean nothing.
   */
  epoch: Uuid;
}

/**
 * One schema in the index of the contract.
 */
export interface ContractEntry {
  /**
   * Its name.
   */
  name: string;
  /**
   * What it is for.
   */
  description: string;
  /**
   * Its address.
   */
  url: string;
}

/**
 * The addresses of all that the contract consists of.
 */
export interface ContractIndex {
  /**
   * The version of the contract: within it nothing changes that breaks a client.
   */
  version: string;
  /**
   * A page to read and try everything, with how to check payloads in your language.
   */
  docs: string;
  /**
   * Every schema in one file.
   */
  bundle: string;
  /**
   * Every payload and event as TypeScript declarations, for socket.io-client.
   */
  types: string;
  /**
   * REST as OpenAPI 3.1.
   */
  openapi: string;
  /**
   * Socket.IO as AsyncAPI 3.0.
   */
  asyncapi: string;
  /**
   * Every schema by itself.
   */
  schemas: ContractEntry[];
}

/**
 * The index of the contract: where everything is that a client team takes away. Addresses are relative to the index's own.
 */
export interface ContractReply {
  /**
   * Always true here.
   */
  success: true;
  /**
   * The addresses.
   */
  data: ContractIndex;
}

/**
 * Where a page of the list ended: microseconds since the year 1, or 0 in the order of seq; an underscore; a seq. Hand back what `next` gave; do not build one.
 */
export type Cursor = string;

/**
 * The request headers that matter where a document of the contract is asked for.
 */
export interface DocumentHeaders {
  /**
   * The ETag of the version at hand: it is not sent again while it is the same.
   */
  "If-None-Match"?: string;
}

/**
 * What went wrong, for a program: the list is closed.
 */
export type ErrorCode =
  | "malformed_json"
  | "invalid_payload"
  | "conflict"
  | "unauthorized"
  | "forbidden"
  | "not_found"
  | "method_not_allowed"
  | "payload_too_large"
  | "unsupported_media_type"
  | "misdirected_request"
  | "request_timeout"
  | "headers_too_large"
  | "rate_limited"
  | "busy"
  | "unavailable"
  | "internal_error";

/**
 * The body of every refusal on REST.
 */
export interface ErrorReply {
  /**
   * Always false here.
   */
  success: false;
  /**
   * What is wrong, for a person: where in the payload, a colon, why. Or only why.
   */
  error: string;
  /**
   * What is wrong, for a program.
   */
  code: ErrorCode;
}

/**
 * The path of GET /api/balance/snapshot/{id}.
 */
export interface GetPath {
  /**
   * The id of the snapshot.
   */
  id: Uuid;
}

/**
 * The answer to GET /api/balance/snapshot/{id}.
 */
export interface GetReply {
  /**
   * Always true here.
   */
  success: true;
  /**
   * The snapshot.
   */
  data: Snapshot;
}

/**
 * The order of a list: ts is the newest moment first, as the senders' clocks have it; seq is the last saved first.
 */
export type ListOrder = "ts" | "seq";

/**
 * The position of one page in a list of snapshots.
 */
export interface ListPagination {
  /**
   * The limit asked for.
   */
  limit: number;
  /**
   * The offset asked for.
   */
  offset: number;
  /**
   * How many snapshots there are; null if only some were asked for (from, to, pid).
   */
  total: number | null;
  /**
   * Whether there are more behind this page.
   */
  hasMore: boolean;
  /**
   * The cursor of the next page; null on the last.
   */
  next: Cursor | null;
}

/**
 * The query of GET /api/balance/snapshot, numbers as numbers.
 */
export interface ListQuery {
  /**
   * How many snapshots to return at most.
   */
  limit?: number;
  /**
   * How many snapshots to skip, from the start or from the cursor. Slow when large: use cursor.
   */
  offset?: number;
  /**
   * The `next` of the page before: go on behind it, in the order of that page.
   */
  cursor?: Cursor;
  /**
   * ts: newest moment first, as the senders' clocks have it. seq: last saved first, whatever ts says; from, to and pid are then looked for in that order, which is slow if the last of them was saved long ago. With a cursor the order is that of its page.
   */
  order?: ListOrder;
  /**
   * Only snapshots of this moment or later.
   */
  from?: Timestamp;
  /**
   * Only snapshots from before this moment.
   */
  to?: Timestamp;
  /**
   * Only snapshots of this process id.
   */
  pid?: number;
}

/**
 * The answer to GET /api/balance/snapshot: a page of snapshots, newest ts first.
 */
export interface ListReply {
  /**
   * Always true here.
   */
  success: true;
  /**
   * The snapshots of this page.
   */
  data: Snapshot[];
  /**
   * Where this page stands.
   */
  pagination: ListPagination;
}

/**
 * What is held on chain: an amount for each asset. rlb and usdt always; others may stand beside them, 64 in all.
 */
export interface Onchain {
  /**
   * RLB held on chain.
   */
  rlb: Amount;
  /**
   * USDT held on chain.
   */
  usdt: Amount;
  [k: string]: Amount;
}

/**
 * What is held on the site: an amount for each asset. rlb and usd always; others may stand beside them, 64 in all.
 */
export interface Onsite {
  /**
   * RLB held on the site.
   */
  rlb: Amount;
  /**
   * USD held on the site.
   */
  usd: Amount;
  [k: string]: Amount;
}

/**
 * The payload of ping, to which pong is the answer: none is needed, and what is sent is ignored, as long as it is JSON and no larger than an update may be.
 */
export type Ping = unknown;

/**
 * The payload of pong, the answer to ping.
 */
export interface Pong {
  /**
   * The server's time.
   */
  timestamp: UtcTimestamp;
}

/**
 * The answer to POST /api/balance/snapshot: 201 when saved, 200 when it had been saved before.
 */
export interface SaveReply {
  /**
   * Always true here.
   */
  success: true;
  /**
   * A sentence for a person.
   */
  message: string;
  /**
   * What was saved.
   */
  data: SavedSnapshot;
  /**
   * Present if this very update was saved before: nothing was saved or broadcast again.
   */
  duplicate?: true;
}

/**
 * What POST /api/balance/snapshot returns of the snapshot that it saved.
 */
export interface SavedSnapshot {
  /**
   * The id of the snapshot.
   */
  id: Uuid;
  /**
   * Its ts.
   */
  timestamp: UtcTimestamp;
  /**
   * What is held on chain.
   */
  onchain: Onchain;
  /**
   * What is held on the site.
   */
  onsite: Onsite;
}

/**
 * The path of GET /api/protocol/v1/{name}.json.
 */
export interface SchemaPath {
  /**
   * The name of a schema as the index lists it, or bundle for all of them in one file.
   */
  name: string;
}

/**
 * One saved snapshot. It reads the same in a list, in a reply and in balance:snapshot.
 */
export interface Snapshot {
  /**
   * Its id: the client's own, or one the server made.
   */
  id: Uuid;
  /**
   * Its number in the order of saving: 1, 2, 3 and so on, without a gap.
   */
  seq: number;
  /**
   * When this was held.
   */
  ts: UtcTimestamp;
  /**
   * The sender's process id; null if it gave none.
   */
  pid: number | null;
  /**
   * What is held on chain.
   */
  onchain: Onchain;
  /**
   * What is held on the site.
   */
  onsite: Onsite;
}

/**
 * A moment as a client writes it: date, time and zone (RFC 3339), years 1000 to 2999, at most nine fraction digits, of which six are kept. No leap second.
 */
export type Timestamp = string;

/**
 * A moment as the server writes it: UTC with Z, three fraction digits, six only where it has them.
 */
export type UtcTimestamp = string;

/**
 * A UUID of any version, written 8-4-4-4-12 (RFC 9562). The server sends lower case and takes both.
 */
export type Uuid = string;

/**
 * What a client may send, for one that wants every answer: here the callback must be given, and so `emitWithAck`
 * promises the reply by its type. A socket may be seen as either:
 *
 *     const acknowledged: Socket<ServerToClientEvents, AcknowledgedEvents> = socket;
 *     const reply = await acknowledged.emitWithAck("balance:update", update);
 *
 * `timeout(…).emitWithAck` promises any with whatever types, so give the reply its type there:
 *
 *     const reply: BalanceAck | BalanceError = await socket.timeout(6000).emitWithAck("balance:update", update);
 */
export interface AcknowledgedEvents {
  "balance:update": (payload: BalanceUpdate, ack: (reply: BalanceAck | BalanceError) => void) => void;
  "ping": (ack: (reply: Pong | BalanceError) => void) => void;
}

/**
 * What a client may send, with a callback for the answer or without; the answer also comes as an event.
 *
 * Because the callback may be left out, `emitWithAck` promises any; see AcknowledgedEvents. Where the option ackTimeout
 * is set, socket.io-client hands a callback an error first, as after `timeout(…)`, but its types do not say so: there,
 * use `emitWithAck` or `timeout(…)`.
 */
export interface ClientToServerEvents {
  "balance:update": (
    ...args:
      | [payload: BalanceUpdate]
      | [payload: BalanceUpdate, ack: (reply: BalanceAck | BalanceError) => void]
  ) => void;
  "ping": (
    ...args:
      | []
      | [ack: (reply: Pong | BalanceError) => void]
  ) => void;
}

/**
 * What a client may listen to, beside socket.io's own events. Of these, connect_error has a ConnectError if it was the
 * server that refused, and else an error of the network.
 */
export interface ServerToClientEvents {
  "connected": (payload: Connected) => void;
  "balance:snapshot": (payload: BalanceSnapshot) => void;
  "balance:ack": (payload: BalanceAck) => void;
  "balance:error": (payload: BalanceError) => void;
  "pong": (payload: Pong) => void;
}
