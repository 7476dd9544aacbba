// Reads schemas by title as JSON from stdin, referring to each other by pointers that end in the title, and writes the
// TypeScript declaration of each to stdout. The Node half of tests/support/typescript.py.
import { readFileSync } from 'node:fs';
import { compile } from 'json-schema-to-typescript';

const OPTIONS = {
  bannerComment: '',
  // What a schema does not name is not there to be used: an index signature would let every misspelt field pass.
  additionalProperties: false,
  // Else an array of at most n items becomes a union of n tuples.
  ignoreMinAndMaxItems: true,
  style: { printWidth: 120 },
};
const ANNOTATIONS = new Set(['title', 'description', 'examples']);

// `tsType` is the library's own keyword for a type that is written out.
function prepare(schema) {
  if (Array.isArray(schema)) return schema.map(prepare);
  if (schema === null || typeof schema !== 'object') return schema;
  if (typeof schema.$ref === 'string') {
    // The library would make a copy of the target of a reference with a description beside it: Uuid1, Uuid2 …
    return { description: schema.description, tsType: schema.$ref.split('/').pop() };
  }
  return Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, prepare(value)]));
}

for (const [title, schema] of Object.entries(JSON.parse(readFileSync(0, 'utf8')))) {
  const anything = Object.keys(schema).every((key) => ANNOTATIONS.has(key));
  // The library makes an interface of a schema that permits anything, and that excludes null.
  const prepared = anything ? { ...schema, tsType: 'unknown' } : prepare(schema);
  process.stdout.write(`${(await compile(prepared, title, OPTIONS)).trim()}\n\n`);
}
