/** The CRI's messages as its description has them, and their bytes: also those that no generated encoder would make. */

import { readFileSync } from 'node:fs';

/** A field of a message, as test/fixtures/runtime-v1.json describes it. */
export interface WireField {
  readonly number: number;
  /** A scalar, `map<string, string>`, or the name of a message or enum. */
  readonly type: string;
  readonly repeated?: true;
}

/** One RPC. */
export interface WireMethod {
  readonly service: string;
  readonly name: string;
  readonly request: string;
  readonly isStream: boolean;
}

/** What a field holds. Bytes where text belongs are sent as they are, valid UTF-8 or not; a map is a list of pairs. */
export type WireValue = string | bigint | boolean | Uint8Array | WireMessage | readonly WireValue[];
/** Values by the fields' names. */
export interface WireMessage {
  readonly [field: string]: WireValue;
}

/** A request with what may be wrong around its fields. */
export interface WireRequest {
  readonly fields: WireMessage;
  /** Sent behind the fields: unknown fields, fields of a wrong type, garbage. */
  readonly tail?: Uint8Array;
  /** This many bytes at the end are not sent. */
  readonly cutBytes?: number;
}

/** The description of all messages, enums and RPCs. */
export interface WireSchema {
  readonly methods: readonly WireMethod[];
  readonly messages: Readonly<Record<string, Readonly<Record<string, WireField>>>>;
  readonly enums: Readonly<Record<string, Readonly<Record<string, number>>>>;
}

interface Fixture extends Omit<WireSchema, 'methods'> {
  readonly services: Readonly<Record<string, Readonly<Record<string, { request: string; stream?: true }>>>>;
}

const VARINT = 0;
const LENGTH_DELIMITED = 2;

/** Reads the description. */
export function readWireSchema(): WireSchema {
  const file = new URL('../fixtures/runtime-v1.json', import.meta.url);
  const { services, messages, enums } = JSON.parse(readFileSync(file, 'utf8')) as Fixture;
  const methods = Object.entries(services).flatMap(([service, found]) =>
    Object.entries(found).map(([name, { request, stream }]) => ({ service, name, request, isStream: stream === true })),
  );
  return { methods, messages, enums };
}

/** The bytes of a request. */
export function encodeRequest(schema: WireSchema, type: string, { fields, tail, cutBytes = 0 }: WireRequest): Buffer {
  const whole = Buffer.concat([encodeMessage(schema, type, fields), tail ?? Buffer.alloc(0)]);
  return whole.subarray(0, Math.max(whole.length - cutBytes, 0));
}

/** The same request with every text of it put through `change`. */
export function mapTexts(request: WireRequest, change: (text: string) => string): WireRequest {
  return { ...request, fields: mapFields(request.fields, change) };
}

/** The names of all fields of a message and of those in it. */
export function fieldNames(schema: WireSchema, type: string): Set<string> {
  const fields = Object.entries(schema.messages[type] ?? {});
  return new Set(fields.flatMap(([name, field]) => [name, ...fieldNames(schema, field.type)]));
}

/** The number and wire type that go before a field's value. */
export function encodeTag(number: number, wireType: number): Buffer {
  return encodeVarint(BigInt(number * 8 + wireType));
}

/** A number of the wire; negative ones take ten bytes. */
export function encodeVarint(value: bigint): Buffer {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, value);
  while (rest > 0x7fn) {
    bytes.push(Number(rest & 0x7fn) | 0x80);
    rest >>= 7n;
  }
  bytes.push(Number(rest));
  return Buffer.from(bytes);
}

/** A request for a person: bytes as hex, long text cut, numbers as numbers. */
export function showRequest(request: WireRequest): string {
  return JSON.stringify(request, (_key, value: unknown) => {
    if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : `${value}n`;
    if (typeof value === 'string' && value.length > 400) return `${value.slice(0, 60)}... (${value.length} characters)`;
    const bytes = asBytes(value);
    if (bytes) return `hex:${bytes.toString('hex').slice(0, 200)} (${bytes.length} bytes)`;
    return value;
  });
}

// JSON.stringify() hands over what toJSON() of a Buffer has made of it.
function asBytes(value: unknown): Buffer | undefined {
  if (value instanceof Uint8Array) return Buffer.from(value);
  if (typeof value !== 'object' || value === null || !('type' in value) || !('data' in value)) return undefined;
  return value.type === 'Buffer' && Array.isArray(value.data) ? Buffer.from(value.data as number[]) : undefined;
}

function mapFields(message: WireMessage, change: (text: string) => string): WireMessage {
  return Object.fromEntries(Object.entries(message).map(([name, value]) => [name, mapValue(value, change)]));
}

function mapValue(value: WireValue, change: (text: string) => string): WireValue {
  if (typeof value === 'string') return change(value);
  if (typeof value !== 'object' || value instanceof Uint8Array) return value;
  return isList(value) ? value.map((one) => mapValue(one, change)) : mapFields(value, change);
}

function encodeMessage(schema: WireSchema, type: string, message: WireMessage): Buffer {
  const fields = schema.messages[type] ?? {};
  return Buffer.concat(
    Object.entries(message).flatMap(([name, value]) => {
      const field = fields[name];
      if (!field) throw new Error(`${type} has no field ${name}`);
      const values = isList(value) ? value : [value];
      return values.map((one) => encodeField(schema, field, one));
    }),
  );
}

function encodeField(schema: WireSchema, { number, type }: WireField, value: WireValue): Buffer {
  if (typeof value === 'bigint' || typeof value === 'boolean')
    return Buffer.concat([encodeTag(number, VARINT), encodeVarint(BigInt(value))]);
  const content = contentOf(schema, type, value);
  return Buffer.concat([encodeTag(number, LENGTH_DELIMITED), encodeVarint(BigInt(content.length)), content]);
}

function contentOf(schema: WireSchema, type: string, value: Exclude<WireValue, bigint | boolean>): Buffer {
  if (typeof value === 'string') return Buffer.from(value);
  if (value instanceof Uint8Array) return Buffer.from(value);
  if (!isList(value)) return encodeMessage(schema, type, value);
  const entry = { key: { number: 1, type: 'string' }, value: { number: 2, type: 'string' } };
  return Buffer.concat(value.map((one, index) => encodeField(schema, index === 0 ? entry.key : entry.value, one)));
}

function isList(value: WireValue): value is readonly WireValue[] {
  return Array.isArray(value);
}
