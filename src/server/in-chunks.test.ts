import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';

import fc from 'fast-check';

import { PodSandbox, StreamPodSandboxesResponse } from '../../proto/gen/cri/api.ts';
import { inChunks } from './in-chunks.ts';

const sandboxes = fc.array(
  fc.record({ id: fc.string(), annotation: fc.constantFrom(0, 10, 300_000, 900_000, 2_000_000) }),
  { maxLength: 250 },
);

suite('a list in chunks', () => {
  test('has every item once, in order, in messages that a client accepts', () => {
    fc.assert(
      fc.property(sandboxes, (records) => {
        const chunks = [
          ...inChunks(records, ({ id, annotation }) =>
            PodSandbox.fromPartial({ id, annotations: { a: '\u20ac'.repeat(annotation) } }),
          ),
        ];
        assert.deepEqual(
          chunks.flat().map(({ id }) => id),
          records.map(({ id }) => id),
        );
        for (const podSandboxes of chunks) {
          assert.ok(podSandboxes.length > 0 && podSandboxes.length <= 100);
          const bytes = StreamPodSandboxesResponse.encode({ podSandboxes }).finish().length;
          assert.ok(bytes < 4 * 1024 * 1024 || podSandboxes.length === 1, `${bytes} bytes`);
        }
      }),
      { numRuns: 20 },
    );
  });

  test('is as few messages as that allows', () => {
    const sizes = (count: number, chars: number): number[] =>
      [...inChunks(Array.from({ length: count }), () => ({ text: 'x'.repeat(chars) }))].map((part) => part.length);
    assert.deepEqual(sizes(250, 1), [100, 100, 50]);
    assert.deepEqual(sizes(100, 1), [100]);
    assert.deepEqual(sizes(5, 400_000), [2, 2, 1]);
    assert.deepEqual(sizes(0, 1), []);
  });

  test('converts only what was asked for', () => {
    let converted = 0;
    const chunks = inChunks(Array.from({ length: 1000 }), () => {
      converted += 1;
      return {};
    });
    chunks.next();
    assert.ok(converted <= 101, `${converted}`);
  });
});
