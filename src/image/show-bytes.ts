const LONGEST = 200;

/** A name from an archive for people and logs: quoted, control characters escaped, cut when it is very long. */
export function showBytes(name: Uint8Array): string {
  const text = Buffer.from(name.buffer, name.byteOffset, Math.min(name.length, LONGEST)).toString('utf8');
  return JSON.stringify(text) + (name.length > LONGEST ? '...' : '');
}
