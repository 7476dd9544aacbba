// Calls balance/web/pages/balances/exact.js; prints the results as one line of JSON.
//
//     node exact.mjs EXACT < {"pairs": [[text, text], …], "json": text}

import { readFileSync } from 'node:fs';

const code = readFileSync(process.argv[2], 'utf8');
const { parse, subtract } = await import(`data:text/javascript,${encodeURIComponent(code)}`);
const { pairs, json } = JSON.parse(readFileSync(0, 'utf8'));
console.log(JSON.stringify({ differences: pairs.map(([a, b]) => subtract(a, b)), parsed: parse(json) }));
