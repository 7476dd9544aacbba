// The last amount of each asset with all its digits, how it changed, and how old it is.

import { now } from './api.js';
import { find, formatTime, make, setText } from './elements.js';
import { digits, subtract } from './exact.js';
import { LEDGERS, amountOf, assetsOf, formatAge } from './model.js';
import { RANGES } from './view.js';

export const CHANGES = ['1h', '24h', '7d'];

const labelOf = (range) => range.replace(/(\d+)(\w)/, '$1 $2');

class Tile {
  #amount = make('p', { className: 'amount' });
  #changes = Object.fromEntries(CHANGES.map((range) => [range, make('dd')]));
  #shown = {};

  constructor(asset) {
    const list = CHANGES.map((range) => make('div', {}, make('dt', { textContent: labelOf(range) }), this.#changes[range]));
    const heading = make('h4', { textContent: asset.asset });
    this.element = make('article', { className: 'tile card', dataset: { asset: asset.name } }, heading, this.#amount, make('dl', {}, ...list));
  }

  show(amount, before) {
    if (this.#shown.amount !== amount) {
      this.#amount.replaceChildren(...(amount === null ? ['not reported'] : digits(amount)));
      if (this.#shown.amount !== undefined) this.#flash();
    }
    for (const range of CHANGES) {
      const key = `${amount} ${before[range]}`;
      if (this.#shown[range] !== key) this.#changes[range].replaceChildren(...change(amount, before[range]));
      this.#shown[range] = key;
    }
    this.#shown.amount = amount;
  }

  #flash() {
    if (matchMedia('(prefers-reduced-motion: reduce)').matches) return;
    this.#amount.animate([{ color: 'var(--accent)' }, {}], { duration: 1200, easing: 'ease-out' });
  }
}

// Returns what shows a change: its exact amount, and how large it is compared with the amount before.
function change(amount, before) {
  if (amount === null || before === undefined || before === null) return ['–'];
  const difference = subtract(amount, before);
  if (difference === '0') return ['0'];
  const share = (100 * Number(difference)) / Number(before);
  const sign = difference.startsWith('-') ? '' : '+';
  const percent = Number.isFinite(share) ? ` ${sign}${Math.abs(share) < 0.005 ? share.toPrecision(1) : share.toFixed(2)} %` : '';
  return [...digits((sign + difference).replace('-', '−')), make('small', { textContent: percent.replace('-', '−') })];
}

export class Tiles {
  #tiles = new Map();

  // `before` has the amounts at the beginning of each range of CHANGES: range to name of the asset to amount.
  show(model, before) {
    const { newest } = model;
    if (!newest) {
      find('tiles').replaceChildren(make('p', { className: 'empty', textContent: 'Nothing has been saved yet.' }));
      this.#tiles.clear();
      return;
    }
    const assets = assetsOf(newest);
    if (assets.length !== this.#tiles.size || assets.some(({ name }) => !this.#tiles.has(name))) this.#arrange(assets);
    for (const asset of assets) {
      const found = CHANGES.map((range) => [range, before[range]?.get(asset.name)]);
      this.#tiles.get(asset.name).show(amountOf(newest, asset), Object.fromEntries(found));
    }
  }

  #arrange(assets) {
    this.#tiles = new Map(assets.map((asset) => [asset.name, new Tile(asset)]));
    const groups = Object.entries(LEDGERS).map(([ledger, title]) => {
      const own = assets.filter((asset) => asset.ledger === ledger).map(({ name }) => this.#tiles.get(name).element);
      return own.length ? make('div', { className: 'ledger' }, make('h3', { textContent: title }), make('div', { className: 'grid' }, ...own)) : '';
    });
    find('tiles').replaceChildren(...groups);
  }
}

// Shows how old the newest snapshot is; the colour is that of the rhythm of its senders.
export function showFreshness(model) {
  const { newest } = model;
  const line = find('freshness');
  if (!newest) {
    line.dataset.freshness = 'unknown';
    setText(line, '');
    return;
  }
  const ageMs = now() - Date.parse(newest.ts);
  line.dataset.freshness = model.account.judge(ageMs);
  const bot = newest.pid == null ? '' : ` by pid ${newest.pid}`;
  setText(line, `${formatAge(ageMs, line.dataset.freshness)} · ${formatTime(newest.ts)} UTC${bot}`);
}

// Reads the amounts of the account at the beginning of each range, with `request` of api.js.
export async function readBefore(request, toIso) {
  const read = async (range) => {
    const { data } = await request('series', { from: toIso(now() - RANGES[range]), points: 2 });
    const [line] = data.lines;
    const amounts = Object.keys(LEDGERS).flatMap((ledger) =>
      Object.entries(line[ledger]).map(([asset, values]) => [`${ledger}.${asset}`, values[0]]),
    );
    return [range, new Map(amounts)];
  };
  return Object.fromEntries(await Promise.all(CHANGES.map(read)));
}
