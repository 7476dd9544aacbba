// The newest balances: of the account, which is the newest snapshot of all, and of each bot (pid).

export const PIDS_MAX = 1000; // the most that the service returns at once
const RHYTHM_TIMES_MAX = 20;
const RHYTHM_MS_DEFAULT = 60_000; // of a sender of which only one snapshot is known
const LATE = { times: 3, msMin: 5_000 };
const SILENT = { times: 10, msMin: 30_000 };
export const LEDGERS = { onchain: 'On chain', onsite: 'On site' };

export const nameOf = (ledger, asset) => `${ledger}.${asset}`;
export const amountOf = (snapshot, { ledger, asset }) => (Object.hasOwn(snapshot[ledger], asset) ? snapshot[ledger][asset] : null);

// Returns the assets of a snapshot in its order: [{ ledger, asset, name }].
export const assetsOf = (snapshot) =>
  Object.keys(LEDGERS).flatMap((ledger) =>
    Object.keys(snapshot[ledger]).map((asset) => ({ ledger, asset, name: nameOf(ledger, asset) })),
  );

// The times of the last snapshots of one sender, and how often it sends.
export class Sender {
  times = [];

  add(ms) {
    if (this.times.includes(ms)) return;
    this.times = [...this.times, ms].sort((a, b) => a - b).slice(-RHYTHM_TIMES_MAX);
  }

  // The median of the time between two snapshots, in milliseconds.
  get rhythmMs() {
    const between = this.times.slice(1).map((ms, i) => ms - this.times[i]).sort((a, b) => a - b);
    return between.length ? between[Math.floor(between.length / 2)] : RHYTHM_MS_DEFAULT;
  }

  // Judges an age by the sender's own rhythm.
  judge(ageMs) {
    const over = ({ times, msMin }) => ageMs > Math.max(times * this.rhythmMs, msMin);
    return over(SILENT) ? 'silent' : over(LATE) ? 'late' : 'fresh';
  }
}

export class Model {
  newest = null;
  pids = new Map(); // pid to its newest snapshot
  knowsAllPids = true; // false if the start state has as many as may be read at once
  account = new Sender();
  senders = new Map();

  sender(pid) {
    if (!this.senders.has(pid)) this.senders.set(pid, new Sender());
    return this.senders.get(pid);
  }

  replace({ newest, pids }) {
    this.newest = null;
    this.knowsAllPids = pids.length < PIDS_MAX;
    this.pids = new Map();
    [...pids].reverse().forEach((snapshot) => this.add(snapshot));
    if (newest) this.add(newest);
  }

  // Records when a snapshot was made.
  note(snapshot) {
    const ms = Date.parse(snapshot.ts);
    this.account.add(ms);
    if (snapshot.pid != null) this.sender(snapshot.pid).add(ms);
  }

  add(snapshot) {
    this.note(snapshot);
    const isNewer = (than) => !than || Date.parse(snapshot.ts) >= Date.parse(than.ts);
    if (isNewer(this.newest)) this.newest = snapshot;
    if (snapshot.pid != null && isNewer(this.pids.get(snapshot.pid))) this.pids.set(snapshot.pid, snapshot);
  }
}

// Returns the text of an age, with the judgement of it unless it is fresh.
export function formatAge(ms, freshness) {
  return `${formatDuration(ms)} ago${freshness === 'fresh' ? '' : `, ${freshness}`}`;
}

function formatDuration(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  return s < 172_800 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86_400)} d`;
}
