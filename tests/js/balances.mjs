// Looks at the page of the balances in a real browser and uses it; prints what it saw as one line of JSON.
//
//     node balances.mjs SERVER FOLDER AMOUNT
//
// The screenshots are written to FOLDER. AMOUNT is the last amount of onchain.rlb.

import { audit, launch } from './browser.mjs';

const [server, folder, amount] = process.argv.slice(2);
const HOUR = 3_600_000;
const CHART = 'figure[data-asset="onchain.rlb"]';
const seen = { problems: [], requests: [], axe: {} };

async function save(pid, ts, rlb, usdt) {
  const body = `{"pid":${pid},"ts":"${new Date(ts).toISOString()}","onchain":{"rlb":${rlb},"usdt":${usdt}},"onsite":{"rlb":${(101_132.407627 - usdt / 100).toFixed(6)},"usd":${usdt}}}`;
  const answer = await fetch(`${server}/api/balance/snapshot`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
  if (answer.status !== 201) throw new Error(await answer.text());
}

// Saves a day of two bots, with a gap of three hours; the last snapshot is a few seconds old.
async function saveDay() {
  const now = Date.now();
  let [rlb, usdt] = [100_074.99978, 7656.36];
  for (let minutes = 25 * 60; minutes > 0; minutes -= 9) {
    rlb += Math.sin(minutes / 90) * 40;
    usdt += Math.cos(minutes / 37) * 6;
    if (minutes > 400 && minutes < 580) continue;
    await save(1 + (Math.round(minutes / 9) % 2), now - minutes * 60_000, rlb.toFixed(8), usdt.toFixed(2));
  }
  for (let s = 10; s >= 0; s -= 5) await save(3, now - 5 * HOUR - s * 1000, rlb.toFixed(8), usdt.toFixed(2)); // silent since
  for (let s = 24; s >= 0; s -= 6) await save(2, now - s * 1000, amount, usdt.toFixed(2));
}

async function open(browser, path = '/') {
  const tab = await browser.newPage();
  await tab.evaluateOnNewDocument(() => {
    addEventListener('securitypolicyviolation', (event) => console.error(`violation of ${event.effectiveDirective}: ${event.blockedURI} ${event.sample}`));
  });
  tab.on('pageerror', (error) => seen.problems.push(error.stack));
  tab.on('console', (message) => ['error', 'warn', 'assert'].includes(message.type()) && seen.problems.push(message.text()));
  tab.on('request', (request) => seen.requests.push(request.url()));
  await tab.setViewport({ width: 1280, height: 900 });
  await tab.goto(server + path);
  return tab;
}

const shows = (tab, text) => tab.waitForFunction((wanted) => document.getElementById('tiles').textContent.includes(wanted), { timeout: 15_000 }, text);
async function drawn(tab) {
  await tab.waitForSelector(CHART);
  await tab.$eval(CHART, (chart) => chart.scrollIntoView());
  await tab.waitForSelector(`${CHART} .plot .scatterlayer path.js-line`, { timeout: 20_000 });
}
const traces = (tab, asset = 'onchain.rlb') =>
  tab.$eval(`figure[data-asset="${asset}"] .plot`, (plot) => plot.data.map(({ name, x, y, customdata, connectgaps, line }) => ({ name, x, y, customdata, connectgaps, shape: line.shape })));
// Takes a picture of the whole page, with all charts in sight.
async function whole(tab, name) {
  const viewport = tab.viewport();
  const height = await tab.evaluate(() => document.documentElement.scrollHeight);
  await tab.setViewport({ ...viewport, height });
  await until(tab, () => {
    const plots = [...document.querySelectorAll('figure .plot')];
    const colour = getComputedStyle(document.documentElement).getPropertyValue('--series-1').trim();
    return plots.every(({ data, layout }) => data?.[0].line.color === colour && data.length === plots[0].data.length && layout.xaxis.range[0].slice(0, 16) === plots[0].layout.xaxis.range[0].slice(0, 16));
  });
  await picture(tab, name);
  await tab.setViewport(viewport);
}
const picture = (tab, name, more = {}) => tab.screenshot({ path: `${folder}/${name}.png`, ...more });

// Waits until the charts show what a function of the page finds in them.
const until = (tab, check, ...args) => tab.waitForFunction(check, { timeout: 15_000 }, ...args);
const hasPoints = (tab, count) => until(tab, (chart, least) => document.querySelector(`${chart} .plot`)?.data?.[0]?.x.length >= least, CHART, count);
const hash = (tab) => tab.evaluate(() => location.hash);

await saveDay();
const browser = await launch();
try {
  const tab = await open(browser);
  await shows(tab, amount);
  await drawn(tab);
  // A chart that is out of sight is not drawn; the keyboard may pass it.
  await tab.evaluate(async () => {
    const { Chart } = await import('/balances/chart.js');
    const { element } = new Chart({ name: 'onchain.other', ledger: 'onchain', asset: 'other' }, () => {});
    document.body.append(element);
    element.querySelector('.handle').focus();
    element.querySelector('.handle').blur();
    element.remove();
  });
  await tab.waitForFunction(() => document.querySelector('.tile dd')?.textContent !== '–');
  await tab.waitForFunction(() => document.getElementById('connection').dataset.state === 'live');
  await hasPoints(tab, 900);
  seen.paintMs = await tab.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime);
  seen.tiles = await tab.$$eval('.tile', (tiles) => tiles.map((tile) => [tile.dataset.asset, ...[...tile.querySelectorAll('.amount, dd')].map((part) => part.textContent)]));
  seen.day = await traces(tab);
  seen.epochs = await tab.$eval(`${CHART} .plot`, ({ layout }) => layout.annotations.map(({ hovertext }) => hovertext));
  await whole(tab, 'light');
  seen.axe.light = await audit(tab);

  // Live: another snapshot extends the chart and the tile.
  const more = `${amount}7`;
  await save(2, Date.now(), more, '7660.1');
  await shows(tab, more);
  await until(tab, (chart, last) => document.querySelector(`${chart} .plot`).data[0].customdata.at(-1) === last, CHART, more);
  seen.freshness = await tab.$eval('#freshness', (line) => [line.dataset.freshness, line.textContent]);

  // A burst of snapshots: the chart is drawn at most four times a second, and ends with the last one. The starts of the
  // drawings count: the ends are closer together when a drawing is faster than the one before.
  await tab.$eval(`${CHART} .plot`, (plot) => {
    window.drawings = [];
    const { react } = Plotly;
    Plotly.react = (element, ...more) => {
      if (element === plot) window.drawings.push(performance.now());
      return react(element, ...more);
    };
  });
  for (let i = 0; i < 150; i++) await save(2, Date.now(), `${more}${i}`, '7660.1');
  await save(2, Date.now(), more, '7660.1');
  await until(tab, (chart, last) => document.querySelector(`${chart} .plot`).data[0].customdata.at(-1) === last, CHART, more);
  seen.drawings = await tab.evaluate(() => window.drawings);

  // Hover at the end of the line.
  await tab.click('[name=range][value="1h"]');
  await until(tab, (chart) => Date.parse(document.querySelector(`${chart} .plot`).data[0].x[0]) > Date.now() - 3_700_000, CHART);
  const plot = await tab.$(`${CHART} .plot`);
  await plot.scrollIntoView();
  const box = await (await plot.$('.nsewdrag')).boundingBox();
  await tab.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  await tab.mouse.move(box.x + box.width - 1, box.y + box.height / 2, { steps: 3 });
  await tab.waitForFunction((chart, text) => document.querySelector(`${chart} .hoverlayer`).textContent.includes(text), { timeout: 5000 }, CHART, amount);
  seen.hover = await tab.$eval(`${CHART} .hoverlayer`, (layer) => layer.textContent);
  await picture(tab, 'hover');

  // Zoom by a drag: the range is read again with more detail, and is in the URL.
  await tab.mouse.move(box.x + box.width * 0.25, box.y + 40);
  await tab.mouse.down();
  await tab.mouse.move(box.x + box.width * 0.5, box.y + 40, { steps: 5 });
  await tab.mouse.up();
  await until(tab, () => location.hash.includes('range=own'));
  seen.zoom = Object.fromEntries(new URLSearchParams((await hash(tab)).slice(1)));
  await until(tab, (chart, from) => Date.parse(document.querySelector(`${chart} .plot`).data[0].x[0]) === Date.parse(from), CHART, seen.zoom.from);
  seen.zoomed = await traces(tab);
  await tab.reload();
  await drawn(tab);
  seen.reloaded = await tab.$eval('[name=range]:checked', (input) => input.value);
  await whole(tab, 'zoom');

  // Lines of each bot and the sum, on a logarithmic scale, and the bots' own balances.
  await tab.goto(`${server}/#lines=pids&scale=log&stale=3600`);
  await until(tab, (chart) => document.querySelector(`${chart} .plot`)?.data?.length === 3 && document.querySelector(`${chart} .plot`).layout.yaxis.type === 'log', CHART);
  seen.pids = (await traces(tab)).map(({ name }) => name);
  await tab.click('#bots summary');
  await tab.waitForSelector('#bots tbody tr');
  seen.bots = await tab.$$eval('#bots tbody tr', (rows) => rows.map((row) => [row.dataset.freshness, ...[...row.children].map((cell) => cell.textContent)]));
  await tab.click(`${CHART} .table summary`);
  await tab.waitForSelector(`${CHART} .table td`);
  seen.table = await tab.$eval(`${CHART} .table tbody tr`, (row) => [...row.children].map((cell) => cell.textContent));
  seen.axe.bots = await audit(tab);
  await whole(tab, 'bots');
  await tab.goto(`${server}/#lines=sum`);
  await until(tab, (chart) => document.querySelector(`${chart} .plot`)?.data?.length === 1 && document.getElementById('note').textContent.includes('pid 1'), CHART);
  seen.note = await tab.$eval('#note', (note) => note.textContent);

  // Dark, without a reload.
  await tab.goto(`${server}/#`);
  await tab.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'dark' }]);
  await until(tab, (chart) => document.querySelector(`${chart} .plot`)?.data?.[0].line.color === '#7cc0f5', CHART);
  seen.dark = await tab.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await whole(tab, 'dark');
  seen.axe.dark = await audit(tab);
  await tab.emulateMediaFeatures([]);

  // A phone.
  await tab.setViewport({ width: 390, height: 844, isMobile: true, hasTouch: true, deviceScaleFactor: 2 });
  await tab.reload();
  await shows(tab, more);
  await drawn(tab);
  seen.phoneWidth = await tab.evaluate(() => document.documentElement.scrollWidth);
  await whole(tab, 'phone');
  seen.axe.phone = await audit(tab);
  await tab.close();

  // The keyboard alone: a range, a scale, and a walk through a chart.
  const keys = await open(browser);
  await drawn(keys);
  const press = async (key, times = 1) => {
    for (let i = 0; i < times; i++) await keys.keyboard.press(key);
  };
  const focusOn = async (selector) => {
    for (let i = 0; i < 60; i++) {
      await press('Tab');
      if (await keys.evaluate((wanted) => document.activeElement.matches(wanted), selector)) return;
    }
    throw new Error(`the key Tab does not reach ${selector}`);
  };
  await focusOn('[name=range]');
  await press('ArrowRight');
  await until(keys, () => location.hash.includes('range=7d'));
  await focusOn('[name=scale]');
  await press('ArrowRight');
  await until(keys, () => location.hash.includes('scale=log'));
  await focusOn('[data-move=closer]');
  await press('Enter');
  await until(keys, () => location.hash.includes('range=own'));
  await focusOn(`${CHART} .handle`);
  await press('ArrowLeft', 3);
  seen.spoken = await keys.$eval(`${CHART} .handle`, (handle) => [handle.ariaValueText, handle.ariaValueNow, handle.ariaValueMax]);
  // Plotly shows a label at most each 50 ms.
  await until(keys, (chart, amount) => document.querySelector(`${chart} .hoverlayer`).textContent.includes(amount), CHART, seen.spoken[0].split(', ').at(-1));
  await picture(keys, 'keyboard');
  await press('Escape');
  await until(keys, () => !location.hash.includes('range=own'));

  // One stream for two tabs; the second leads when the first is closed.
  const second = await open(browser);
  await shows(second, more);
  await second.waitForFunction(() => document.getElementById('connection').dataset.state === 'live');
  const streams = () => seen.requests.filter((url) => url.includes('/stream?')).length;
  const before = streams();
  await save(2, Date.now(), '11.25', '7660.2');
  await Promise.all([shows(keys, '11.25'), shows(second, '11.25')]);
  seen.streamsOfSecond = streams() - before;
  seen.leaders = await Promise.all([keys, second].map((one) => one.$eval('#connection', (line) => line.dataset.leader)));
  await keys.close();
  await second.waitForFunction(() => document.getElementById('connection').dataset.leader === 'true' && document.getElementById('connection').dataset.state === 'live');
  await save(2, Date.now(), '12.5', '7660.3');
  await shows(second, '12.5');
  await second.emulateMediaType('print');
  await second.evaluate(() => dispatchEvent(new Event('beforeprint')));
  await whole(second, 'print');
  console.log(JSON.stringify(seen));
} catch (error) {
  const tabs = await browser.pages();
  await picture(tabs.at(-1), 'failure');
  throw new Error(`${error.stack}\n${JSON.stringify(seen.problems)}`);
} finally {
  await browser.close();
}
