// Tries in a real browser what pages of several origins can do with a service; prints the results as one line of JSON.
//
//     node pages.mjs PORT
//
// Every host name resolves to 127.0.0.1. The service must have http://dashboard.example:* in --cors-origins.

import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { launch } from './browser.mjs';

const [port] = process.argv.slice(2);
const require = createRequire(import.meta.url);
const client = await readFile(require.resolve('socket.io-client/dist/socket.io.js'));

const pages = createServer((request, response) => {
  const isClient = request.url === '/socket.io.js';
  response.setHeader('Content-Type', isClient ? 'text/javascript' : 'text/html');
  response.end(isClient ? client : '<!doctype html><title>a page</title><script src="/socket.io.js"></script>');
});
await new Promise((listening) => pages.listen(0, '127.0.0.1', listening));

// Runs in a page: tries every kind of request, and returns the result of each.
async function attempt(service) {
  const update = '{"onchain":{"rlb":1,"usdt":2},"onsite":{"rlb":3,"usd":4}}';
  const json = { 'Content-Type': 'application/json' };
  const own = { ...json, 'X-Request-Id': '1', Authorization: 'Bearer x' };
  const ask = (path, options) =>
    fetch(service + path, options).then(
      async (answer) => `${answer.status} ${(await answer.json()).code ?? 'ok'}`,
      () => 'unreadable',
    );
  const connect = (transport) =>
    new Promise((done) => {
      const options = { path: '/api/socket.io', transports: [transport], reconnection: false, withCredentials: true };
      const socket = io(service, options);
      const end = (word) => (socket.close(), done(word));
      socket.on('connected', () => end('connected'));
      socket.on('connect_error', () => end('refused'));
    });
  const upgrade = () =>
    new Promise((done) => {
      const socket = new WebSocket(`${service.replace('http', 'ws')}/api/socket.io/?EIO=4&transport=websocket`);
      socket.onmessage = () => (socket.close(), done('connected'));
      socket.onerror = () => done('refused');
    });
  return {
    list: await ask('/api/balance/snapshot?limit=1'),
    save: await ask('/api/balance/snapshot', { method: 'POST', headers: json, body: update }),
    'save with credentials': await ask('/api/balance/snapshot', {
      method: 'POST',
      headers: own,
      body: update,
      credentials: 'include',
    }),
    document: await ask('/api/protocol/v1/pong.json', { headers: { 'X-Request-Id': '1' }, credentials: 'include' }),
    websocket: await upgrade(),
    ...(window.io && { 'socket.io by polling': await connect('polling'), 'socket.io': await connect('websocket') }),
  };
}

const browser = await launch('--host-resolver-rules=MAP * 127.0.0.1');
try {
  const visit = async (page, service) => {
    const tab = await browser.newPage();
    await tab.goto(page);
    return tab.evaluate(attempt, service);
  };
  const seen = {
    rebound: await visit(`http://evil.example:${port}/`, `http://evil.example:${port}`),
    foreign: await visit(`http://evil.example:${pages.address().port}/`, `http://127.0.0.1:${port}`),
    allowed: await visit(`http://dashboard.example:${pages.address().port}/`, `http://127.0.0.1:${port}`),
    own: await visit(`http://balance:${port}/nothing`, `http://balance:${port}`),
  };
  const tab = await browser.newPage();
  await tab.goto(`http://dashboard.example:${pages.address().port}/`);
  seen.sandboxed = await tab.evaluate(
    (code, service) =>
      new Promise((done) => {
        addEventListener('message', ({ data }) => done(data));
        const frame = document.createElement('iframe');
        frame.sandbox = 'allow-scripts';
        frame.srcdoc = `<script>(${code})('${service}').then((seen) => parent.postMessage(seen, '*'))</script>`;
        document.body.append(frame);
      }),
    attempt.toString(),
    `http://127.0.0.1:${port}`,
  );
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
  pages.close();
}
