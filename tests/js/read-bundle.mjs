// Reads the bundle with further implementations of JSON Schema; prints as JSON the verdict of each validator on each
// payload, and the names that json-schema-to-typescript declares. Reads {"bundle": BUNDLE, "payloads": [[NAME, PAYLOAD]…]}
// from standard input.
import { createRequire } from 'node:module';
import { text } from 'node:stream/consumers';
import { registerSchema, validate } from '@hyperjump/json-schema/draft-07';
import Ajv2020 from 'ajv/dist/2020.js';
import { compile } from 'json-schema-to-typescript';
import ZSchema from 'z-schema';

const { bundle, payloads } = JSON.parse(await text(process.stdin));
const pointers = Object.keys(bundle.definitions).map((name) => [name, `#/definitions/${name}`]);

registerSchema(structuredClone(bundle));
const hyperjump = new Map();
for (const [name, pointer] of pointers) hyperjump.set(name, await validate(bundle.$id + pointer));

const ajv = new Ajv2020({ strict: true });
ajv.addMetaSchema(createRequire(import.meta.url)('ajv/dist/refs/json-schema-draft-07.json'));
ajv.addSchema(bundle);

const zschema = ZSchema.create({ version: 'draft-07' });
const schemas = new Map(pointers.map(([name, $ref]) => [name, { $ref, definitions: structuredClone(bundle.definitions) }]));

const types = await compile(structuredClone(bundle), 'Bundle', { unreachableDefinitions: true });
console.log(
  JSON.stringify({
    hyperjump: payloads.map(([name, payload]) => hyperjump.get(name)(payload).valid),
    ajv2020: payloads.map(([name, payload]) => ajv.getSchema(`${bundle.$id}#/definitions/${name}`)(payload)),
    'z-schema': payloads.map(([name, payload]) => zschema.validateSafe(payload, schemas.get(name)).valid),
    types: [...types.matchAll(/^export (?:interface|type) (\w+)/gm)].map(([, type]) => type),
  }),
);
