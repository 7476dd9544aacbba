// Reads balances over time from the service.

import { request } from './api.js';
import { Lines } from './lines.js';
import { bounds, toIso } from './view.js';

const POINTS = { account: 1000, sum: 500, pids: 400 };
const POINTS_MIN = 25;
const SETTINGS = { account: {}, pids: { by: 'pid' }, sum: { sum: 'pid' } };

// Reads the lines of a view, with fewer points if lines times points are over the limit of the service.
export async function readLines(view) {
  const [from, to] = bounds(view).map(toIso);
  for (let points = POINTS[view.lines]; ; points = Math.floor(points / 4)) {
    try {
      return Lines.of(await request('series', { from, to, points, stale_s: view.stale, ...SETTINGS[view.lines] }));
    } catch (error) {
      if (error.code !== 'invalid_payload' || points < POINTS_MIN) throw error;
    }
  }
}

// Reads the sum of all bots now, which only the service knows; returns its time and the amounts by name.
export async function readSumNow(view) {
  const [line] = Lines.of(await request('series', { points: 2, sum: 'pid', stale_s: view.stale })).lines;
  return [line.times.at(-1), new Map([...line.amounts].map(([name, texts]) => [name, texts.at(-1)]))];
}
