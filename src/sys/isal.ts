import koffi from 'koffi';

import { BerthError, invalid } from '../base/errors.ts';
import { libc } from './libc.ts';

/**
 * Intel's ISA-L (Debian: libisal2), which inflates gzip in less than half the time that zlib takes. It is used where
 * it is installed and passes a test; nothing depends on it.
 */

/** Where igzip_lib.h of version 2.30 has the fields of struct inflate_state. */
const NEXT_OUT = 0;
const AVAIL_OUT = 8;
const NEXT_IN = 16;
const AVAIL_IN = 32;
const BLOCK_STATE = 21_160;
const CRC_FLAG = 21_172;
/** 87,368 bytes, and room for what a later version may add. */
const STATE_BYTES = 128 * 1024;

const ISAL_GZIP = 1;
const ISAL_BLOCK_FINISH = 5;

const problems: Readonly<Record<number, string>> = Object.freeze({
  '-1': 'has an invalid block',
  '-2': 'has an invalid symbol',
  '-3': 'refers to bytes before its beginning',
  '-4': 'has an invalid header',
  '-5': 'is compressed by an unknown method',
  '-6': 'has a wrong checksum',
});

/** The text `berth`, compressed by gzip in two members. */
const SAMPLE = Buffer.from('H4sIAAAAAAAAA0tKLSoBAA5HFrQEAAAAH4sIAAAAAAAAA8sAAOcGa5EBAAAA', 'base64');

interface Calls {
  readonly init: (state: Uint8Array) => void;
  readonly inflate: (state: Uint8Array) => number;
}

const addressCall = libc.func('memmove', 'uintptr_t', ['void *', 'const void *', 'size_t']) as (
  to: Uint8Array,
  from: Uint8Array,
  bytes: number,
) => number | bigint;

/** What one step did. */
export interface InflateStep {
  /** Bytes of the input that are used up. */
  readonly consumed: number;
  /** Bytes that were written to the output. */
  readonly produced: number;
  /** True at the end of a gzip member; the next step begins another one. */
  readonly memberEnded: boolean;
}

/** Inflates gzip by ISA-L. `openIsal` makes it. */
export class IsalGunzip {
  readonly #calls: Calls;
  readonly #state = Buffer.alloc(STATE_BYTES);
  #isNew = true;

  constructor(calls: Calls) {
    this.#calls = calls;
  }

  /**
   * Inflates from `input` to `output`, until the one is used up, the other full, or a member has ended. Both must be
   * longer than 64 bytes of memory of their own. Throws `invalid` for what is no gzip.
   */
  step(input: Buffer, output: Buffer): InflateStep {
    const state = this.#state;
    if (this.#isNew) {
      this.#calls.init(state);
      state.writeUInt32LE(ISAL_GZIP, CRC_FLAG);
      this.#isNew = false;
    }
    state.writeBigUInt64LE(addressOf(input), NEXT_IN);
    state.writeUInt32LE(input.length, AVAIL_IN);
    state.writeBigUInt64LE(addressOf(output), NEXT_OUT);
    state.writeUInt32LE(output.length, AVAIL_OUT);
    const code = this.#calls.inflate(state);
    if (code < 0) throw invalid('gzip', problems[code] ?? `is damaged (${code})`);
    // 3 to 6: something longer than a reader wants; not asked for, so not expected.
    if (code > 2) throw invalid('gzip', `cannot be inflated (${code})`);
    const memberEnded = state.readUInt32LE(BLOCK_STATE) === ISAL_BLOCK_FINISH;
    if (memberEnded) this.#isNew = true;
    return {
      consumed: input.length - state.readUInt32LE(AVAIL_IN),
      produced: output.length - state.readUInt32LE(AVAIL_OUT),
      memberEnded,
    };
  }
}

/** The library, ready to be used. */
export interface IsalLibrary {
  newGunzip(): IsalGunzip;
}

/** Looks for the library. Undefined where it is not installed, or is another version that does not pass the test. */
export function openIsal(): IsalLibrary | undefined {
  let calls: Calls;
  try {
    const library = koffi.load('libisal.so.2');
    calls = {
      init: library.func('isal_inflate_init', 'void', ['void *']) as Calls['init'],
      inflate: library.func('isal_inflate', 'int', ['void *']) as Calls['inflate'],
    };
  } catch {
    return undefined;
  }
  const isal = { newGunzip: () => new IsalGunzip(calls) };
  return passes(isal.newGunzip()) ? isal : undefined;
}

function passes(gunzip: IsalGunzip): boolean {
  // Longer than what V8 keeps in its own heap, where memory moves.
  const [input, output] = [Buffer.alloc(4096), Buffer.alloc(4096)];
  SAMPLE.copy(input);
  try {
    let text = '';
    for (let at = 0; at < SAMPLE.length; ) {
      const { consumed, produced, memberEnded } = gunzip.step(input.subarray(at, SAMPLE.length), output);
      if (consumed === 0 || !memberEnded) return false;
      text += output.toString('latin1', 0, produced);
      at += consumed;
    }
    return text === 'berth';
  } catch (err) {
    if (err instanceof BerthError) return false;
    throw err;
  }
}

/** The memory stays where it is for as long as somebody holds the buffer. */
function addressOf(bytes: Buffer): bigint {
  return BigInt(addressCall(bytes, bytes, 0));
}
