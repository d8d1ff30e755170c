/** Requests that no client should send, and those that it should with one thing wrong, made by fast-check. */

import fc, { type Arbitrary } from 'fast-check';

import {
  encodeTag,
  encodeVarint,
  type WireField,
  type WireMessage,
  type WireRequest,
  type WireSchema,
  type WireValue,
} from './cri-wire.ts';

/** What requests can speak of on this machine. */
export interface RequestWords {
  /** By field name: what such a field holds when nothing is wrong with it. */
  readonly sane: Readonly<Record<string, readonly string[]>>;
  /** Ids of pods and containers that are there, as 64 digits or a word that stands for them: see `part`. */
  readonly ids: readonly string[];
  /** What stands for the first `chars` characters of an id. */
  part(id: string, chars: number): string;
  /** Texts that are odd on this machine alone: paths of what is no plain file. */
  readonly odd: readonly string[];
  /** An absolute path is moved below this folder unless it is a sane one: what a request makes there can be removed. */
  readonly scratch: string;
}

const MEBIBYTE = 1024 * 1024;
const EXTREMES: readonly bigint[] = [
  ...[0n, 1n, -1n, 2n, -2n, 999n, 65_535n, 65_536n, 100_000n, 1_000_001n],
  ...[31n, 32n, 53n, 63n].flatMap((bits) => [2n ** bits - 1n, 2n ** bits, -(2n ** bits)]),
];
const ODD_WORDS: readonly string[] = [
  ...['', ' ', '\0', 'a\0b', '.', '..', '../..', 'a/../../b', '/', '//', '/..', '/a/../../b', '/a\0b', 'a\nb', '\r\n'],
  ...['\u001b[2J', '\u202eabc', '\ufffd', '\ufeff', '-', '--help', '-1', '%s%n%d', "' OR '1'='1", '*', '?', '[a', '\\'],
  ...['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'null', 'undefined', 'true', '$HOME', '$(id)', '`id`'],
  ...[
    'é',
    'ß',
    '𝔘𝔫𝔦',
    '😀'.repeat(20),
    '1e9',
    '0x10',
    '99999999999999999999',
    '127.0.0.1',
    '::1',
    '[::1]:80',
    '\u2028',
  ],
  ...[
    'x'.repeat(64),
    'x'.repeat(65),
    'x'.repeat(254),
    'x'.repeat(300),
    'X'.repeat(5000),
    'a,b',
    'a:b',
    'a=b',
    'a;b',
    'a b',
  ],
];
const NOT_UTF8: readonly Uint8Array[] = ['ff', 'c3', 'c328', 'eda080', 'f8888080', '61ff62', 'c080', 'f4908080'].map(
  (hex) => Buffer.from(hex, 'hex'),
);

/** Large messages that servers on Linux decode and do not look into: most requests would differ in them alone. */
const UNREAD: ReadonlySet<string> = new Set(['sandbox_config', 'windows']);

/** Makes requests of any type from the CRI's own description. */
export class RequestMaker {
  readonly #schema: WireSchema;
  readonly #words: RequestWords;

  constructor(schema: WireSchema, words: RequestWords) {
    this.#schema = schema;
    this.#words = words;
  }

  /** Any request at all: each field absent, right or wrong, and sometimes more or less than a message. */
  arbitrary(type: string): Arbitrary<WireRequest> {
    return fc.oneof(
      { weight: 8, arbitrary: this.#message(type).map((fields) => ({ fields })) },
      { weight: 1, arbitrary: fc.constant({ fields: {} }) },
      { weight: 2, arbitrary: this.#mangled(this.#message(type)) },
    );
  }

  /** One of `bases` with one of its fields wrong, at any depth. */
  mutated(type: string, bases: readonly WireMessage[]): Arbitrary<WireRequest> {
    const paths = this.#paths(type);
    if (paths.length === 0) return this.#mangled(fc.constantFrom(...bases));
    const wrong = fc.constantFrom(...paths).chain((path) => {
      const field = path.at(-1) as PathPart;
      return this.#wrong(field.name, field.field).map((value) => ({ path: path.map(({ name }) => name), value }));
    });
    const one = fc
      .tuple(fc.constantFrom(...bases), wrong)
      .map(([base, { path, value }]) => ({ fields: this.#with(type, base, path, value) }));
    return fc.oneof({ weight: 9, arbitrary: one }, { weight: 1, arbitrary: this.#mangled(fc.constantFrom(...bases)) });
  }

  /** One of `bases` with another id in `field`: unknown, the beginning of one, several, huge, no id at all. */
  otherId(bases: readonly WireMessage[], field: string): Arbitrary<WireRequest> {
    return fc.tuple(fc.constantFrom(...bases), this.#id()).map(([base, id]) => ({ fields: { ...base, [field]: id } }));
  }

  #id(): Arbitrary<WireValue> {
    const { ids, part } = this.#words;
    const beginning = fc
      .tuple(fc.constantFrom(...ids), fc.integer({ min: 0, max: 64 }))
      .map(([id, chars]) => part(id, chars));
    const unknown = fc.string({ unit: fc.constantFrom(...'0123456789abcdef'), minLength: 1, maxLength: 64 });
    return fc.oneof(
      { weight: 3, arbitrary: beginning },
      { weight: 2, arbitrary: unknown },
      { weight: 1, arbitrary: fc.constantFrom(...ids).map((id) => `${id} `) },
      { weight: 1, arbitrary: fc.constantFrom(...ids).map((id) => `${id}${id}`) },
      { weight: 3, arbitrary: this.#oddText() },
    );
  }

  /** Something that goes before or behind what a message is. */
  #mangled(message: Arbitrary<WireMessage>): Arbitrary<WireRequest> {
    const number = fc.constantFrom(1, 2, 3, 15, 16, 999, 2 ** 29 - 1);
    const unknown = fc.tuple(number, fc.nat(7), fc.uint8Array({ maxLength: 20 })).map(([field, wireType, rest]) => {
      return Buffer.concat([encodeTag(field, wireType), rest]);
    });
    const longer = number.map((field) =>
      Buffer.concat([encodeTag(field, 2), encodeVarint(2n ** 40n), Buffer.from('x')]),
    );
    // Groups inside groups, as deep as they come.
    const deep = fc.constantFrom(100, 100_000).map((depth) => Buffer.alloc(depth, 0x0b));
    const tail = fc.oneof(unknown, longer, deep, fc.uint8Array({ maxLength: 40 }));
    return fc.oneof(
      fc.record({ fields: message, tail }),
      fc.record({ fields: message, cutBytes: fc.integer({ min: 1, max: 12 }) }),
    );
  }

  #message(type: string): Arbitrary<WireMessage> {
    const fields = Object.entries(this.#schema.messages[type] ?? {});
    if (fields.length === 0) return fc.constant({});
    const present = fields.map(([name, field]) => {
      const value = this.#value(name, field).map((one): [string, WireValue][] => [[name, one]]);
      return fc.oneof({ weight: 3, arbitrary: value }, { weight: 1, arbitrary: fc.constant([]) });
    });
    return fc.tuple(...present).map((parts): WireMessage => Object.fromEntries(parts.flat()));
  }

  /** A field's value, right far more often than wrong: with a hundred fields, little would come through the checks. */
  #value(name: string, field: WireField): Arbitrary<WireValue> {
    return fc.oneof(
      { weight: 25, arbitrary: this.#right(name, field) },
      { weight: 1, arbitrary: this.#wrong(name, field) },
    );
  }

  #right(name: string, { type, repeated }: WireField): Arbitrary<WireValue> {
    const one = this.#rightOne(name, type);
    return repeated ? fc.array(one, { maxLength: 3 }) : one;
  }

  #rightOne(name: string, type: string): Arbitrary<WireValue> {
    const { messages, enums } = this.#schema;
    const values = enums[type];
    if (values) return fc.constantFrom(...Object.values(values)).map(BigInt);
    if (messages[type]) return this.#message(type);
    if (type.startsWith('map<'))
      return fc.array(fc.tuple(this.#saneText(name), this.#saneText('value')), { maxLength: 3 });
    if (type === 'string' || type === 'bytes') return this.#saneText(name);
    if (type === 'bool') return fc.boolean();
    return fc.constantFrom(0n, 1n, 100n);
  }

  #wrong(name: string, { type, repeated }: WireField): Arbitrary<WireValue> {
    const one = this.#wrongOne(name, type);
    if (!repeated) return one;
    const many = fc.tuple(this.#rightOne(name, type), fc.constantFrom(50, 2000));
    return fc.oneof(
      { weight: 5, arbitrary: one.map((value) => [value]) },
      { weight: 2, arbitrary: fc.array(one, { maxLength: 4 }) },
      { weight: 1, arbitrary: many.map(([value, count]) => new Array<WireValue>(count).fill(value)) },
    );
  }

  #wrongOne(name: string, type: string): Arbitrary<WireValue> {
    const { messages, enums } = this.#schema;
    if (enums[type]) return fc.constantFrom(-1n, 3n, 9n, 1000n, 2n ** 31n - 1n, -(2n ** 31n));
    if (messages[type]) return fc.oneof(fc.constant({}), this.#message(type), this.#onlyWrong(type));
    if (type.startsWith('map<')) return this.#oddMap(name);
    if (type === 'string' || type === 'bytes') return name.endsWith('_id') ? this.#id() : this.#oddText();
    if (type === 'bool') return fc.boolean();
    return fc.oneof(
      { weight: 4, arbitrary: fc.constantFrom(...EXTREMES) },
      { weight: 1, arbitrary: fc.bigInt({ min: -20n, max: 20n }) },
    );
  }

  #onlyWrong(type: string): Arbitrary<WireMessage> {
    const fields = Object.entries(this.#schema.messages[type] ?? {});
    if (fields.length === 0) return fc.constant({});
    return fc
      .constantFrom(...fields)
      .chain(([name, field]) => this.#wrong(name, field).map((value): WireMessage => ({ [name]: value })));
  }

  #oddMap(name: string): Arbitrary<WireValue> {
    const pair = fc.tuple(
      fc.oneof(this.#oddText(), this.#saneText(name)),
      fc.oneof(this.#oddText(), this.#saneText('value')),
    );
    const many = fc.constantFrom(100, 3000).map((count) => Array.from({ length: count }, (_, n) => [`key-${n}`, 'v']));
    return fc.oneof({ weight: 6, arbitrary: fc.array(pair, { maxLength: 3 }) }, { weight: 1, arbitrary: many });
  }

  #saneText(name: string): Arbitrary<string> {
    return fc.constantFrom(...(this.#words.sane[name] ?? ['a', 'some-text']));
  }

  #oddText(): Arbitrary<string | Uint8Array> {
    const inside = (text: string): string => (text.startsWith('/') ? this.#words.scratch + text : text);
    return fc.oneof(
      { weight: 8, arbitrary: fc.constantFrom(...ODD_WORDS).map(inside) },
      { weight: 3, arbitrary: fc.constantFrom(...this.#words.odd) },
      { weight: 3, arbitrary: fc.string({ unit: 'grapheme', maxLength: 20 }).map(inside) },
      { weight: 2, arbitrary: fc.string({ unit: 'binary-ascii', maxLength: 12 }).map(inside) },
      { weight: 3, arbitrary: fc.constantFrom(...NOT_UTF8) },
      {
        weight: 1,
        arbitrary: fc.constantFrom('x', '0123,', 'é', '\n').map((text) => text.repeat(MEBIBYTE / text.length)),
      },
      { weight: 1, arbitrary: fc.constant(`${this.#words.scratch}/${'y/'.repeat(3000)}`) },
    );
  }

  /** The ways to every field of a message that is read, those of nested messages too. */
  #paths(type: string): PathPart[][] {
    return Object.entries(this.#schema.messages[type] ?? {}).flatMap(([name, field]) => [
      [{ name, field }],
      ...(UNREAD.has(name) ? [] : this.#paths(field.type).map((rest) => [{ name, field }, ...rest])),
    ]);
  }

  #with(type: string, message: WireMessage, [name = '', ...rest]: readonly string[], value: WireValue): WireMessage {
    if (rest.length === 0) return { ...message, [name]: value };
    const field = this.#schema.messages[type]?.[name];
    const old = message[name];
    const first = Array.isArray(old) ? (old as readonly WireValue[])[0] : old;
    const inner = this.#with(field?.type ?? '', isMessage(first) ? first : {}, rest, value);
    return { ...message, [name]: Array.isArray(old) ? [inner, ...(old as readonly WireValue[]).slice(1)] : inner };
  }
}

interface PathPart {
  readonly name: string;
  readonly field: WireField;
}

function isMessage(value: WireValue | undefined): value is WireMessage {
  return typeof value === 'object' && !Array.isArray(value) && !(value instanceof Uint8Array);
}
