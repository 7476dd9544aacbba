// Reads the bundle with what reads JSON Schema beside Ajv's default; prints as JSON the verdict of each validator on each
// payload, and the names that json-schema-to-typescript declares. Reads {"bundle": BUNDLE, "name": NAME, "payloads": […]}
// from standard input.
import { createRequire } from 'node:module';
import { text } from 'node:stream/consumers';
import { registerSchema, validate } from '@hyperjump/json-schema/draft-07';
import Ajv2020 from 'ajv/dist/2020.js';
import { compile } from 'json-schema-to-typescript';
import ZSchema from 'z-schema';

const { bundle, name, payloads } = JSON.parse(await text(process.stdin));
const uri = `${bundle.$id}#/definitions/${name}`;

registerSchema(structuredClone(bundle));
const fits = await validate(uri);

const ajv = new Ajv2020({ strict: true });
ajv.addMetaSchema(createRequire(import.meta.url)('ajv/dist/refs/json-schema-draft-07.json'));
const check = ajv.addSchema(bundle).getSchema(uri);

const zschema = ZSchema.create({ version: 'draft-07' });
const schema = { $ref: `#/definitions/${name}`, definitions: bundle.definitions };

const types = await compile(structuredClone(bundle), 'Bundle', { unreachableDefinitions: true });
console.log(
  JSON.stringify({
    hyperjump: payloads.map((payload) => fits(payload).valid),
    ajv2020: payloads.map((payload) => check(payload)),
    'z-schema': payloads.map((payload) => zschema.validateSafe(payload, structuredClone(schema)).valid),
    types: [...types.matchAll(/^export (?:interface|type) (\w+)/gm)].map(([, type]) => type),
  }),
);
