// Follows the feed by EventSource in a real browser until it has a given seq; prints what came as one line of JSON.
//
//     node event-source.mjs URL SEQ
//
// Each time it connects, the page saves a snapshot whose pid is the number of the connection.

import { launch } from './browser.mjs';

const [url, last] = process.argv.slice(2);

// Runs in the page.
async function follow(last) {
  const seen = { seqs: [], recovered: [], bye: [], states: [] };
  await new Promise((done) => {
    const source = new EventSource('/api/balance/stream?after=0');
    source.addEventListener('connected', ({ data }) => {
      const pid = seen.recovered.push(JSON.parse(data).recovered);
      const body = JSON.stringify({ pid, onchain: { rlb: 1, usdt: 2 }, onsite: { rlb: 3, usd: 4 } });
      fetch('/api/balance/snapshot', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
    });
    source.addEventListener('balance:snapshot', ({ data }) => {
      seen.seqs.push(JSON.parse(data).seq);
      if (seen.seqs.at(-1) === last) {
        source.close();
        done();
      }
    });
    source.addEventListener('bye', ({ data }) => seen.bye.push(JSON.parse(data).reason));
    source.addEventListener('error', () => seen.states.push(source.readyState));
  });
  return seen;
}

const browser = await launch();
try {
  const tab = await browser.newPage();
  await tab.goto(`${url}/nothing`);
  console.log(JSON.stringify(await tab.evaluate(follow, Number(last))));
} finally {
  await browser.close();
}
