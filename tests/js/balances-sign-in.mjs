// Signs in at the page of the balances in a real browser; prints what it saw as one line of JSON.
//
//     node balances-sign-in.mjs SERVER FOLDER READER WRITER

import { audit, launch } from './browser.mjs';

const [server, folder, reader, writer] = process.argv.slice(2);
const seen = { problems: [], requests: [] };

async function save(amount) {
  const headers = { 'Content-Type': 'application/json', Authorization: `Bearer ${writer}` };
  const body = `{"pid":7,"onchain":{"rlb":${amount},"usdt":0},"onsite":{"rlb":1,"usd":2}}`;
  const answer = await fetch(`${server}/api/balance/snapshot`, { method: 'POST', headers, body });
  if (answer.status !== 201) throw new Error(await answer.text());
}

const browser = await launch();
try {
  const tab = await browser.newPage();
  tab.on('pageerror', (error) => seen.problems.push(error.stack));
  tab.on('console', (message) => {
    // The browser itself logs each request that is not permitted.
    if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) seen.problems.push(message.text());
  });
  tab.on('request', (request) => seen.requests.push(request.url()));
  const shows = (text) => tab.waitForFunction((wanted) => document.getElementById('tiles').textContent.includes(wanted), { timeout: 15_000 }, text);
  const signIn = async (token) => {
    await tab.waitForSelector('#sign-in:not([hidden])', { timeout: 15_000 });
    await tab.waitForFunction(() => document.activeElement.id === 'token');
    await tab.keyboard.type(token);
    await tab.keyboard.press('Enter');
  };
  await save('1.25');
  await tab.goto(server);
  await signIn('wrong');
  await tab.waitForFunction(() => document.getElementById('sign-in-error').textContent.includes('not accepted'));
  seen.axe = await audit(tab);
  await tab.screenshot({ path: `${folder}/sign-in.png` });
  await signIn(reader);
  await shows('1.25');
  await tab.waitForFunction(() => document.getElementById('connection').dataset.state === 'live');
  await save('2.5');
  await shows('2.5');
  seen.kept = await tab.evaluate(() => [JSON.stringify({ ...sessionStorage }), JSON.stringify({ ...localStorage }), document.cookie]);
  await tab.reload();
  await shows('2.5');
  await tab.click('#sign-out');
  await tab.waitForSelector('#sign-in:not([hidden])');
  seen.afterwards = await tab.evaluate(() => sessionStorage.length);
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
}
