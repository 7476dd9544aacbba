// The browser of the tests, with its security as it comes.

import chromium from '@sparticuz/chromium';
import puppeteer from 'puppeteer-core';

// The package's own list of flags would turn the browser's security off, and with it half of what is looked at here.
const FLAGS = ['--no-sandbox', '--no-zygote', '--disable-gpu', '--disable-dev-shm-usage', '--disable-background-networking'];

// Start it. It ends with the script that starts it, however that ends.
export async function launch(...flags) {
  const executablePath = await chromium.executablePath();
  return puppeteer.launch({ executablePath, headless: 'shell', args: [...FLAGS, ...flags], pipe: true });
}
