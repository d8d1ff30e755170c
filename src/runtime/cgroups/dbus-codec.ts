import { BerthError } from '../../base/errors.ts';

/**
 * The D-Bus wire format (D-Bus specification, "Type system" and "Message protocol"), little-endian, without
 * descriptors: as much as talking to systemd takes. A struct and a dictionary entry are arrays, a variant is
 * `{ signature, value }`, 64-bit numbers are bigints.
 */
export type DbusValue = string | number | bigint | boolean | DbusVariant | readonly DbusValue[];

/** A value that carries its type. */
export interface DbusVariant {
  readonly signature: string;
  readonly value: DbusValue;
}

/** Message types of the header. */
export const METHOD_CALL = 1;
export const METHOD_RETURN = 2;
export const ERROR = 3;
export const SIGNAL = 4;

/** A message; fields that its type doesn't have are absent. */
export interface DbusMessage {
  readonly type: number;
  readonly serial: number;
  readonly path?: string;
  readonly interface?: string;
  readonly member?: string;
  readonly errorName?: string;
  readonly replySerial?: number;
  readonly destination?: string;
  readonly sender?: string;
  /** Types of the body's values. */
  readonly signature?: string;
  readonly body: readonly DbusValue[];
}

/** Header fields by their code in the wire format, with the type of each. */
const HEADER_FIELDS: readonly (readonly [code: number, key: keyof DbusMessage, signature: string])[] = Object.freeze([
  [1, 'path', 'o'],
  [2, 'interface', 's'],
  [3, 'member', 's'],
  [4, 'errorName', 's'],
  [5, 'replySerial', 'u'],
  [6, 'destination', 's'],
  [7, 'sender', 's'],
  [8, 'signature', 'g'],
]);

/** systemd's answers are small; a longer message is a broken or hostile peer. */
const MAX_MESSAGE_BYTES = 4 << 20;
/** The specification's limit for containers in containers. */
const MAX_DEPTH = 64;
const CLOSING: Readonly<Record<string, string>> = Object.freeze({ '(': ')', '{': '}' });
const LITTLE_ENDIAN = 'l'.charCodeAt(0);

interface FixedType {
  readonly size: 1 | 2 | 4 | 8;
  put(out: Buffer, value: DbusValue): void;
  get(bytes: Buffer): DbusValue;
}

/** Types of fixed size, by their code. Each is aligned to its size. */
const FIXED_TYPES: ReadonlyMap<string, FixedType> = new Map<string, FixedType>([
  ['y', { size: 1, put: (out, value) => void out.writeUInt8(Number(value)), get: (bytes) => bytes.readUInt8() }],
  [
    'b',
    { size: 4, put: (out, value) => void out.writeUInt32LE(Number(value)), get: (bytes) => bytes.readUInt32LE() !== 0 },
  ],
  ['n', { size: 2, put: (out, value) => void out.writeInt16LE(Number(value)), get: (bytes) => bytes.readInt16LE() }],
  ['q', { size: 2, put: (out, value) => void out.writeUInt16LE(Number(value)), get: (bytes) => bytes.readUInt16LE() }],
  ['i', { size: 4, put: (out, value) => void out.writeInt32LE(Number(value)), get: (bytes) => bytes.readInt32LE() }],
  ['u', { size: 4, put: (out, value) => void out.writeUInt32LE(Number(value)), get: (bytes) => bytes.readUInt32LE() }],
  [
    'x',
    { size: 8, put: (out, value) => void out.writeBigInt64LE(asBigint(value)), get: (bytes) => bytes.readBigInt64LE() },
  ],
  [
    't',
    {
      size: 8,
      put: (out, value) => void out.writeBigUInt64LE(asBigint(value)),
      get: (bytes) => bytes.readBigUInt64LE(),
    },
  ],
  ['d', { size: 8, put: (out, value) => void out.writeDoubleLE(Number(value)), get: (bytes) => bytes.readDoubleLE() }],
]);

/** The bytes of a message. */
export function encodeMessage(message: DbusMessage): Buffer {
  const body = new Writer();
  body.writeAll(splitSignature(message.signature ?? ''), message.body);
  const fields: DbusValue[] = [];
  for (const [code, key, signature] of HEADER_FIELDS) {
    const value = message[key];
    if (value !== undefined && value !== '') fields.push([code, { signature, value }]);
  }
  const head = new Writer();
  for (const byte of [LITTLE_ENDIAN, message.type, 0, 1]) head.write('y', byte);
  head.write('u', body.length);
  head.write('u', message.serial);
  head.write('a(yv)', fields);
  head.align(8);
  return Buffer.concat([head.bytes(), body.bytes()]);
}

/** The first message in the bytes with its length, or undefined when it isn't all there. Throws for garbage. */
export function decodeMessage(bytes: Buffer): { message: DbusMessage; length: number } | undefined {
  if (bytes.length < 16) return undefined;
  if (bytes[0] !== LITTLE_ENDIAN) throw garbage('it is not little-endian');
  const bodyLength = bytes.readUInt32LE(4);
  const fieldsLength = bytes.readUInt32LE(12);
  const bodyStart = alignUp(16 + fieldsLength, 8);
  const length = bodyStart + bodyLength;
  if (length > MAX_MESSAGE_BYTES) throw garbage(`${length} bytes are too many`);
  if (bytes.length < length) return undefined;
  const fields = headerFields(new Reader(bytes.subarray(0, bodyStart), 12).read('a(yv)'));
  const reader = new Reader(bytes.subarray(bodyStart, length), 0);
  const body = splitSignature(fields.signature ?? '').map((type) => reader.read(type));
  return { message: { type: bytes.readUInt8(1), serial: bytes.readUInt32LE(8), ...fields, body }, length };
}

/** The complete types of a signature: `sa{sv}(ii)` is `s`, `a{sv}` and `(ii)`. Throws for what is none. */
export function splitSignature(signature: string): string[] {
  const types: string[] = [];
  for (let at = 0; at < signature.length; ) {
    const end = endOfType(signature, at, 0);
    types.push(signature.slice(at, end));
    at = end;
  }
  return types;
}

function endOfType(signature: string, at: number, depth: number): number {
  const code = signature[at] ?? '';
  if (depth > MAX_DEPTH) throw garbage('its types are nested too deep');
  if ('ybnqiuxtdsogv'.includes(code) && code !== '') return at + 1;
  if (code === 'a') return endOfType(signature, at + 1, depth + 1);
  const close = CLOSING[code];
  if (close === undefined) throw garbage(`${JSON.stringify(signature)} is not a signature`);
  let end = at + 1;
  while (signature[end] !== close) end = endOfType(signature, end, depth + 1);
  // An empty struct takes no bytes: an array of them would never end.
  if (end === at + 1) throw garbage('a struct is empty');
  return end + 1;
}

function headerFields(decoded: DbusValue): Omit<DbusMessage, 'type' | 'serial' | 'body'> {
  const fields: Record<string, DbusValue> = {};
  for (const field of asList(decoded)) {
    const [code, variant] = asList(field);
    const known = HEADER_FIELDS.find(([number]) => number === code);
    if (known && isVariant(variant) && variant.signature === known[2]) fields[known[1]] = variant.value;
  }
  return fields;
}

function asList(value: DbusValue): readonly DbusValue[] {
  return Array.isArray(value) ? (value as readonly DbusValue[]) : [];
}

/** True for a variant, so that its value may be looked at. */
export function isVariant(value: DbusValue | undefined): value is DbusVariant {
  return typeof value === 'object' && !Array.isArray(value) && 'signature' in value;
}

class Writer {
  readonly #chunks: Buffer[] = [];
  length = 0;

  bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }

  align(to: number): void {
    this.#push(Buffer.alloc(alignUp(this.length, to) - this.length));
  }

  writeAll(types: readonly string[], values: readonly DbusValue[]): void {
    for (const [index, type] of types.entries()) {
      const value = values[index];
      if (value === undefined)
        throw new BerthError('internal', 'a D-Bus message has fewer values than its signature says');
      this.write(type, value);
    }
  }

  write(type: string, value: DbusValue): void {
    this.align(alignmentOf(type));
    const code = type[0] ?? '';
    const fixed = FIXED_TYPES.get(code);
    if (fixed) {
      const out = Buffer.alloc(fixed.size);
      fixed.put(out, value);
      this.#push(out);
    } else if (code === 's' || code === 'o') this.#text(4, String(value));
    else if (code === 'g') this.#text(1, String(value));
    else if (code === 'v') this.#variant(value);
    else if (code === 'a') this.#array(type.slice(1), asArray(value));
    else this.writeAll(splitSignature(type.slice(1, -1)), asArray(value));
  }

  #variant(value: DbusValue): void {
    if (!isVariant(value)) throw new BerthError('internal', 'a D-Bus variant needs a signature');
    this.write('g', value.signature);
    this.write(value.signature, value.value);
  }

  #array(element: string, values: readonly DbusValue[]): void {
    const length = Buffer.alloc(4);
    this.#push(length);
    this.align(alignmentOf(element));
    // The padding before the first element does not count.
    const start = this.length;
    for (const value of values) this.write(element, value);
    length.writeUInt32LE(this.length - start);
  }

  #text(lengthBytes: 1 | 4, value: string): void {
    if (value.includes('\0'))
      throw new BerthError('invalid', `D-Bus text ${JSON.stringify(value)} contains a NUL character`);
    const text = Buffer.from(`${value}\0`);
    const length = Buffer.alloc(lengthBytes);
    length.writeUIntLE(text.length - 1, 0, lengthBytes);
    this.#push(length);
    this.#push(text);
  }

  #push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.length += chunk.length;
  }
}

class Reader {
  readonly #bytes: Buffer;
  #at: number;

  constructor(bytes: Buffer, at: number) {
    this.#bytes = bytes;
    this.#at = at;
  }

  read(type: string, depth = 0): DbusValue {
    if (depth > MAX_DEPTH) throw garbage('its values are nested too deep');
    this.#at = alignUp(this.#at, alignmentOf(type));
    const code = type[0] ?? '';
    const fixed = FIXED_TYPES.get(code);
    if (fixed) return fixed.get(this.#take(fixed.size));
    if (code === 's' || code === 'o') return this.#text(this.#take(4).readUInt32LE());
    if (code === 'g') return this.#text(this.#take(1).readUInt8());
    if (code === 'v') return this.#variant(depth);
    if (code === 'a') return this.#array(type.slice(1), depth);
    return splitSignature(type.slice(1, -1)).map((part) => this.read(part, depth + 1));
  }

  #variant(depth: number): DbusVariant {
    const signature = String(this.read('g'));
    const [type, more] = splitSignature(signature);
    if (type === undefined || more !== undefined) throw garbage('a variant has not exactly one type');
    return { signature, value: this.read(type, depth + 1) };
  }

  #array(element: string, depth: number): DbusValue[] {
    const length = this.#take(4).readUInt32LE();
    this.#at = alignUp(this.#at, alignmentOf(element));
    const end = this.#at + length;
    if (end > this.#bytes.length) throw garbage('an array is longer than its message');
    const values: DbusValue[] = [];
    while (this.#at < end) values.push(this.read(element, depth + 1));
    return values;
  }

  #text(length: number): string {
    return this.#take(length + 1).toString('utf8', 0, length);
  }

  #take(length: number): Buffer {
    const end = this.#at + length;
    if (end > this.#bytes.length) throw garbage('a value is longer than its message');
    const taken = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return taken;
  }
}

function alignmentOf(type: string): number {
  const code = type[0] ?? '';
  const fixed = FIXED_TYPES.get(code);
  if (fixed) return fixed.size;
  if (code === 'g' || code === 'v') return 1;
  return code in CLOSING ? 8 : 4;
}

function alignUp(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}

function asArray(value: DbusValue): readonly DbusValue[] {
  if (Array.isArray(value)) return value;
  throw new BerthError('internal', 'a D-Bus array or struct needs an array');
}

function asBigint(value: DbusValue): bigint {
  if (typeof value === 'bigint') return value;
  throw new BerthError('internal', 'a 64-bit D-Bus number needs a bigint');
}

function garbage(problem: string): BerthError {
  return new BerthError('unavailable', `D-Bus message cannot be read: ${problem}`);
}
