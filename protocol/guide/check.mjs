// npm install ajv
import Ajv from 'ajv';

const index = new URL('http://127.0.0.1:3000/api/protocol/v1/');
const { data } = await (await fetch(index)).json();
const bundle = await (await fetch(new URL(data.bundle, index))).json();

const check = new Ajv({ allErrors: true }).addSchema(bundle).getSchema(`${bundle.$id}#/definitions/balance_update`);
const update = { onchain: { rlb: 100074.99978, usdt: 7656.36 }, onsite: { rlb: 101132.407627, usd: 7646.96 } };
console.log(check(update) ? 'it is valid' : check.errors);
