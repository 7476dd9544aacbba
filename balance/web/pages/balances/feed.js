// Follows the feed from a position. One tab of a browser holds the stream and passes the events on to the others.

import { address, now, prefix, request, token } from './api.js';
import { parse } from './exact.js';

const QUIET_MS_MAX = 40_000; // the server sends a ping after 15 s
const WAIT_MS = [500, 1500]; // the bounds of the time before a new attempt, doubled by each that fails
const DOUBLINGS_MAX = 4;
const WAITING_MAX = 2000;

export class Feed {
  #position; // { epoch, head, id }
  #listener;
  #channel;
  #source;
  #timer;
  #quiet;
  #failures = 0;
  #waiting; // snapshots that came while what lies before them is read otherwise
  #goal = 0; // the seq up to which snapshots were saved before the stream was opened
  #state = { state: 'connecting', behind: 0 };
  #stopped = new AbortController();
  isLeader = false;

  // The listener has onSnapshot(snapshot), onState(state, behind), onLost(), onEpoch() and onRefused(error).
  constructor(position, listener) {
    this.#position = position;
    this.#listener = listener;
  }

  get position() {
    return this.#position;
  }

  // Goes on from another position, after what lies between has been read otherwise.
  set position(position) {
    this.#position = position;
    const waiting = this.#waiting ?? [];
    this.#waiting = undefined;
    if (this.isLeader) {
      this.#open();
      return;
    }
    this.#post({ kind: 'question' });
    waiting.forEach(([json, epoch]) => this.#onSnapshot(json, epoch));
  }

  async start() {
    if (!navigator.locks) return this.#lead(); // not a secure context: each tab has a stream
    const name = `balance-feed ${prefix} ${await digest(token.get() ?? '')}`;
    if (this.#stopped.signal.aborted) return;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#onMessage(data);
    this.#post({ kind: 'question' });
    const { signal } = this.#stopped;
    const hold = () => {
      if (signal.aborted) return undefined;
      this.#lead();
      return new Promise((release) => signal.addEventListener('abort', release));
    };
    navigator.locks.request(name, { signal }, hold).catch(() => {}); // aborted by stop()
  }

  stop() {
    this.#stopped.abort();
    this.#channel?.close();
    this.#channel = undefined;
    this.#close();
  }

  #post(message) {
    this.#channel?.postMessage(message);
  }

  #onMessage(message) {
    if (message.kind === 'question' && this.isLeader) this.#post({ kind: 'state', ...this.#state });
    if (this.isLeader) return;
    if (message.kind === 'state') this.#setState(message.state, message.behind);
    if (message.kind === 'lost') this.#listener.onLost();
    if (message.kind === 'snapshot') this.#onSnapshot(message.json, message.epoch);
  }

  #lead() {
    this.isLeader = true;
    this.#waiting = undefined; // the stream sends them again
    this.#open();
  }

  #close() {
    clearTimeout(this.#timer);
    clearTimeout(this.#quiet);
    this.#source?.close();
    this.#source = undefined;
  }

  async #open() {
    this.#close();
    if (this.#stopped.signal.aborted) return;
    this.#setState('connecting');
    let ticket;
    try {
      ticket = token.get() ? (await request('ticket', {}, 'POST')).data.ticket : undefined;
    } catch (error) {
      if (error.needsToken) this.#listener.onRefused(error);
      else this.#retry();
      return;
    }
    if (this.#stopped.signal.aborted || this.#source) return;
    const { epoch, head, id } = this.#position;
    const source = new EventSource(address('stream', { epoch, after: head, id, ticket }));
    this.#source = source;
    source.addEventListener('connected', (event) => this.#onConnected(JSON.parse(event.data)));
    source.addEventListener('balance:snapshot', (event) => {
      this.#listen();
      this.#post({ kind: 'snapshot', json: event.data, epoch: this.#position.epoch });
      this.#onSnapshot(event.data, this.#position.epoch);
    });
    source.addEventListener('ping', () => this.#listen());
    // A ticket opens one stream, so that each attempt is a new EventSource, from the position of this page.
    source.addEventListener('bye', () => this.#retry());
    source.addEventListener('error', () => this.#retry());
    this.#listen();
  }

  #listen() {
    clearTimeout(this.#quiet);
    this.#quiet = setTimeout(() => this.#retry(), QUIET_MS_MAX);
  }

  #retry() {
    this.#close();
    if (this.#stopped.signal.aborted) return;
    this.#setState('connecting');
    const [least, most] = WAIT_MS;
    const factor = 2 ** Math.min(this.#failures++, DOUBLINGS_MAX);
    this.#timer = setTimeout(() => this.#open(), (least + Math.random() * (most - least)) * factor);
  }

  #onConnected({ recovered, seq, epoch }) {
    this.#failures = 0;
    this.#listen();
    if (!recovered) {
      this.#close(); // the listener reads the start state again and sets the position
      this.#post({ kind: 'lost' });
      this.#listener.onLost();
      return;
    }
    if (epoch !== this.#position.epoch) {
      this.#post({ kind: 'lost' }); // the position of another tab has the epoch before
      this.#listener.onEpoch();
    }
    this.#position = { ...this.#position, epoch };
    this.#goal = seq;
    this.#report();
  }

  #report() {
    const behind = Math.max(0, this.#goal - this.#position.head);
    this.#setState(behind ? 'behind' : 'live', behind);
  }

  #onSnapshot(json, epoch) {
    if (this.#waiting) {
      this.#waiting = [...this.#waiting.slice(-WAITING_MAX), [json, epoch]];
      return;
    }
    const snapshot = parse(json);
    const seq = Number(snapshot.seq);
    const { head } = this.#position;
    if (epoch !== this.#position.epoch || (!this.isLeader && seq > head + 1)) {
      this.#waiting = [[json, epoch]]; // the tab that leads is ahead of this one
      this.#listener.onLost();
      return;
    }
    if (seq <= head) return;
    this.#position = { epoch, head: seq, id: snapshot.id };
    this.#listener.onSnapshot(snapshot);
    if (this.isLeader) this.#report();
  }

  #setState(state, behind = 0) {
    if (this.#state.state === state && this.#state.behind === behind) return;
    this.#state = { state, behind, since: now() };
    if (this.isLeader) this.#post({ kind: 'state', state, behind });
    this.#listener.onState(state, behind);
  }
}

// Tabs with different tokens may see different things, so that they share nothing.
async function digest(text) {
  const bytes = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text));
  return Array.from(new Uint8Array(bytes).slice(0, 16), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
