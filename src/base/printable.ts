/** What moves a terminal's cursor, starts its commands, ends a line, or turns the direction of what follows. */
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g;

/** Text of anybody's (a registry, a plugin, a pod) as part of one line for a person, all of it visible. */
export function printable(text: string): string {
  return text.replaceAll(UNPRINTABLE, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
