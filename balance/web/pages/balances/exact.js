// JSON and decimals without the loss of a digit. A JavaScript number has about 16 digits, and an amount may have more.

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g;
const DECIMAL = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/;

// Reads JSON. Each number becomes the text that it is written as; strings stay as they are.
export const parse = (json) =>
  JSON.parse(json.replace(TOKEN, (token) => (token[0] === '"' ? token : `"${token}"`)));

// Returns { units, scale } with the value units / 10 ** scale. An amount is 0 or from 1e-30 to 1e30.
function scaled(text) {
  const [, sign, whole, fraction = '', exponent = '0'] = DECIMAL.exec(text);
  const units = BigInt(sign + whole + fraction);
  if (units === 0n) return { units, scale: 0 };
  const scale = fraction.length - Number(exponent);
  return scale < 0 ? { units: units * 10n ** BigInt(-scale), scale: 0 } : { units, scale };
}

// Returns the difference of two decimals as a text, with all digits and no zeros at the end of its fraction.
export function subtract(text, other) {
  const [a, b] = [scaled(text), scaled(other)];
  const scale = Math.max(a.scale, b.scale);
  const units = a.units * 10n ** BigInt(scale - a.scale) - b.units * 10n ** BigInt(scale - b.scale);
  const digits = (units < 0n ? -units : units).toString().padStart(scale + 1, '0');
  const fraction = digits.slice(digits.length - scale).replace(/0+$/, '');
  return `${units < 0n ? '-' : ''}${digits.slice(0, digits.length - scale)}${scale && fraction ? `.${fraction}` : ''}`;
}

// Returns the elements that show a decimal. Groups of three digits are apart by style, so that a copy has no spaces.
export function digits(text) {
  const [, whole, rest] = /^([-+−]?\d+)(.*)$/s.exec(text) ?? [undefined, text, ''];
  const groups = whole.replace(/\B(?=(\d{3})+$)/g, ' ').split(' ');
  return [
    ...groups.map((group) => Object.assign(document.createElement('span'), { className: 'group', textContent: group })),
    rest,
  ];
}
