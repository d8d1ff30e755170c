import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { constants, PerformanceObserver } from 'node:perf_hooks';
import { describe, test } from 'node:test';

import { SpareHeap } from './spare-heap.ts';

const TIMEOUT_MS = 30_000;

describe('memory that is not used', () => {
  test('a collection begins, and goes on between events', { timeout: TIMEOUT_MS }, async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) if (kindOf(entry) === constants.NODE_PERFORMANCE_GC_MAJOR) resolve();
    });
    observer.observe({ entryTypes: ['gc'] });
    try {
      assert.equal(new SpareHeap().collect(), true);
      await promise;
    } finally {
      observer.disconnect();
    }
  });

  test('what malloc keeps is given back', () => {
    const spare = new SpareHeap();
    spare.release();
    // Too small to be mapped for themselves.
    const held = Array.from({ length: 2000 }, () => Buffer.allocUnsafeSlow(64 * 1024).fill(1));
    const before = anonymousBytes();
    // What lies between others cannot go back by itself, as the end of the heap does.
    for (const [index, buffer] of held.entries()) if (index % 100 !== 99) buffer.buffer.transfer(0);
    const kept = anonymousBytes();
    spare.release();
    const after = anonymousBytes();
    assert.ok(
      kept > after + 50e6 && after < before - 100e6,
      `${before} bytes with them, ${kept} without, ${after} when given back`,
    );
  });
});

function kindOf(entry: object): unknown {
  const { detail } = entry as { readonly detail?: { readonly kind?: unknown } };
  return detail?.kind;
}

function anonymousBytes(): number {
  return Number(/^RssAnon:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1]) * 1024;
}
