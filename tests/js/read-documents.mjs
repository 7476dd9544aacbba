// Reads the OpenAPI and AsyncAPI documents with tools that lint them and follow their references; prints one line of JSON
// for each complaint that the tool calls an error: [tool, rule, message, path].
//
//     node read-documents.mjs OPENAPI_FILE ASYNCAPI_FILE
import { readFileSync } from 'node:fs';
import SwaggerParser from '@apidevtools/swagger-parser';
import { createConfig, lint } from '@redocly/openapi-core';
import { Document, Spectral } from '@stoplight/spectral-core';
import Parsers from '@stoplight/spectral-parsers';
import { asyncapi, oas } from '@stoplight/spectral-rulesets';

const files = process.argv.slice(2);
const complain = (...complaint) => console.log(JSON.stringify(complaint));

await SwaggerParser.validate(files[0]).catch((error) => complain('swagger-parser', error.name, error.message, ''));

const config = await createConfig({ extends: ['recommended'] });
for (const { ruleId, severity, message, location } of await lint({ ref: files[0], config })) {
  if (severity === 'error') complain('redocly', ruleId, message, location[0].pointer);
}

const spectral = new Spectral();
spectral.setRuleset({ extends: [oas, asyncapi] });
for (const file of files) {
  const found = await spectral.run(new Document(readFileSync(file, 'utf8'), Parsers.Json, file));
  for (const { code, severity, message, path } of found) {
    if (severity === 0) complain('spectral', code, message, path.join('.'));
  }
}
