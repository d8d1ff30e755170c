/** More than any document of an image has, and few enough to be checked within some milliseconds. */
export const MAX_JSON_VALUES = 20_000;

const [QUOTE, BACKSLASH, COMMA, BRACKET, BRACE] = [0x22, 0x5c, 0x2c, 0x5b, 0x7b];

/**
 * True for JSON with more values in it than MAX_JSON_VALUES. A few megabytes hold millions, and to parse and check those
 * takes seconds, in which nothing else is served: so what strangers send is counted first.
 */
export function hasManyValues(json: Uint8Array): boolean {
  if (json.length <= MAX_JSON_VALUES) return false;
  let values = 1;
  for (let at = 0; at < json.length; at += 1) {
    const byte = json[at];
    if (byte === QUOTE) at = endOfString(json, at);
    else if (byte === COMMA || byte === BRACKET || byte === BRACE) values += 1;
    if (values > MAX_JSON_VALUES) return true;
  }
  return false;
}

function endOfString(json: Uint8Array, start: number): number {
  let at = start + 1;
  for (; at < json.length && json[at] !== QUOTE; at += 1) if (json[at] === BACKSLASH) at += 1;
  return at;
}
