// Requests to the service, with the token of this tab if there is one.

import { parse } from './exact.js';

export const prefix = document.body.dataset.prefix;
const KEY = 'balance-token';
const SKEW_MS_MIN = 2000; // the header Date has whole seconds
let skewMs = 0;

// An error status, with the code and the reason that the service gives.
export class Refused extends Error {
  constructor(status, body) {
    super(body?.error ?? `status ${status}`);
    Object.assign(this, { status, code: body?.code });
  }

  get needsToken() {
    return this.status === 401 || this.status === 403;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (text) => sessionStorage.setItem(KEY, text),
  remove: () => sessionStorage.removeItem(KEY),
};

// Returns the time by the clock of the server, in milliseconds.
export const now = () => Date.now() + skewMs;

export function address(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== undefined)).toString();
  return `${prefix}/api/balance/${path}${query && `?${query}`}`;
}

// Returns the body of the response, with each number as a text. Throws Refused, and TypeError without a connection.
export async function request(path, parameters, method = 'GET') {
  const headers = token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
  const answer = await fetch(address(path, parameters), { method, headers });
  const body = await answer.text().then(parse).catch(() => undefined);
  if (!answer.ok || !body) throw new Refused(answer.status, body);
  const skew = Date.parse(answer.headers.get('Date')) - Date.now();
  skewMs = Math.abs(skew) > SKEW_MS_MIN ? skew : 0;
  return body;
}
