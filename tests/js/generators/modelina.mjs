// Generates models from an AsyncAPI document with Modelina; prints as JSON the source of all models in each language.
//
//     node modelina.mjs ASYNCAPI_FILE
import { readFileSync } from 'node:fs';
import { GoGenerator, JavaGenerator, TypeScriptGenerator } from '@asyncapi/modelina';

const generators = {
  typescript: new TypeScriptGenerator({ modelType: 'interface' }),
  go: new GoGenerator(),
  java: new JavaGenerator(),
};
const document = readFileSync(process.argv[2], 'utf8');
const sources = {};
for (const [language, generator] of Object.entries(generators)) {
  const models = await generator.generate(JSON.parse(document));
  sources[language] = models.map(({ result }) => result).join('\n');
}
console.log(JSON.stringify(sources));
