// The table of the bots, with their last amounts. It has those with the newest snapshots; a search finds the others.

import { now } from './api.js';
import { find, make, setText } from './elements.js';
import { digits } from './exact.js';
import { LEDGERS, amountOf, assetsOf, formatAge } from './model.js';

const ROWS_MAX = 200;

// Fills the table. A bot that is silent keeps its last amounts, and is marked.
export function showBots(model) {
  const count = `${model.knowsAllPids ? '' : 'at least '}${model.pids.size}`;
  setText(find('bots-count'), count);
  if (!find('bots').open) return;
  const bots = findBots(model);
  find('bots-search').hidden = model.knowsAllPids && model.pids.size <= ROWS_MAX;
  setText(find('bots-shown'), `${bots.length} of ${count} bots are shown, the newest first.`);
  const assets = new Map(bots.flatMap(assetsOf).map((asset) => [asset.name, asset]));
  const table = find('bots').querySelector('table');
  table.tHead.replaceChildren(makeHead([...assets.values()]));
  table.tBodies[0].replaceChildren(...bots.map((bot) => makeRow(model, bot, [...assets.values()])));
}

// Returns the bots whose pid has what is searched, the newest first.
function findBots(model) {
  const searched = find('bots-search').elements.pid.value.trim();
  const found = [...model.pids.values()].filter(({ pid }) => String(pid).includes(searched));
  return found.sort((a, b) => Date.parse(b.ts) - Date.parse(a.ts)).slice(0, ROWS_MAX);
}

function makeHead(assets) {
  const texts = ['pid', 'last snapshot', ...assets.map(({ ledger, asset }) => `${asset} ${LEDGERS[ledger].toLowerCase()}`)];
  return make('tr', {}, ...texts.map((textContent, i) => make('th', { scope: 'col', textContent, className: i > 1 ? 'number' : '' })));
}

function makeRow(model, bot, assets) {
  const ageMs = now() - Date.parse(bot.ts);
  const freshness = model.sender(bot.pid).judge(ageMs);
  const amounts = assets.map((asset) => {
    const amount = amountOf(bot, asset);
    return make('td', { className: 'number' }, ...(amount === null ? ['–'] : digits(amount)));
  });
  const age = make('td', { dataset: { freshness }, textContent: formatAge(ageMs, freshness) });
  return make('tr', { dataset: { freshness } }, make('th', { scope: 'row', textContent: bot.pid }), age, ...amounts);
}
