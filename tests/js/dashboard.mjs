// Opens examples/dashboard.html in a real browser, and prints what it shows whenever that changes, as lines of JSON.
//
//     node dashboard.mjs DASHBOARD SERVER
//
// It runs until it is killed, and the browser ends with it.

import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { launch, openReporting } from './browser.mjs';

const [dashboard, server] = process.argv.slice(2);
const html = await readFile(dashboard);
const pages = createServer((request, response) => {
  response.setHeader('Content-Type', 'text/html');
  response.end(html);
});
await new Promise((listening) => pages.listen(0, '127.0.0.1', listening));

const origin = `http://localhost:${pages.address().port}`;
const browser = await launch();
try {
  const { tab, report } = await openReporting(browser);
  tab.on('request', (request) => {
    const url = request.url();
    if (![origin, server, 'data:'].some((known) => url.startsWith(known))) report('problem', `a request to ${url}`);
  });
  await tab.goto(`${origin}/dashboard.html?server=${encodeURIComponent(server)}`);
  await tab.evaluate(() => {
    const show = () => {
      const rows = [...document.querySelectorAll('tbody tr')];
      const cells = rows.map((row) => [...row.children].map((cell) => cell.textContent));
      window.report('shown', { state: document.getElementById('state').textContent, rows: cells });
    };
    new MutationObserver(show).observe(document.body, { childList: true, subtree: true, characterData: true });
    show();
  });
  await new Promise(() => {});
} finally {
  await browser.close();
  pages.close();
}
