// The page: reads the start state, follows the feed, and shows both.

import { now, request, token } from './api.js';
import { showBots } from './bots.js';
import { Charts } from './charts.js';
import { find, setText } from './elements.js';
import { Feed } from './feed.js';
import { LEDGERS, Model, PIDS_MAX, assetsOf } from './model.js';
import { readLines, readSumNow } from './series.js';
import { Tiles, readBefore, showFreshness } from './tiles.js';
import { bounds, isLive, move, readView, toIso, withBounds, writeView } from './view.js';

const AGE_MS = 1000;
const EDGE_MS = 5000; // after which a live chart ends at the present again
const BEFORE_MS = 60_000; // after which the amounts before are read again
const SERIES_MS = 60_000; // after which a live series is read again, for its gaps
const SUM_MS_MIN = 1000;
const NEWS_MS_MIN = 10_000; // between two announcements to a reader of the screen
const RETRY_MS = 3000;
const RECENT_MAX = 5000; // snapshots that may be newer than a series that is being read
const RHYTHMS_READ_MAX = 200;
const REREAD_MS = 2000; // after a snapshot that no line can be extended by

const model = new Model();
const tiles = new Tiles();
const charts = new Charts(onRange, (error) => {
  if (error?.message === drawError?.message) return;
  drawError = error;
  showNotes();
});
let view = readView();
let feed;
let lines;
let before = {};
let recent = [];
let seriesTask; // the read that runs, and whether another must follow
let sumTimer;
let rereadTimer;
let starting;
let newsAt = 0;
let drawError;

function showNow() {
  tiles.show(model, before);
  showFreshness(model);
  showBots(model);
}

let shown = false;
function showSoon() {
  if (shown) return;
  shown = true;
  setTimeout(() => {
    shown = false;
    showNow();
  }, 250);
}

function showState(state, behind) {
  const line = find('connection');
  line.dataset.state = state;
  line.dataset.leader = String(feed?.isLeader ?? false);
  setText(line.firstElementChild, state === 'behind' ? `behind by ${behind}` : state);
}

function announce() {
  if (!model.newest || now() - newsAt < NEWS_MS_MIN) return;
  newsAt = now();
  const amounts = assetsOf(model.newest).slice(0, 8).map(({ ledger, asset }) => `${asset} ${LEDGERS[ledger].toLowerCase()} ${model.newest[ledger][asset]}`);
  setText(find('news'), `New balances: ${amounts.join(', ')}`);
}

function showControls() {
  for (const name of ['range', 'lines', 'scale', 'stale']) find('view').elements[name].value = view[name];
  find('own').hidden = view.range !== 'own';
  const [from, to] = bounds(view).map((ms) => toIso(ms).slice(0, 19));
  Object.assign(find('view').elements.from, { value: from });
  Object.assign(find('view').elements.to, { value: to });
}

function changeView(changed, reads = true) {
  if (changed.range !== 'own') lastPreset = changed.range;
  view = changed;
  writeView(view);
  showControls();
  if (reads) readSeries();
  if (!lines) return;
  showNotes();
  charts.show(lines, view);
}

let lastPreset = view.range === 'own' ? '24h' : view.range;
function onRange(from, to) {
  changeView(from === undefined ? { ...view, range: lastPreset } : withBounds(view, from, to));
}

async function readSeries() {
  if (seriesTask) {
    seriesTask.again = true;
    return;
  }
  seriesTask = { again: false };
  const wanted = view;
  try {
    const read = await readLines(wanted);
    if (wanted === view) useLines(read);
  } catch (error) {
    if (error.needsToken) return showSignIn(error);
    setText(find('note'), `The balances over time cannot be read: ${error.message}.`);
    setTimeout(() => feed && readSeries(), RETRY_MS);
  } finally {
    const { again } = seriesTask;
    seriesTask = undefined;
    if (again || wanted !== view) readSeries();
  }
}

function useLines(read) {
  lines = read;
  if (view.lines !== 'sum' && isLive(view)) {
    for (const snapshot of recent) if (Number(snapshot.seq) > lines.head) lines.extend(snapshot, view.lines);
  }
  showNotes();
  charts.show(lines, view);
}

function showNotes() {
  const notes = drawError ? [`The charts cannot be drawn: ${drawError.message}.`] : [];
  if (lines.leftOut.length) notes.push(`Not in the sum at its end, since they are silent: pid ${lines.leftOut.join(', ')}.`);
  if (view.scale === 'log' && lines.hasZero) notes.push('A logarithmic scale has no zero: an amount of 0 is left out.');
  setText(find('note'), notes.join(' '));
}

function extendLines(snapshot) {
  recent.push(snapshot);
  if (recent.length > 2 * RECENT_MAX) recent = recent.slice(-RECENT_MAX);
  if (!lines || !isLive(view)) return;
  if (view.lines === 'sum') {
    sumTimer ??= setTimeout(readSum, SUM_MS_MIN);
  } else if (!lines.extend(snapshot, view.lines)) {
    rereadTimer ??= setTimeout(reread, REREAD_MS); // a bot that is new, or a snapshot of an earlier time
  }
  charts.show(lines, view);
}

function reread() {
  rereadTimer = undefined;
  if (feed) readSeries();
}

// Extends the line of a sum.
async function readSum() {
  const wanted = lines;
  try {
    const [time, amounts] = await readSumNow(view);
    if (wanted === lines && wanted.lines[0]?.append(time, amounts, lines.apartMs)) charts.show(lines, view);
  } catch {
    // the next snapshot or the next read of the series repairs it
  } finally {
    sumTimer = undefined;
  }
}

function onSnapshot(snapshot) {
  model.add(snapshot);
  extendLines(snapshot);
  showSoon();
  announce();
}

const listener = { onSnapshot, onState: showState, onLost: start, onEpoch: readSeries, onRefused: showSignIn };

// Reads the start state, and follows the feed from its position. Also after the feed has lost what is shown.
function start() {
  starting ??= readStart().finally(() => {
    starting = undefined;
  });
}

async function readStart() {
  try {
    const latest = await request('latest', { limit: PIDS_MAX });
    find('sign-in').hidden = true;
    find('content').hidden = false;
    find('sign-out').hidden = !token.get();
    model.replace(latest.data);
    recent = [];
    showNow();
    const { newest } = latest.data;
    const head = Number(latest.feed.head);
    const position = { epoch: latest.feed.epoch, head, id: newest && Number(newest.seq) === head ? newest.id : undefined };
    if (feed) feed.position = position;
    else {
      feed = new Feed(position, listener);
      feed.start();
    }
    readSeries();
    readChanges();
    readRhythms();
  } catch (error) {
    if (error.needsToken) return showSignIn(error);
    showState('connecting', 0);
    setTimeout(start, RETRY_MS);
  }
}

// Reads when the last snapshots were made, by which the age of the next one is judged.
async function readRhythms() {
  try {
    const { data } = await request('snapshot', { limit: RHYTHMS_READ_MAX });
    data.forEach((snapshot) => model.note(snapshot));
    showNow();
  } catch (error) {
    if (error.needsToken) showSignIn(error);
  }
}

async function readChanges() {
  try {
    before = await readBefore(request, toIso);
    showNow();
  } catch (error) {
    if (error.needsToken) showSignIn(error);
  }
}

function stop() {
  feed?.stop();
  feed = undefined;
  find('content').hidden = true;
  find('sign-out').hidden = true;
}

function showSignIn(error) {
  stop();
  setText(find('sign-in-error'), token.get() ? `This token is not accepted: ${error.message}.` : '');
  token.remove();
  setText(find('connection').firstElementChild, 'signed out');
  find('connection').dataset.state = 'signed-out';
  find('sign-in').hidden = false;
  find('token').focus();
}

find('sign-in').addEventListener('submit', (event) => {
  event.preventDefault();
  token.set(find('token').value.trim());
  find('token').value = '';
  start();
});

find('sign-out').addEventListener('click', () => {
  token.remove();
  location.reload();
});

find('view').addEventListener('change', ({ target }) => {
  if (target.name === 'range' && target.value === 'own') return changeView(withBounds(view, ...bounds(view)));
  if (target.name === 'scale') return changeView({ ...view, scale: target.value }, false);
  if (['range', 'lines', 'stale'].includes(target.name)) changeView({ ...view, [target.name]: target.value });
});

find('view').addEventListener('submit', (event) => {
  event.preventDefault();
  const [from, to] = ['from', 'to'].map((name) => Date.parse(`${find('view').elements[name].value}Z`));
  if (from < to) changeView(withBounds(view, from, to));
  else setText(find('note'), 'The range must end after it begins.');
});

find('view').addEventListener('click', ({ target }) => {
  if (target.dataset.move) changeView(move(view, target.dataset.move));
});

addEventListener('hashchange', () => changeView(readView()));
find('bots').addEventListener('toggle', () => showBots(model));
find('bots-search').addEventListener('input', () => showBots(model));
find('bots-search').addEventListener('submit', (event) => event.preventDefault());
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => charts.schedule());
addEventListener('beforeprint', () => {
  document.documentElement.classList.add('paper');
  charts.drawAll();
});
addEventListener('afterprint', () => {
  document.documentElement.classList.remove('paper');
  charts.drawAll();
});

setInterval(() => {
  showFreshness(model);
  showBots(model);
}, AGE_MS);
setInterval(() => lines && isLive(view) && charts.schedule(), EDGE_MS);
setInterval(() => feed && readChanges(), BEFORE_MS);
setInterval(() => feed && isLive(view) && readSeries(), SERIES_MS);
showControls();
start();
