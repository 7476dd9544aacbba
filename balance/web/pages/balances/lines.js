// The lines of the charts: those of a series, extended by the snapshots that come after it.

import { LEDGERS, amountOf, assetsOf, nameOf } from './model.js';

const POINTS = 2000; // of a whole range: snapshots that follow closer than these are not kept apart

// One line: a bot, the account or a sum, with the amounts of each asset at some times.
class Line {
  constructor(pid) {
    this.pid = pid;
    this.times = [];
    this.extended = 0; // the number of times that were added to those of the series
    this.amounts = new Map(); // name of the asset to texts, null in a gap
  }

  get name() {
    return this.pid == null ? '' : `pid ${this.pid}`;
  }

  // Adds the amounts of one time; false if it is not the last. Of several within `apartMs` the last one is kept.
  append(time, amountsByName, apartMs) {
    const [before, last] = this.times.slice(-2).map((text) => Date.parse(text));
    if (Date.parse(time) < (last ?? before)) return false;
    if (this.extended > 1 && last - before < apartMs) {
      [this.times, ...this.amounts.values()].forEach((list) => list.pop());
      this.extended -= 1;
    }
    this.extended += 1;
    for (const name of amountsByName.keys()) {
      if (!this.amounts.has(name)) this.amounts.set(name, this.times.map(() => null));
    }
    this.times.push(time);
    for (const [name, values] of this.amounts) values.push(amountsByName.get(name) ?? null);
    return true;
  }
}

export const amountsOf = (snapshot) => new Map(assetsOf(snapshot).map((asset) => [asset.name, amountOf(snapshot, asset)]));

export class Lines {
  lines = [];
  epochs = [];
  gaps = []; // of a single line: [from, to] as times
  leftOut = []; // the pids that a sum leaves out at its end
  head = 0;
  apartMs = 0;

  static of({ data, feed }) {
    const made = new Lines();
    made.head = Number(feed.head);
    made.epochs = data.epochs;
    made.apartMs = (Date.parse(data.times.at(-1)) - Date.parse(data.times[0])) / POINTS;
    made.lines = data.lines.map((given) => made.#line(given, data.times));
    const last = data.times.length - 1;
    made.leftOut = (data.leftOut ?? []).filter(({ gaps }) => gaps.some((gap) => Number(gap.last) === last)).map(({ pid }) => pid);
    if (data.lines.length === 1) {
      made.gaps = data.lines[0].gaps.map(({ first, last: end }) => [data.times[first], data.times[Math.min(Number(end) + 1, last)]]);
    }
    return made;
  }

  #line(given, times) {
    const line = new Line(given.pid);
    line.times = [...times];
    const inGap = new Set(given.gaps.flatMap(({ first, last }) => range(Number(first), Number(last))));
    for (const ledger of Object.keys(LEDGERS)) {
      for (const [asset, values] of Object.entries(given[ledger])) {
        line.amounts.set(nameOf(ledger, asset), values.map((text, i) => (inGap.has(i) ? null : text)));
      }
    }
    return line;
  }

  // The assets of all lines, on chain before on site.
  get assets() {
    const names = [...new Set(this.lines.flatMap((line) => [...line.amounts.keys()]))];
    const split = (name) => ({ name, ledger: name.split('.', 1)[0], asset: name.slice(name.indexOf('.') + 1) });
    return Object.keys(LEDGERS).flatMap((ledger) => names.map(split).filter((asset) => asset.ledger === ledger));
  }

  get hasZero() {
    return this.lines.some((line) => [...line.amounts.values()].some((texts) => texts.some((text) => text !== null && Number(text) === 0)));
  }

  // Adds a snapshot to the line of its bot or of the account; false if the series must be read again.
  extend(snapshot, lines) {
    const line = lines === 'pids' ? this.lines.find(({ pid }) => pid === snapshot.pid) : this.lines[0];
    return line !== undefined && line.append(snapshot.ts, amountsOf(snapshot), this.apartMs);
  }
}

function range(first, last) {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}
