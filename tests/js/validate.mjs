// Validates payloads with Ajv as a client team would: the default import, in strict mode, with no plugin.
// Reads from standard input {"bundle": BUNDLE, "schemas": [URI…], "payloads": [[URI, BASE64]…]}; prints one verdict for
// each payload: true, false, or null where it is not UTF-8 or not JSON. Warnings of Ajv about a schema go to stderr.
import { text } from 'node:stream/consumers';
import Ajv from 'ajv';

const { bundle, schemas, payloads } = JSON.parse(await text(process.stdin));
const ajv = new Ajv({ strict: true });
ajv.addSchema(bundle);
for (const uri of schemas) ajv.getSchema(uri);

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const verdicts = payloads.map(([uri, base64]) => {
  let payload;
  try {
    payload = JSON.parse(decoder.decode(Buffer.from(base64, 'base64')));
  } catch {
    return null;
  }
  return ajv.getSchema(uri)(payload);
});
console.log(JSON.stringify(verdicts));
