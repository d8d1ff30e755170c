import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { parseTraceContext } from './trace-context.ts';

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const SPAN = '00f067aa0ba902b7';

test('a traceparent is read, of this version and of later ones', () => {
  const expected = { traceId: TRACE, spanId: SPAN, isSampled: true, state: '' };
  assert.deepEqual(parseTraceContext(`00-${TRACE}-${SPAN}-01`), expected);
  assert.deepEqual(parseTraceContext(`00-${TRACE}-${SPAN}-00`), { ...expected, isSampled: false });
  assert.deepEqual(parseTraceContext(`cc-${TRACE}-${SPAN}-03-more`, 'a=b'), { ...expected, state: 'a=b' });
});

test('what is none is no trace', () => {
  for (const text of [
    undefined,
    '',
    `ff-${TRACE}-${SPAN}-01`,
    `00-${TRACE}-${SPAN}-01-more`,
    `00-${TRACE.toUpperCase()}-${SPAN}-01`,
    `00-${'0'.repeat(32)}-${SPAN}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `00-${TRACE}-${SPAN}`,
  ])
    assert.equal(parseTraceContext(text), undefined, text);
  fc.assert(
    fc.property(fc.string(), (text) => {
      const parsed = parseTraceContext(text);
      if (parsed) assert.match(parsed.traceId, /^[0-9a-f]{32}$/);
    }),
  );
});
