// Small helpers for the elements of the page.

export const find = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const { dataset, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.dataset, dataset);
  element.append(...children);
  return element;
}

// Sets a text only if it differs: a reader of the screen and a selection are not disturbed by what stays the same.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const formatTime = (iso) => iso.replace('T', ' ').replace(/(\.\d+)?Z$/, '');
