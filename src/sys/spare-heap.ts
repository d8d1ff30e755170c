import koffi from 'koffi';

import { libc } from './libc.ts';

/** MemoryPressureLevel::kModerate of v8-isolate.h. */
const MODERATE = 1;

const mallocTrim: (padBytes: number) => number = libc.func('malloc_trim', 'int', ['size_t']);

/** Functions of V8 that Node's program has for native modules, by the names that its C++ compiler gave them. */
interface HeapCalls {
  readonly current: () => unknown;
  readonly notify: (isolate: unknown, level: number) => void;
}

/**
 * Memory that this process has asked for and does not use: objects that nobody refers to any more, and what malloc keeps
 * for later. V8 collects the first when its heap has grown by a good part again, which at rest may take hours.
 */
export class SpareHeap {
  readonly #calls = findHeapCalls();

  /**
   * Has V8 begin to collect what this thread's heap does not need, as when a machine is short of memory: marked by other
   * threads and between events, moved together in one piece at the end, some 15 ms for 20 MB. Returns at once; false where
   * this Node does not have it.
   */
  collect(): boolean {
    this.#calls?.notify(this.#calls.current(), MODERATE);
    return this.#calls !== undefined;
  }

  /** Gives back what malloc keeps, of all threads: a millisecond or two (malloc_trim(3)). */
  release(): void {
    mallocTrim(0);
  }
}

function findHeapCalls(): HeapCalls | undefined {
  try {
    const program = koffi.load(null);
    return {
      current: program.func('_ZN2v87Isolate10GetCurrentEv', 'void *', []),
      notify: program.func('_ZN2v87Isolate26MemoryPressureNotificationENS_19MemoryPressureLevelE', 'void', [
        'void *',
        'int',
      ]),
    };
  } catch {
    return undefined;
  }
}
