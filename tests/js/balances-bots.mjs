// Opens the table of the bots on the page of the balances in a real browser; prints what it saw as one line of JSON.
//
//     node balances-bots.mjs SERVER FOLDER PID
//
// PID is searched, if the page has a search. The screenshots are written to FOLDER.

import { audit, launch } from './browser.mjs';

const [server, folder, pid] = process.argv.slice(2);
const seen = { problems: [] };
const browser = await launch();
try {
  const tab = await browser.newPage();
  tab.on('pageerror', (error) => seen.problems.push(error.stack));
  tab.on('console', (message) => message.type() === 'error' && seen.problems.push(message.text()));
  const pids = () => tab.$$eval('#bots tbody th', (cells) => cells.map((cell) => cell.textContent));
  const shown = () => tab.$eval('#bots-shown', (element) => element.textContent);
  await tab.setViewport({ width: 1280, height: 900 });
  await tab.goto(server);
  await tab.waitForFunction(() => document.getElementById('connection').dataset.state === 'live');
  await tab.click('#bots summary');
  await tab.waitForSelector('#bots tbody tr');
  seen.count = await tab.$eval('#bots-count', (element) => element.textContent);
  seen.rows = (await pids()).length;
  seen.shown = await shown();
  seen.isSearchShown = await tab.$eval('#bots-search', (form) => form.checkVisibility());
  seen.axe = await audit(tab);
  if (seen.isSearchShown) {
    await tab.type('#bots-search input', pid);
    seen.found = await pids();
    seen.foundText = await shown();
    await tab.screenshot({ path: `${folder}/search.png` });
  }
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
}
