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

// Swagger UI's own layout has an element `main` within that of the page. Its deep links are inside the buttons that open
// an operation; the address of the page follows the opened operation also without them.
const accessibleLayout = ({ React: { createElement } }) => ({
  components: {
    PartsLayout: ({ getComponent }) => {
      const parts = ['SvgAssets', 'errors', 'InfoContainer', 'AuthorizeBtnContainer', 'operations', 'Models'];
      return createElement('div', { className: 'swagger-ui' }, ...parts.map((part) => createElement(getComponent(part, true))));
    },
  },
  wrapComponents: { DeepLink: () => ({ text }) => createElement('span', {}, text) },
});

const WRITES = 'This writes real rows: each snapshot is stored for good and sent to all watchers.';

const SAVES = /\/(snapshot|import)$/; // the addresses of which a POST saves
const warnOfWrites = ({ React: { Fragment, createElement } }) => ({
  wrapComponents: {
    execute: (Original) => (props) => {
      const warning = props.method === 'post' && SAVES.test(props.path) && createElement('p', { className: 'writes' }, WRITES);
      return createElement(Fragment, {}, warning, createElement(Original, props));
    },
  },
});

// Gives names to the elements of Swagger UI that have none, and lets the keyboard scroll what is wider than the page.
let namesAreDue = false;
function nameElements() {
  namesAreDue = false;
  const name = (selector, nameOf) => {
    for (const element of root.querySelectorAll(`${selector}:not([aria-label])`)) element.ariaLabel = nameOf(element);
  };
  name('.examples-select-element', () => 'Example');
  name('[data-param-name] select', (select) => select.closest('[data-param-name]').dataset.paramName);
  name('.body-param__text', () => 'Body of the request');
  name('.close-modal', () => 'Close');
  name('table.responses-table[role=region]', (table) => `Responses of ${table.closest('.opblock').id}`);
  for (const button of root.querySelectorAll('.modal-btn[aria-label]')) button.ariaLabel = null; // another than its text
  for (const text of root.querySelectorAll('pre:not([tabindex])')) text.tabIndex = 0;
}
const nameSoon = () => {
  if (!namesAreDue) requestAnimationFrame(nameElements); // once for the many changes of one frame
  namesAreDue = true;
};
new MutationObserver(nameSoon).observe(root, { childList: true, subtree: true });

SwaggerUIBundle({
  domNode: root,
  url: root.dataset.openapi,
  plugins: [exactDigits, adaptParameters, accessibleLayout, warnOfWrites],
  layout: 'PartsLayout',
  syntaxHighlight: { activated: false }, // its colours have too little contrast
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null, // the badge would send this server's address to another one
});
