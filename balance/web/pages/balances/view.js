// What the charts show: range, lines and scale. It is kept in the fragment of the URL, which no browser sends to a server.

import { now } from './api.js';

const HOUR = 3_600_000;
export const RANGES = { '1h': HOUR, '6h': 6 * HOUR, '24h': 24 * HOUR, '7d': 7 * 24 * HOUR, '30d': 30 * 24 * HOUR };
const DEFAULTS = { range: '24h', lines: 'account', scale: 'linear', stale: '600' };
const ALLOWED = {
  range: [...Object.keys(RANGES), 'own'],
  lines: ['account', 'pids', 'sum'],
  scale: ['linear', 'log'],
  stale: ['60', '600', '3600', '86400'],
};
const SPAN_MS_MIN = 1000;

export const toIso = (ms) => new Date(ms).toISOString();

export function readView() {
  const given = new URLSearchParams(location.hash.slice(1));
  const view = Object.fromEntries(
    Object.entries(DEFAULTS).map(([name, value]) => [name, ALLOWED[name].includes(given.get(name)) ? given.get(name) : value]),
  );
  const [from, to] = [Date.parse(given.get('from')), Date.parse(given.get('to'))];
  if (view.range !== 'own') return view;
  return to - from >= SPAN_MS_MIN ? { ...view, from, to } : { ...view, range: DEFAULTS.range };
}

export function writeView(view) {
  const changed = Object.keys(DEFAULTS).filter((name) => view[name] !== DEFAULTS[name]);
  const fragment = new URLSearchParams(changed.map((name) => [name, view[name]]));
  if (view.range === 'own') {
    fragment.set('from', toIso(view.from));
    fragment.set('to', toIso(view.to));
  }
  history.replaceState(null, '', `#${fragment}`);
}

// Returns the bounds of the view in milliseconds; one that is not the user's own ends now.
export function bounds(view) {
  if (view.range === 'own') return [view.from, view.to];
  return [now() - RANGES[view.range], now()];
}

export const isLive = (view) => bounds(view)[1] >= now() - SPAN_MS_MIN;

export function withBounds(view, from, to) {
  const middle = (from + to) / 2;
  const half = Math.max(to - from, SPAN_MS_MIN) / 2;
  return { ...view, range: 'own', from: Math.round(middle - half), to: Math.round(middle + half) };
}

// Moves the view by half of its length, or halves or doubles it. One that ends now keeps its end.
export function move(view, name) {
  const [from, to] = bounds(view);
  const quarter = (to - from) / 4;
  const zoom = isLive(view) ? { closer: [2, 0], farther: [-4, 0] } : { closer: [1, -1], farther: [-2, 2] };
  const [first, last] = { earlier: [-2, -2], later: [2, 2], ...zoom }[name];
  return withBounds(view, from + first * quarter, to + last * quarter);
}
