// Reads and tries a page of /api/docs in a real browser; prints, as one line of JSON, what was seen there.
//
//     node docs.mjs rest|events URL UPDATE [EVERY]
//
// Of the operations and the schemas of REST, each EVERY-th is opened: all of them cost a browser most of a minute.

import { launch } from './browser.mjs';

const [page, url, update, every] = process.argv.slice(2);

const browser = await launch();
const tab = await browser.newPage();
tab.setDefaultTimeout(15_000);
const seen = { problems: [], requests: [] };
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
      return chosen.length;
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

async function rest() {
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

  const opened = await clickEvery('.opblock:not(.is-open, .opblock-head) .opblock-summary-control');
  await clickAll('.models-control');
  await tab.waitForFunction((count) => document.querySelectorAll('.responses-inner').length === count, {}, opened + 2);
  await clickEvery('.models .json-schema-2020-12-accordion');
  await clickAll(`${save} .tablinks[data-name=model]`);
}

async function events() {
  await tab.goto(`${url}/api/docs/events/`);
  seen.events = await texts('.event h3');
  seen.errors = await texts('[aria-label=Errors] tbody th');
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
  await clickAll('#connection');
  await until('#state', 'closed');
}

try {
  await { rest, events }[page]();
  seen.programs = await tab.$$eval('#guide code', (codes) => codes.map((code) => code.textContent));
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
}
