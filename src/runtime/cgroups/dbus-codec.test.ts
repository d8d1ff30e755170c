import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { BerthError } from '../../base/errors.ts';
import {
  type DbusMessage,
  type DbusValue,
  decodeMessage,
  encodeMessage,
  METHOD_CALL,
  splitSignature,
} from './dbus-codec.ts';

const message = (signature: string, body: readonly DbusValue[]): DbusMessage => ({
  type: METHOD_CALL,
  serial: 7,
  path: '/a',
  member: 'M',
  signature,
  body,
});

test('encodes what the specification shows: an aligned array of 64-bit numbers', () => {
  const bytes = encodeMessage(message('at', [[5n]]));
  assert.equal(bytes.subarray(-16).toString('hex'), '08000000000000000500000000000000');
  assert.equal(bytes.readUInt32LE(4), 16, 'the body length counts the padding, the array length does not');
});

test('a method call as systemd takes it comes back as it was', () => {
  const properties: DbusValue = [
    ['Slice', { signature: 's', value: 'a.slice' }],
    ['PIDs', { signature: 'au', value: [1, 2] }],
    ['Delegate', { signature: 'b', value: true }],
    ['TasksMax', { signature: 't', value: 0xffffffffffffffffn }],
    ['KillSignal', { signature: 'i', value: -13 }],
  ];
  const sent = message('ssa(sv)a(sa(sv))', ['x.scope', 'fail', properties, []]);
  const bytes = encodeMessage(sent);
  const got = decodeMessage(Buffer.concat([bytes, Buffer.from('next')]));
  assert.deepEqual(got, { message: sent, length: bytes.length });
  for (let cut = 0; cut < bytes.length; cut++) assert.equal(decodeMessage(bytes.subarray(0, cut)), undefined);
});

test('signatures are split into complete types', () => {
  assert.deepEqual(splitSignature('sa{sv}(i(uu))aav'), ['s', 'a{sv}', '(i(uu))', 'aav']);
  for (const bad of ['a', '(', '(i', 'z', ')', 'a()', `${'a'.repeat(100)}s`]) {
    assert.throws(() => splitSignature(bad), BerthError, bad);
  }
});

test('garbage is refused, not trusted', () => {
  const bytes = encodeMessage(message('as', [['abc']]));
  const tooLong = Buffer.from(bytes);
  tooLong.writeUInt32LE(0xfffffff0, 4);
  assert.throws(() => decodeMessage(tooLong), /too many/);
  const wrongArray = Buffer.from(bytes);
  wrongArray.writeUInt32LE(4000, bytes.length - 12);
  assert.throws(() => decodeMessage(wrongArray), /longer than its message/);
  assert.throws(() => decodeMessage(Buffer.from('Bxxxxxxxxxxxxxxxxxxxxxx')), /little-endian/);
});

const value = fc.letrec<{ pair: readonly [string, DbusValue] }>((tie) => ({
  pair: fc.oneof(
    { maxDepth: 4 },
    fc.tuple(
      fc.constant('s'),
      fc.string().filter((text) => !text.includes('\0')),
    ),
    fc.tuple(fc.constant('u'), fc.nat()),
    fc.tuple(fc.constant('y'), fc.nat(255)),
    fc.tuple(fc.constant('n'), fc.integer({ min: -32768, max: 32767 })),
    fc.tuple(fc.constant('b'), fc.boolean()),
    fc.tuple(fc.constant('x'), fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n })),
    fc.tuple(fc.constant('d'), fc.double({ noNaN: true })),
    fc
      .array(tie('pair'), { minLength: 1, maxLength: 4 })
      .map((pairs): readonly [string, DbusValue] => [
        `(${pairs.map(([type]) => type).join('')})`,
        pairs.map(([, inner]) => inner),
      ]),
    fc
      .tuple(tie('pair'), fc.nat(3))
      .map(([[type, inner], count]): readonly [string, DbusValue] => [
        `a${type}`,
        Array.from({ length: count }, () => inner),
      ]),
    tie('pair').map(([signature, inner]): readonly [string, DbusValue] => ['v', { signature, value: inner }]),
  ),
})).pair;

test('any value of any type comes back', () => {
  fc.assert(
    fc.property(fc.array(value, { maxLength: 4 }), (pairs) => {
      const sent = message(
        pairs.map(([type]) => type).join(''),
        pairs.map(([, inner]) => inner),
      );
      assert.deepEqual(decodeMessage(encodeMessage(sent))?.message.body, sent.body);
    }),
  );
});

test('no bytes make the decoder do anything but answer, wait or refuse', () => {
  const valid = encodeMessage(message('sa(sv)', ['x', [['a', { signature: 's', value: 'b' }]]]));
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { maxLength: 6 }), (changes) => {
      const bytes = Buffer.from(valid);
      for (const [at, byte] of changes) bytes[at] = byte;
      try {
        decodeMessage(bytes);
      } catch (err) {
        assert.ok(err instanceof BerthError, String(err));
      }
    }),
    { numRuns: 2000 },
  );
});
