// Reads and tries a page of /api/docs in a real browser; prints, as one line of JSON, what was seen there.
//
//     node docs.mjs rest|restOpened|restWithToken|events URL UPDATE FOLDER [EVERY]
//
// UPDATE is the token for restWithToken. The screenshots are written to FOLDER. With restOpened each EVERY-th operation and
// schema is opened: all of them cost a browser a minute.

import { audit, launch } from './browser.mjs';

const [page, url, update, folder, every = 1] = process.argv.slice(2);
const LOOKS = {
  light: { width: 1280, height: 900 },
  dark: { width: 1280, height: 900 },
  phone: { width: 390, height: 844 }, // isMobile would load the page again
};

const browser = await launch();
const tab = await browser.newPage();
tab.setDefaultTimeout(15_000);
const seen = { problems: [], requests: [], axe: {}, widths: {}, backgrounds: {}, inSight: {} };
await tab.setViewport(LOOKS.light);
tab.on('console', (message) => ['error', 'warn'].includes(message.type()) && seen.problems.push(message.text()));
tab.on('pageerror', (error) => seen.problems.push(String(error)));
tab.on('requestfailed', (request) => seen.problems.push(`${request.url()} ${request.failure()?.errorText}`));
tab.on('request', (request) => seen.requests.push(request.url()));
await tab.exposeFunction('reportViolation', (text) => seen.problems.push(text));
await tab.evaluateOnNewDocument(() => {
  addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI, sourceFile, lineNumber }) => {
    window.reportViolation(`${violatedDirective} forbids ${blockedURI}: ${sourceFile}:${lineNumber}`);
  });
});

const texts = (selector) => tab.$$eval(selector, (elements) => elements.map((element) => element.innerText));
const clickAll = (selector) => tab.$$eval(selector, (elements) => elements.forEach((element) => element.click()));
const clickEvery = (selector) =>
  tab.$$eval(
    selector,
    (elements, step) => {
      const chosen = elements.filter((_, index) => index % step === 0);
      chosen.forEach((element) => element.click());
    },
    Number(every),
  );
const until = (selector, words) =>
  tab.waitForFunction((s, w) => document.querySelector(s)?.innerText.includes(w), {}, selector, words);

async function type(selector, text) {
  await tab.waitForFunction((s) => document.querySelector(s)?.value, {}, selector);
  await tab.$eval(selector, (element) => element.select());
  await tab.focus(selector);
  await tab.keyboard.sendCharacter(text);
}

async function execute(block, fill = () => {}) {
  await clickAll(`${block} .opblock-summary-control`);
  await tab.waitForSelector(`${block} .responses-inner`); // before that it does not know yet what to ask
  await fill();
  await clickAll(`${block} .execute`);
  await until(`${block} .live-responses-table`, 'success');
  const [status] = await texts(`${block} .live-responses-table .response .response-col_status`);
  const [answer] = await texts(`${block} .live-responses-table .response pre`);
  return [status, answer];
}

// Looks at the page as it is now: light, dark and on a phone. The elements of `together` must be in sight at once.
async function look(...together) {
  for (const [name, viewport] of Object.entries(LOOKS)) {
    await tab.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: name === 'dark' ? 'dark' : 'light' }]);
    await tab.setViewport(viewport);
    seen.backgrounds[name] = await tab.evaluate(() => getComputedStyle(document.body).backgroundColor);
    seen.widths[name] = await tab.evaluate(() => document.documentElement.scrollWidth);
    seen.axe[name] = await audit(tab);
    seen.inSight[name] = await tab.evaluate((selectors) => {
      const measure = () => selectors.map((selector) => document.querySelector(selector).getBoundingClientRect());
      scrollBy(0, Math.min(...measure().map(({ top }) => top)));
      return measure().map(({ top, bottom }) => top > -1 && bottom <= innerHeight);
    }, together);
    await tab.screenshot({ path: `${folder}/${page}-${name}.png` });
  }
}

async function callRest() {
  await tab.goto(`${url}/api/docs/`);
  await tab.waitForSelector('.opblock');
  seen.operations = await tab.$$eval('.opblock', (blocks) =>
    blocks
      .filter((block) => block.checkVisibility())
      .map((block) => ['method', 'path'].map((part) => block.querySelector(`.opblock-summary-${part}`).textContent))
      .map(([method, path]) => `${method} ${path.replaceAll('\u200b', '')}`),
  );

  const [save, list] = ['save', 'list'].map((verb) => `[id^="operations-snapshots-${verb}Snapshot"]`);
  seen.saved = await execute(save, () => type(`${save} .body-param__text`, update));
  seen.listed = await execute(list);
  seen.hash = await tab.evaluate(() => location.hash);
  seen.warnings = await texts('#swagger-ui .writes');
  return save;
}

async function rest() {
  const save = await callRest();
  await look(`${save} .writes`, `${save} .execute`);
}

async function restWithToken() {
  await tab.goto(`${url}/api/docs`);
  await tab.waitForSelector('.opblock');
  await clickAll('.auth-wrapper > .authorize');
  await tab.waitForSelector('.modal-ux input');
  await look('.modal-ux');
  await tab.type('.modal-ux input', update);
  await tab.click('.modal-btn.authorize');
  await tab.click('.close-modal');
  seen.listed = await execute('[id^="operations-snapshots-listSnapshot"]');
}

// Opens operations, one after the other, and schemas. All operations open at once would take a browser minutes.
async function restOpened() {
  const save = await callRest();
  await clickAll(`${save} .tablinks[data-name=model]`);
  const blocks = await tab.$$('.opblock:not(.is-open, .opblock-head)');
  for (const block of blocks.filter((_, index) => index % Number(every) === 0)) {
    await block.$eval('.opblock-summary-control', (control) => control.click());
    await block.waitForSelector('.responses-inner');
    await block.$eval('.opblock-summary-control', (control) => control.click());
    await block.waitForSelector('.responses-inner', { hidden: true });
  }
  await clickAll('.models-control');
  await clickEvery('.models .json-schema-2020-12-accordion');
}

async function events() {
  await tab.goto(`${url}/api/docs/events/`);
  seen.events = await texts('.event h3');
  seen.errors = await texts('section[aria-labelledby=errors] tbody th');
  [seen.warning] = await texts('.writes');
  seen.example = await tab.$eval('#update', (element) => element.value);
  await clickAll('#connection');
  await until('#state', 'connected');
  await until('#log', 'connected');
  await type('#update', update);
  await clickAll('#send');
  await until('#log', 'balance:snapshot');
  await clickAll('#ping');
  await until('#log', 'pong');
  await type('#update', '{"onchain": ');
  await clickAll('#send');
  await until('#log', 'not sent');
  seen.log = await tab.$$eval('#log li', (lines) =>
    lines.map((line) => [line.className, line.querySelector('b').textContent, line.querySelector('code').textContent]),
  );
  await look('#update', '#send', '#log');
  await clickAll('#connection');
  await until('#state', 'closed');
}

try {
  await { rest, restOpened, restWithToken, events }[page]();
  seen.pages = await tab.$$eval('header nav a', (links) => links.map((link) => [link.textContent, link.getAttribute('href'), link.ariaCurrent]));
  seen.contents = await tab.$$eval('.contents a[href^="#"]', (links) => links.map(({ hash }) => [hash.slice(1), document.getElementById(hash.slice(1)) !== null]));
  seen.programs = await tab.$$eval('#guide code', (codes) => codes.map((code) => code.textContent));
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
}
