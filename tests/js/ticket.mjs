// Runs a script in a page of a real browser, and calls its `follow(token)`; prints what it logs.
//
//     node ticket.mjs PAGE SCRIPT TOKEN
//
// It runs until it is killed, and the browser ends with it.

import { readFileSync } from 'node:fs';
import { launch } from './browser.mjs';

const [page, script, token] = process.argv.slice(2);
const browser = await launch();
try {
  const tab = await browser.newPage();
  tab.on('console', (message) => console.log(message.text()));
  await tab.goto(page);
  await tab.evaluate(`${readFileSync(script, 'utf8')}; follow(${JSON.stringify(token)});`);
  await new Promise(() => {});
} finally {
  await browser.close();
}
