// Saves and reads a snapshot with the client of openapi-typescript; prints what was read. Compiled by tsc --strict.
//
//     node typed-client.js URL UPDATE
import createClient from 'openapi-fetch';
import type { components, paths } from './schema.d.ts';

declare const process: { argv: string[] };

const [url, text] = process.argv.slice(2) as [string, string];
const update: components['schemas']['BalanceUpdate'] = JSON.parse(text);
const client = createClient<paths>({ baseUrl: url });

const saved = await client.POST('/api/balance/snapshot', { body: update });
if (saved.error) throw new Error(`${saved.error.code}: ${saved.error.error}`);
const got = await client.GET('/api/balance/snapshot/{id}', { params: { path: { id: saved.data.data.id } } });
const page = await client.GET('/api/balance/snapshot', { params: { query: { limit: 1 } } });
if (!got.data || !page.data) throw new Error('nothing was read');
const last: components['schemas']['Snapshot'] | undefined = page.data.data[0];
console.log(JSON.stringify([saved.data.data.onsite, got.data.data.onsite, last?.onsite]));
