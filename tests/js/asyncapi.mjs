// Parses an AsyncAPI document from standard input with the AsyncAPI project's own parser; prints what it finds as lines
// of JSON: [severity, code, message, path], where severity 0 is an error, 1 a warning and 2 a piece of information.
import { text } from 'node:stream/consumers';
import { Parser } from '@asyncapi/parser';

const { document, diagnostics } = await new Parser().parse(await text(process.stdin));
if (!document) console.log(JSON.stringify([0, 'none', 'it could not be parsed', '']));
for (const { severity, code, message, path } of diagnostics) {
  console.log(JSON.stringify([severity, code, message, path.join('.')]));
}
