// Swagger UI over the service's own OpenAPI document.
'use strict';

const place = document.getElementById('swagger-ui');
const dark = matchMedia('(prefers-color-scheme: dark)');
const follow = () => document.documentElement.classList.toggle('dark-mode', dark.matches);
dark.addEventListener('change', follow);
follow();

// Indents JSON as it stands. Swagger UI would do it by way of JSON.parse, and show amounts without their last digits.
function indented(json) {
  let depth = 0;
  const line = () => '\n' + '  '.repeat(depth);
  const tokens = json.match(/"(?:[^"\\]|\\.)*"|[[{]\s*[\]}]|[[\]{},:]|[^\s"[\]{},:]+/g) || [];
  const written = tokens.map((token) => {
    if (token === '{' || token === '[') return depth++, token + line();
    if (token === '}' || token === ']') return depth--, line() + token;
    return token === ',' ? token + line() : token === ':' ? ': ' : token;
  });
  return written.join('');
}

const exactDigits = () => ({
  wrapComponents: {
    responseBody: (Original, { React, getComponent }) => (props) =>
      typeof props.content === 'string' && /json/i.test(props.contentType)
        ? React.createElement(
            getComponent('HighlightCode', true),
            { language: 'json', downloadable: true, fileName: 'response.json', canCopy: true },
            indented(props.content),
          )
        : React.createElement(Original, props),
  },
});

// Swagger UI fills in what stands as an example, and the list of an example's minute and process is empty.
const optionalStaysEmpty = () => ({
  statePlugins: {
    spec: {
      wrapActions: {
        updateJsonSpec: (original) => (spec) => {
          const operations = Object.values(spec.paths || {}).flatMap(Object.values);
          for (const parameter of operations.flatMap((operation) => operation.parameters || [])) {
            if (parameter.required || !parameter.examples) continue;
            parameter.description += ` For example: \`${Object.values(parameter.examples)[0].value}\`.`;
            delete parameter.examples;
          }
          return original(spec);
        },
      },
    },
  },
});

SwaggerUIBundle({
  domNode: place,
  url: place.dataset.openapi,
  plugins: [exactDigits, optionalStaysEmpty],
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null, // the badge would tell somebody else's server of ours
});
