// Starts Prism's mock server on an OpenAPI document and asks it; prints each [status, body] as a line of JSON.
//
//     node prism.mjs OPENAPI_FILE UPDATE…
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';

const [file, ...updates] = process.argv.slice(2);
const cli = createRequire(import.meta.url).resolve('@stoplight/prism-cli/dist/index.js');
const prism = spawn(process.execPath, [cli, 'mock', '--port', '4010', file], { stdio: ['ignore', 'pipe', 'inherit'] });
try {
  let output = '';
  while (!output.includes('Prism is listening')) {
    const [text] = await Promise.race([once(prism.stdout, 'data'), once(prism, 'exit').then(() => [null])]);
    if (text === null) throw new Error(`Prism ended: ${output}`);
    output += text;
  }
  prism.stdout.resume();
  const ask = async (path, init) => {
    const answer = await fetch(`http://127.0.0.1:4010${path}`, init);
    console.log(JSON.stringify([answer.status, await answer.json()]));
  };
  await ask('/api/balance/snapshot');
  await ask('/api/protocol/v1/pong.json');
  const headers = { 'Content-Type': 'application/json' };
  for (const body of updates) await ask('/api/balance/snapshot', { method: 'POST', headers, body });
} finally {
  prism.kill();
}
