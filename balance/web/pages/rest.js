// Shows the service's OpenAPI document with Swagger UI.
'use strict';

const root = document.getElementById('swagger-ui');
const dark = matchMedia('(prefers-color-scheme: dark)');
const applyTheme = () => document.documentElement.classList.toggle('dark-mode', dark.matches);
dark.addEventListener('change', applyTheme);
applyTheme();

// Indents JSON as text. Swagger UI itself uses JSON.parse, and so loses the last digits of amounts.
function indent(json) {
  let depth = 0;
  const newline = () => '\n' + '  '.repeat(depth);
  const tokens = json.match(/"(?:[^"\\]|\\.)*"|[[{]\s*[\]}]|[[\]{},:]|[^\s"[\]{},:]+/g) || [];
  const indented = tokens.map((token) => {
    if (token === '{' || token === '[') return depth++, token + newline();
    if (token === '}' || token === ']') return depth--, newline() + token;
    return token === ',' ? token + newline() : token === ':' ? ': ' : token;
  });
  return indented.join('');
}

const exactDigits = () => ({
  wrapComponents: {
    responseBody: (Original, { React, getComponent }) => (props) =>
      typeof props.content === 'string' && /json/i.test(props.contentType)
        ? React.createElement(
            getComponent('HighlightCode', true),
            { language: 'json', downloadable: true, fileName: 'response.json', canCopy: true },
            indent(props.content),
          )
        : React.createElement(Original, props),
  },
});

// Swagger UI fills in each parameter's example, and a list for the time and the process of the examples would be empty.
// It would also log that it has no form element for the format of the items of a list.
const adaptParameters = () => ({
  statePlugins: {
    spec: {
      wrapActions: {
        updateJsonSpec: (original) => (spec) => {
          const operations = Object.values(spec.paths || {}).flatMap(Object.values);
          const shared = Object.values(spec.components?.parameters || {});
          for (const parameter of operations.flatMap((operation) => operation.parameters || []).concat(shared)) {
            if (parameter.$ref) continue;
            delete parameter.schema.items?.format;
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
  domNode: root,
  url: root.dataset.openapi,
  plugins: [exactDigits, adaptParameters],
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null, // the badge would send this server's address to another one
});
