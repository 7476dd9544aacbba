// The browser of the tests, with its default security.

import { createRequire } from 'node:module';
import { readFile } from 'node:fs/promises';
import chromium from '@sparticuz/chromium';
import puppeteer from 'puppeteer-core';

// The package's own list of flags switches off the browser's security, which is a part of what is tested.
const FLAGS = ['--no-sandbox', '--no-zygote', '--disable-gpu', '--disable-dev-shm-usage', '--disable-background-networking'];

// Starts the browser; it ends with the script that started it.
export async function launch(...flags) {
  const executablePath = await chromium.executablePath();
  return puppeteer.launch({ executablePath, headless: 'shell', args: [...FLAGS, ...flags], pipe: true });
}

// Opens a tab whose page can call `report(name, value)`, which prints a line of JSON; so does each of its problems.
export async function openReporting(browser) {
  const report = (name, value) => console.log(JSON.stringify([name, value]));
  const tab = await browser.newPage();
  await tab.exposeFunction('report', report);
  tab.on('pageerror', (error) => report('problem', error.message));
  tab.on('console', (message) => {
    // The browser itself logs each request that fails while the server is away.
    if (!message.text().startsWith('Failed to load resource')) report('problem', message.text());
  });
  return { tab, report };
}

// Returns what axe-core finds wrong with what a tab shows.
export async function audit(tab) {
  await tab.evaluate(await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8'));
  const { violations } = await tab.evaluate(() => window.axe.run());
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html.slice(0, 200)} ${failureSummary}`).join(' | ')}`);
}
