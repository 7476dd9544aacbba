// The browser of the tests, with its default security.

import chromium from '@sparticuz/chromium';
import puppeteer from 'puppeteer-core';

// The package's own list of flags switches off the browser's security, which is a part of what is tested.
const FLAGS = ['--no-sandbox', '--no-zygote', '--disable-gpu', '--disable-dev-shm-usage', '--disable-background-networking'];

// Starts the browser; it ends with the script that started it.
export async function launch(...flags) {
  const executablePath = await chromium.executablePath();
  return puppeteer.launch({ executablePath, headless: 'shell', args: [...FLAGS, ...flags], pipe: true });
}
