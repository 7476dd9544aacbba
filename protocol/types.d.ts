/**
 * The Balance Snapshot System for TypeScript: every request, reply and payload under the title of its schema, and the
 * events as the typed client of socket.io-client expects them.
 *
 *     import { io, type Socket } from "socket.io-client";
 *     import type { ClientToServerEvents, ServerToClientEvents } from "./types.d.ts";
 *
 *     const socket: Socket<ServerToClientEvents, ClientToServerEvents> = io(url, { path: "/api/socket.io" });
 *
 * JavaScript reads and writes an amount as a binary float of about 16 digits. A program that needs more must parse and
 * write the JSON itself.
 *
 * Generated from the schemas and the table of events by `python -m tests.support.typescript`; do not edit.
 */

/**
 * The amount of one asset: 0, or from 1e-30 to 1e30, with any number of digits. The server keeps every digit. A client that needs all of them must use a decimal type.
 */
export type Amount = number;

/**
 * The name of an asset: 1 to 64 characters out of A-Z, a-z, 0-9 and . _ : / $ -, of which the first is a letter, a digit or $. Names are case-sensitive: USDT and usdt are two assets.
 */
export type AssetName = string;

/**
 * The payload of balance:ack, and of the acknowledgement of an update that was saved.
 */
export interface BalanceAck {
  /**
   * Always true.
   */
  success: true;
  /**
   * The id of the snapshot.
   */
  id: Uuid;
  /**
   * The ts of the snapshot.
   */
  timestamp: UtcTimestamp;
  /**
   * Present if the same update was saved before. Nothing was saved or broadcast again.
   */
  duplicate?: true;
}

/**
 * The payload of balance:error, and of the acknowledgement of an event that was rejected.
 */
export interface BalanceError {
  /**
   * Always false.
   */
  success: false;
  /**
   * The error, for a person: the path of the field, a colon and the reason, or the reason alone.
   */
  error: string;
  /**
   * The error, for a program.
   */
  code: ErrorCode;
  /**
   * The id of the update, as the client sent it. Absent if the update has no id or cannot be read; an acknowledgement callback belongs to its update in any case.
   */
  id?: string;
  /**
   * Seconds to wait before sending the same again. Present only if that may succeed.
   */
  retryAfter?: number;
}

/**
 * The payload of balance:snapshot, which is sent to every client when a snapshot has been saved. A client that asked for recovery gets its position (RecoveryOffset) as a second argument.
 */
export type BalanceSnapshot = Snapshot;

/**
 * An update, which the server saves as a snapshot: the body of POST /api/balance/snapshot and the payload of balance:update.
 */
export interface BalanceUpdate {
  /**
   * The client's own id of the update. An update that is sent again with the same content is saved once; with other content it is rejected. If absent or null, the server generates an id.
   */
  id?: Uuid | null;
  /**
   * The time of the balances. If absent or null, the time of arrival is used.
   */
  ts?: Timestamp | null;
  /**
   * The process id of the sender. If absent or null, it is unknown.
   */
  pid?: number | null;
  /**
   * The balances on chain.
   */
  onchain: Onchain;
  /**
   * The balances on the site.
   */
  onsite: Onsite;
}

/**
 * Why the server ends a stream. busy: too many clients, or a limit of this client is reached. stopping: the server stops. expired: the stream has lasted long enough. unavailable: the database cannot be reached. reset: the feed has another epoch. unauthorized: the token was revoked or has expired.
 */
export type ByeReason = "busy" | "stopping" | "expired" | "unavailable" | "reset" | "unauthorized";

/**
 * The option `auth` of a client that connects: its token, if the server needs one, and the position in the feed after which it wants to go on. Without a position it receives what is saved from now on. `epoch` is required with an `after` of 1 or more.
 */
export type ConnectAuth = {
  /**
   * A token of the server, or a JWT of an identity provider that it trusts. It counts before the header Authorization of the handshake.
   */
  token?: string;
  /**
   * The seq of the last snapshot that the client has seen.
   */
  after?: number;
  /**
   * The epoch of `after`. It may be absent only with 0, the beginning of every feed.
   */
  epoch?: Uuid;
  /**
   * The id of the snapshot `after`. With it, a feed that was restored to another history is recognised.
   */
  id?: Uuid;
  /**
   * Whether connected and balance:snapshot have a last argument, by which socket.io-client 4.6 or newer resumes by itself.
   */
  recovery?: boolean;
  /**
   * Set by socket.io-client when it connects again: the pid of the answer to its first CONNECT. One of another server is a position of another feed.
   */
  pid?: string;
  /**
   * Set by socket.io-client when it connects again: the last argument (RecoveryOffset) of the last event that had one. It counts before `after`.
   */
  offset?: string;
} | null;

/**
 * The payload of connect_error, the CONNECT_ERROR packet of Socket.IO. It is sent to a client that may not connect, and to one that uses a namespace to which it is not connected.
 */
export interface ConnectError {
  /**
   * The error, for a person. In JavaScript it is error.message.
   */
  message: string;
  /**
   * The error as REST would send it. In JavaScript it is error.data.
   */
  data: ErrorReply;
}

/**
 * The payload of connected, the first event that a client receives. A client that asked for recovery gets its position (RecoveryOffset) as a second argument.
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
   * The time of the server.
   */
  timestamp: UtcTimestamp;
  /**
   * The seq of the last saved snapshot; 0 if there is none. A client that has seen it is up to date.
   */
  seq: number;
  /**
   * The name of the feed. A seq is comparable only with those of the same epoch.
   */
  epoch: Uuid;
  /**
   * What it means here that a snapshot is saved.
   */
  durability: Durability;
  /**
   * Whether every snapshot after the position of the client follows.
   */
  recovered: boolean;
  /**
   * Why the position of the client is not good. Absent if it is good, and if the client has sent none.
   */
  reason?: PositionReason;
  /**
   * The seq up to which what the client has seen is also in this feed. Absent if it is unknown, and if the position is good.
   */
  goodUntil?: number;
}

/**
 * One schema in the index of the contract.
 */
export interface ContractEntry {
  /**
   * The name of the schema.
   */
  name: string;
  /**
   * What the schema describes.
   */
  description: string;
  /**
   * The address of the schema.
   */
  url: string;
}

/**
 * The addresses of the documents of the contract.
 */
export interface ContractIndex {
  /**
   * The version of the contract. No change within a version breaks a client.
   */
  version: string;
  /**
   * A page to read and try the contract, with programs that validate payloads in several languages.
   */
  docs: string;
  /**
   * All schemas in one file.
   */
  bundle: string;
  /**
   * TypeScript declarations of every payload and event, for socket.io-client.
   */
  types: string;
  /**
   * The OpenAPI 3.1 document of REST.
   */
  openapi: string;
  /**
   * The AsyncAPI 3.0 document of Socket.IO.
   */
  asyncapi: string;
  /**
   * Each schema in a file of its own.
   */
  schemas: ContractEntry[];
}

/**
 * The index of the contract: the addresses of its documents, relative to the address of the index.
 */
export interface ContractReply {
  /**
   * Always true.
   */
  success: true;
  /**
   * The addresses.
   */
  data: ContractIndex;
}

/**
 * The position at which a page of a list ends: microseconds since the year 1, or 0 in a list by seq; an underscore; a seq. Send the `next` of an earlier page, and do not build a cursor.
 */
export type Cursor = string;

/**
 * The request headers that matter for a document of the contract.
 */
export interface DocumentHeaders {
  /**
   * The ETag of the version that the client has. The document is sent only if it has changed.
   */
  "If-None-Match"?: string;
}

/**
 * What it means that a snapshot is saved. local: it is on the disk of the database. replicated: it is on the disk of a standby too.
 */
export type Durability = "local" | "replicated";

/**
 * The kind of error, for a program. The list is closed.
 */
export type ErrorCode =
  | "malformed_json"
  | "invalid_payload"
  | "conflict"
  | "position_unknown"
  | "position_pruned"
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
 * The body of every error response on REST.
 */
export interface ErrorReply {
  /**
   * Always false.
   */
  success: false;
  /**
   * The error, for a person: the path of the field, a colon and the reason, or the reason alone.
   */
  error: string;
  /**
   * The error, for a program.
   */
  code: ErrorCode;
  /**
   * With position_unknown: why the position is not good.
   */
  reason?: PositionReason;
  /**
   * With position_unknown: the epoch of the feed.
   */
  epoch?: Uuid;
  /**
   * With position_unknown: the seq of the last saved snapshot.
   */
  head?: number;
  /**
   * With position_unknown: the seq up to which what the client has seen is also in this feed. Absent if it is unknown.
   */
  goodUntil?: number;
  /**
   * With position_pruned: the seq of the first snapshot that is kept.
   */
  first?: number;
  /**
   * In connect_error only, of a temporary error: the seconds to wait. REST has the header Retry-After.
   */
  retryAfter?: number;
  /**
   * With unavailable, of an import: what was done before. To send all of it again is safe.
   */
  data?: ImportResult;
  /**
   * With unavailable, of /livez and /readyz: everything that is wrong.
   */
  reasons?: HealthProblem[];
}

/**
 * How amounts are written in CSV. number: as they are. text: as ="1.5", which a spreadsheet shows as text with all digits, where it would round a number to 15.
 */
export type ExportDigits = "number" | "text";

/**
 * The format of an export. ndjson: one snapshot as JSON in each line. csv: a table with a column for each required asset and each `asset`.
 */
export type ExportFormat = "ndjson" | "csv";

/**
 * The query of GET /api/balance/export, with numbers as JSON numbers. `asset` and `digits` are for CSV.
 */
export interface ExportQuery {
  /**
   * The format.
   */
  format?: ExportFormat;
  /**
   * Only snapshots with this ts or a later one.
   */
  from?: Timestamp;
  /**
   * Only snapshots with an earlier ts.
   */
  to?: Timestamp;
  /**
   * Only snapshots with one of these process ids; the parameter may be repeated.
   *
   * @maxItems 100
   */
  pid?: number[];
  /**
   * An asset with a column of its own in CSV; the parameter may be repeated. The others are in the column `further`, as JSON.
   *
   * @maxItems 64
   */
  asset?: LedgerAsset[];
  /**
   * How amounts are written in CSV.
   */
  digits?: ExportDigits;
}

/**
 * The seq of the last snapshot that the client has seen; 0 for the beginning of the feed; now for its end.
 */
export type FeedAfter = number | "now";

/**
 * The end of the feed at the moment of a response: a position from which a client can go on.
 */
export interface FeedHead {
  /**
   * The epoch of the feed.
   */
  epoch: Uuid;
  /**
   * The seq of the last saved snapshot; 0 if there is none.
   */
  head: number;
}

/**
 * The query of GET /api/balance/feed, with numbers as JSON numbers. `epoch` is required with an `after` of 1 or more.
 */
export interface FeedQuery {
  /**
   * Only snapshots with a larger seq, oldest first. now returns those saved from now on.
   */
  after?: FeedAfter;
  /**
   * The epoch of `after`. It may be absent only with 0 and now.
   */
  epoch?: Uuid;
  /**
   * The id of the snapshot `after`. With it, a feed that was restored to another history is recognised.
   */
  id?: Uuid;
  /**
   * The largest number of snapshots to return.
   */
  limit?: number;
  /**
   * If there are none yet: the seconds to wait for one before an empty list is returned.
   */
  wait?: number;
}

/**
 * The response to GET /api/balance/feed: the snapshots after a position, oldest first and without a gap.
 */
export interface FeedReply {
  /**
   * Always true.
   */
  success: true;
  /**
   * The snapshots, each with the seq of the one before it plus 1.
   */
  data: Snapshot[];
  /**
   * The part of the feed that they are.
   */
  feed: FeedSlice;
}

/**
 * The part of the feed that a response holds.
 */
export interface FeedSlice {
  /**
   * The epoch of the numbers. Send it with the next request.
   */
  epoch: Uuid;
  /**
   * The position at which the part begins: the `after` of the request, or the seq that now meant.
   */
  after: number;
  /**
   * The seq of the last snapshot of the part; `after` if it is empty. Send it as the next `after`.
   */
  last: number;
  /**
   * The seq of the last saved snapshot. More follow while `last` is smaller.
   */
  head: number;
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
 * The response to GET /api/balance/snapshot/{id}.
 */
export interface GetReply {
  /**
   * Always true.
   */
  success: true;
  /**
   * The snapshot.
   */
  data: Snapshot;
}

/**
 * Why a server is not live or not ready.
 */
export interface HealthProblem {
  /**
   * What was checked: database, migrations, writer, standby or stopping. Others may be added.
   */
  check: string;
  /**
   * What is wrong, for a person.
   */
  reason: string;
}

/**
 * The response to GET /livez, /readyz and /healthz of a server that is live or ready.
 */
export interface HealthReply {
  /**
   * Always true.
   */
  success: true;
  /**
   * The state of the server.
   */
  data: HealthState;
}

/**
 * The state of a server.
 */
export interface HealthState {
  /**
   * live for /livez, ready for /readyz and /healthz.
   */
  status: string;
}

/**
 * One line of the body of POST /api/balance/import: a snapshot as an export has it. It is saved as an update with this id.
 */
export interface ImportLine {
  /**
   * The id. A line whose id is saved already, with the same content, is a duplicate; with other content it is refused.
   */
  id: Uuid;
  /**
   * Ignored: a snapshot gets its seq when it is saved.
   */
  seq?: number | null;
  /**
   * The time of the balances.
   */
  ts: Timestamp;
  /**
   * The process id of the sender. If absent or null, it is unknown.
   */
  pid?: number | null;
  /**
   * The balances on chain.
   */
  onchain: Onchain;
  /**
   * The balances on the site.
   */
  onsite: Onsite;
}

/**
 * A line of an import that was refused.
 */
export interface ImportRefusal {
  /**
   * The number of the line, from 1; empty lines are counted.
   */
  line: number;
  /**
   * The error, for a program.
   */
  code: ErrorCode;
  /**
   * The error, for a person.
   */
  error: string;
}

/**
 * The body of the response to POST /api/balance/import.
 */
export interface ImportReply {
  /**
   * Always true: the whole body was read. Refused lines are counted in `data`.
   */
  success: true;
  /**
   * What was done.
   */
  data: ImportResult;
}

/**
 * What an import has done: saved, duplicates and refused together are its lines.
 */
export interface ImportResult {
  /**
   * The lines that were read, without empty ones.
   */
  lines: number;
  /**
   * The lines that were saved.
   */
  saved: number;
  /**
   * The lines that were saved before.
   */
  duplicates: number;
  /**
   * The lines that were not saved.
   */
  refused: number;
  /**
   * The first refused lines, at most 20.
   *
   * @maxItems 20
   */
  errors: ImportRefusal[];
}

/**
 * A range of successive instants, by their indices in `times`.
 */
export interface InstantRange {
  /**
   * The index of the first instant.
   */
  first: number;
  /**
   * The index of the last instant, which belongs to the range.
   */
  last: number;
}

/**
 * The newest snapshot of the feed, and the newest one of each process id.
 */
export interface Latest {
  /**
   * The snapshot with the largest seq; null if there is none.
   */
  newest: Snapshot | null;
  /**
   * The last snapshot of each process id, the last saved first. Snapshots without a pid are not among them.
   */
  pids: Snapshot[];
}

/**
 * The query of GET /api/balance/latest, with numbers as JSON numbers.
 */
export interface LatestQuery {
  /**
   * The largest number of process ids to return.
   */
  limit?: number;
  /**
   * Only process ids of which the last snapshot arrived within this number of seconds.
   */
  heard_s?: number;
}

/**
 * The response to GET /api/balance/latest: the state of all senders, and the position in the feed that it belongs to.
 */
export interface LatestReply {
  /**
   * Always true.
   */
  success: true;
  /**
   * The newest snapshots.
   */
  data: Latest;
  /**
   * The position in the feed. Every change after it is in the feed, the stream and Socket.IO.
   */
  feed: FeedHead;
}

/**
 * A ledger and one of its assets, with a dot between them.
 */
export type LedgerAsset = string;

/**
 * A process id that a sum leaves out at some instants, because its last snapshot is older than `stale_s`.
 */
export interface LeftOut {
  /**
   * The process id.
   */
  pid: number;
  /**
   * The instants at which it is not in the sum. Those before its first snapshot are not among them.
   */
  gaps: InstantRange[];
}

/**
 * The order of a list. ts: newest ts first, by the clocks of the senders. seq: last saved first.
 */
export type ListOrder = "ts" | "seq";

/**
 * The position of one page in a list of snapshots.
 */
export interface ListPagination {
  /**
   * The limit of the request.
   */
  limit: number;
  /**
   * The offset of the request.
   */
  offset: number;
  /**
   * The number of all snapshots; null if the request has a filter (from, to, pid).
   */
  total: number | null;
  /**
   * Whether more snapshots follow this page.
   */
  hasMore: boolean;
  /**
   * The cursor of the next page; null on the last page.
   */
  next: Cursor | null;
}

/**
 * The query of GET /api/balance/snapshot, with numbers as JSON numbers.
 */
export interface ListQuery {
  /**
   * The largest number of snapshots to return.
   */
  limit?: number;
  /**
   * The number of snapshots to skip, from the start or from the cursor. A large offset is slow: use a cursor.
   */
  offset?: number;
  /**
   * The `next` of the previous page. The page that follows it is returned, in the same order.
   */
  cursor?: Cursor;
  /**
   * ts: newest ts first, by the clocks of the senders. seq: last saved first, whatever the ts. With seq, the filters from, to and pid are slow if the last matching snapshot was saved long ago. With a cursor, the order is that of its page.
   */
  order?: ListOrder;
  /**
   * Only snapshots with this ts or a later one.
   */
  from?: Timestamp;
  /**
   * Only snapshots with an earlier ts.
   */
  to?: Timestamp;
  /**
   * Only snapshots with this process id.
   */
  pid?: number;
}

/**
 * The response to GET /api/balance/snapshot: a page of snapshots, by default newest ts first.
 */
export interface ListReply {
  /**
   * Always true.
   */
  success: true;
  /**
   * The snapshots of this page.
   */
  data: Snapshot[];
  /**
   * The position of this page in the list.
   */
  pagination: ListPagination;
}

/**
 * The balances on chain: an amount for each asset. rlb and usdt are required, and other assets are allowed, up to 64 in all.
 */
export interface Onchain {
  /**
   * The amount of RLB on chain.
   */
  rlb: Amount;
  /**
   * The amount of USDT on chain.
   */
  usdt: Amount;
  [k: string]: Amount;
}

/**
 * The balances on the site: an amount for each asset. rlb and usd are required, and other assets are allowed, up to 64 in all.
 */
export interface Onsite {
  /**
   * The amount of RLB on the site.
   */
  rlb: Amount;
  /**
   * The amount of USD on the site.
   */
  usd: Amount;
  [k: string]: Amount;
}

/**
 * The payload of ping, which the server answers with pong. It may be absent. Its content is ignored: it may be any JSON, up to the size of an update.
 */
export type Ping = unknown;

/**
 * The payload of pong, the answer to ping.
 */
export interface Pong {
  /**
   * The time of the server.
   */
  timestamp: UtcTimestamp;
}

/**
 * Why a position is not good. other_feed: its epoch is not one of this feed. diverged: the feed has another history after goodUntil. ahead: the feed has not come that far. pruned: snapshots after it are no longer kept.
 */
export type PositionReason = "other_feed" | "diverged" | "ahead" | "pruned";

/**
 * A position in the feed as one text: epoch, seq and the last eight digits of the id of that snapshot, with colons between. With seq 0 the digits are zeros. The pattern admits a seq up to 2^53 - 1, the maximum of `after`.
 */
export type PositionToken = string;

/**
 * The body of an error response on REST to a request with application/problem+json in Accept (RFC 9457).
 */
export interface ProblemDetails {
  /**
   * Identifies the kind of error, as code does. Nothing is served at this address.
   */
  type: string;
  /**
   * The kind of error, for a person.
   */
  title: string;
  /**
   * The HTTP status.
   */
  status: number;
  /**
   * The same as error.
   */
  detail: string;
  /**
   * Always false.
   */
  success: false;
  /**
   * The error, for a person: the path of the field, a colon and the reason, or the reason alone.
   */
  error: string;
  /**
   * The error, for a program.
   */
  code: ErrorCode;
  /**
   * With position_unknown: why the position is not good.
   */
  reason?: PositionReason;
  /**
   * With position_unknown: the epoch of the feed.
   */
  epoch?: Uuid;
  /**
   * With position_unknown: the seq of the last saved snapshot.
   */
  head?: number;
  /**
   * With position_unknown: the seq up to which what the client has seen is also in this feed. Absent if it is unknown.
   */
  goodUntil?: number;
  /**
   * With position_pruned: the seq of the first snapshot that is kept.
   */
  first?: number;
  /**
   * With unavailable, of an import: what was done before. To send all of it again is safe.
   */
  data?: ImportResult;
}

/**
 * The last argument of connected and of balance:snapshot for a client that asked for recovery: seq, a colon and the last eight digits of the id of that snapshot. A whole position (PositionToken) is sent while the pid of the client is an earlier epoch.
 */
export type RecoveryOffset = string;

/**
 * The response to POST /api/balance/snapshot: 201 if the update was saved, 200 if it had been saved before.
 */
export interface SaveReply {
  /**
   * Always true.
   */
  success: true;
  /**
   * A sentence for a person.
   */
  message: string;
  /**
   * The saved snapshot.
   */
  data: SavedSnapshot;
  /**
   * Present if the same update was saved before. Nothing was saved or broadcast again.
   */
  duplicate?: true;
}

/**
 * The saved snapshot, in the response to POST /api/balance/snapshot.
 */
export interface SavedSnapshot {
  /**
   * The id of the snapshot.
   */
  id: Uuid;
  /**
   * The ts of the snapshot.
   */
  timestamp: UtcTimestamp;
  /**
   * The balances on chain.
   */
  onchain: Onchain;
  /**
   * The balances on the site.
   */
  onsite: Onsite;
}

/**
 * The path of GET /api/protocol/v1/{name}.json.
 */
export interface SchemaPath {
  /**
   * The name of a schema as in the index, or bundle for all schemas in one file.
   */
  name: string;
}

/**
 * Balances over time: the amounts in force at instants that are evenly spaced.
 */
export interface Series {
  /**
   * Before this time snapshots were pruned: at earlier instants every amount is null, and they are gaps. null: nothing was pruned.
   */
  completeFrom: UtcTimestamp | null;
  /**
   * The instants, the earliest first.
   */
  times: UtcTimestamp[];
  /**
   * One line, or one for each process id with by=pid, ordered by it.
   */
  lines: SeriesLine[];
  /**
   * The process ids that a sum leaves out at some instants, ordered. Of those that did not report in the range, up to 100 are named that reported within the 7 days before it.
   */
  leftOut: LeftOut[];
  /**
   * The epochs of the feed that began within the range, the earliest first.
   */
  epochs: SeriesEpoch[];
}

/**
 * The amounts of the assets of a ledger at each instant. null: the snapshot in force does not have the asset, or there is none.
 */
export interface SeriesAmounts {
  [k: string]: (number | null)[];
}

/**
 * An epoch of the feed that began within the range of a series.
 */
export interface SeriesEpoch {
  /**
   * Its name.
   */
  epoch: Uuid;
  /**
   * The last seq of the epochs before it that the feed has kept.
   */
  afterSeq: number;
  /**
   * When it began, by the clock of the database.
   */
  beganAt: UtcTimestamp;
}

/**
 * The amounts of one process id, of the account or of a sum. Each array has one item for each instant.
 */
export interface SeriesLine {
  /**
   * The process id of a line by=pid; null for the account and for a sum.
   */
  pid: number | null;
  /**
   * The time of the snapshot in force, of a sum that of the newest one in it; null before the first one.
   */
  ts: (UtcTimestamp | null)[];
  /**
   * The amounts on chain.
   */
  onchain: SeriesAmounts;
  /**
   * The amounts on the site.
   */
  onsite: SeriesAmounts;
  /**
   * The instants at which the snapshot in force was older than `stale_s`, or was pruned. In a sum: at which every process id was left out.
   */
  gaps: InstantRange[];
  /**
   * Of a sum: the number of process ids that were added at each instant.
   */
  pids?: number[];
}

/**
 * The query of GET /api/balance/series, with numbers as JSON numbers. `by` and `sum` exclude each other.
 */
export interface SeriesQuery {
  /**
   * The first instant; 24 hours before `to` if it is absent.
   */
  from?: Timestamp;
  /**
   * The last instant; now if it is absent.
   */
  to?: Timestamp;
  /**
   * The number of instants, evenly spaced. Instants times process ids are at most 100,000, and instants times assets 1,000,000.
   */
  points?: number;
  /**
   * Only snapshots with one of these process ids; the parameter may be repeated.
   *
   * @maxItems 100
   */
  pid?: number[];
  /**
   * Only these assets, each with its ledger; the parameter may be repeated.
   *
   * @maxItems 64
   */
  asset?: LedgerAsset[];
  /**
   * One line for each process id that reported in the range, or is named by `pid`.
   */
  by?: "pid";
  /**
   * One line with the sum over the process ids that reported within `stale_s` of each instant.
   */
  sum?: "pid";
  /**
   * A snapshot older than this number of seconds at an instant is in a gap, and not in a sum.
   */
  stale_s?: number;
}

/**
 * The response to GET /api/balance/series: balances over time, and the position in the feed that they belong to.
 */
export interface SeriesReply {
  /**
   * Always true.
   */
  success: true;
  /**
   * The balances over time.
   */
  data: Series;
  /**
   * The position in the feed. Every change after it is in the feed, the stream and Socket.IO.
   */
  feed: FeedHead;
}

/**
 * A saved snapshot. It has the same form in a list, in a response and in balance:snapshot.
 */
export interface Snapshot {
  /**
   * The id that the client sent, or one that the server generated.
   */
  id: Uuid;
  /**
   * The number in the order of saving: 1, 2, 3 and so on, without a gap.
   */
  seq: number;
  /**
   * The time of the balances.
   */
  ts: UtcTimestamp;
  /**
   * The process id of the sender; null if it is unknown.
   */
  pid: number | null;
  /**
   * The balances on chain.
   */
  onchain: Onchain;
  /**
   * The balances on the site.
   */
  onsite: Onsite;
}

/**
 * The data of the event bye, the last of a stream that the server ends. A client connects again from its position.
 */
export interface StreamBye {
  /**
   * Why the stream ends.
   */
  reason: ByeReason;
}

/**
 * The data of the event connected, the first of a stream.
 */
export interface StreamConnected {
  /**
   * The seq of the last saved snapshot; 0 if there is none. A client that has seen it is up to date.
   */
  seq: number;
  /**
   * The epoch of the feed.
   */
  epoch: Uuid;
  /**
   * Whether every snapshot after the position of the client follows.
   */
  recovered: boolean;
  /**
   * Why the position of the client is not good. Absent if it is good, and if the client has sent none.
   */
  reason?: PositionReason;
  /**
   * The seq up to which what the client has seen is also in this feed. Absent if it is unknown, and if the position is good.
   */
  goodUntil?: number;
}

/**
 * The request header that matters for a stream.
 */
export interface StreamHeaders {
  /**
   * The id of the last event that the client has seen. EventSource sets it when it connects again.
   */
  "Last-Event-ID"?: PositionToken;
}

/**
 * The data of the event ping, which a stream has when nothing else was sent for a while.
 */
export interface StreamPing {
  /**
   * The time of the server.
   */
  timestamp: UtcTimestamp;
  /**
   * The seq up to which everything was sent on this stream: that of the last saved snapshot, or during a replay the seq that it has reached. It is not a position to resume from.
   */
  seq: number;
}

/**
 * The query of GET /api/balance/stream, with numbers as JSON numbers. The position is the header Last-Event-ID, else `last_event_id`, else `after`; without one the stream begins at the end of the feed. `epoch` is required with an `after` of 1 or more.
 */
export interface StreamQuery {
  /**
   * The seq of the last snapshot that the client has seen.
   */
  after?: number;
  /**
   * The epoch of `after`. It may be absent only with 0, the beginning of every feed.
   */
  epoch?: Uuid;
  /**
   * The id of the snapshot `after`. With it, a feed that was restored to another history is recognised.
   */
  id?: Uuid;
  /**
   * The id of the last event that the client has seen, for a client that cannot send the header Last-Event-ID.
   */
  last_event_id?: PositionToken;
  /**
   * A ticket of POST /api/balance/ticket, for a browser's EventSource, which cannot send the header Authorization. It opens one stream.
   */
  ticket?: string;
  /**
   * Only snapshots with one of these process ids; the parameter may be repeated. The seq of the events then has gaps.
   *
   * @maxItems 100
   */
  pid?: number[];
}

/**
 * A ticket that opens one event stream, as its parameter `ticket`.
 */
export interface Ticket {
  /**
   * The ticket.
   */
  ticket: string;
  /**
   * Seconds within which it must be used.
   */
  expires_s: number;
}

/**
 * The body of the response to POST /api/balance/ticket.
 */
export interface TicketReply {
  /**
   * Always true.
   */
  success: true;
  /**
   * The ticket.
   */
  data: Ticket;
}

/**
 * A time as a client may write it: date, time and time zone (RFC 3339), years 1000 to 2999, at most nine fraction digits, of which six are kept. Leap seconds are rejected.
 */
export type Timestamp = string;

/**
 * A time as the server writes it: UTC with Z and three fraction digits, or six if there are microseconds.
 */
export type UtcTimestamp = string;

/**
 * A UUID of any version, written 8-4-4-4-12 (RFC 9562). Upper and lower case are accepted; the server sends lower case.
 */
export type Uuid = string;

/**
 * The response to GET /version.
 */
export interface VersionReply {
  /**
   * Always true.
   */
  success: true;
  /**
   * The versions.
   */
  data: Versions;
}

/**
 * The versions of a server.
 */
export interface Versions {
  /**
   * That of the service.
   */
  version: string;
  /**
   * That of the contract.
   */
  contract: string;
}

/**
 * The events that a client may send, with a required callback, so that `emitWithAck` returns a promise of the reply by
 * its type. The same socket can have either type:
 *
 *     const acknowledged: Socket<ServerToClientEvents, AcknowledgedEvents> = socket;
 *     const reply = await acknowledged.emitWithAck("balance:update", update);
 *
 * `timeout(…).emitWithAck` returns a promise of any in either case. Give the reply its type there:
 *
 *     const reply: BalanceAck | BalanceError = await socket.timeout(6000).emitWithAck("balance:update", update);
 */
export interface AcknowledgedEvents {
  "balance:update": (payload: BalanceUpdate, ack: (reply: BalanceAck | BalanceError) => void) => void;
  "ping": (ack: (reply: Pong | BalanceError) => void) => void;
}

/**
 * The events that a client may send, with an optional callback for the reply. The reply is also sent as an event.
 *
 * Because the callback is optional, `emitWithAck` returns a promise of any; see AcknowledgedEvents. With the option
 * ackTimeout, socket.io-client passes an error to the callback as its first argument, as after `timeout(…)`, but its
 * types do not include it: use `emitWithAck` or `timeout(…)` with that option.
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
 * The events that a client may listen to, beside those of socket.io itself. connect_error has a ConnectError if the
 * server has rejected the connection, and otherwise an error of the network.
 */
export interface ServerToClientEvents {
  "connected": (payload: Connected, offset?: RecoveryOffset) => void;
  "balance:snapshot": (payload: BalanceSnapshot, offset?: RecoveryOffset) => void;
  "balance:ack": (payload: BalanceAck) => void;
  "balance:error": (payload: BalanceError) => void;
  "pong": (payload: Pong) => void;
}

/**
 * The data of each event of GET /api/balance/stream, as JSON:
 *
 *     const stream = new EventSource(url + "/api/balance/stream");
 *     stream.addEventListener("balance:snapshot", (event) => {
 *       const snapshot: StreamEvents["balance:snapshot"] = JSON.parse(event.data);
 *     });
 */
export interface StreamEvents {
  "connected": StreamConnected;
  "balance:snapshot": Snapshot;
  "ping": StreamPing;
  "bye": StreamBye;
}
