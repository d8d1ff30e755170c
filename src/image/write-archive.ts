/** Writes a tar of documents and layers, in the ustar form (POSIX.1-2017, pax). For worker threads. */

import { writeSync } from 'node:fs';

import { BerthError, wrap } from '../base/errors.ts';
import { assembleLayer, type KeptLayer } from './assemble-layer.ts';
import { BLOCK_BYTES } from './tar-header.ts';

/** A file of the archive; its name is ASCII. */
export type ArchiveEntry =
  | { readonly name: string; readonly bytes: Uint8Array }
  | { readonly name: string; readonly sizeBytes: number; readonly layer: KeptLayer };

/** Octal digits go this far; longer ones are written in base 256 (tar manual, "Basic Tar Format"). */
const MAX_OCTAL_SIZE = 0o77777777777;
const MAX_NAME_CHARS = 100;

/**
 * Writes the entries and the end marker. Throws `precondition` for a layer that is not as it was unpacked; what is
 * written by then is no whole archive.
 */
export async function writeArchive(
  fd: number,
  entries: readonly ArchiveEntry[],
  throwIfCancelled: () => void,
): Promise<void> {
  const output = new BlockOutput(fd);
  for (const entry of entries) {
    throwIfCancelled();
    const sizeBytes = 'bytes' in entry ? entry.bytes.length : entry.sizeBytes;
    for (const block of headers(entry.name, sizeBytes)) output.write(block);
    if ('bytes' in entry) output.write(entry.bytes);
    else await writeLayer(output, entry, throwIfCancelled);
    output.write(Buffer.alloc((BLOCK_BYTES - (sizeBytes % BLOCK_BYTES)) % BLOCK_BYTES));
  }
  output.write(Buffer.alloc(2 * BLOCK_BYTES));
  output.flush();
}

async function writeLayer(
  output: BlockOutput,
  { layer, sizeBytes }: { readonly layer: KeptLayer; readonly sizeBytes: number },
  throwIfCancelled: () => void,
): Promise<void> {
  let written = 0;
  const emit = (bytes: Buffer): void => {
    written += bytes.length;
    if (written > sizeBytes) throw new BerthError('precondition', `it is longer than ${sizeBytes} bytes`);
    output.write(bytes);
  };
  try {
    await assembleLayer(layer, emit, throwIfCancelled);
    if (written < sizeBytes) throw new BerthError('precondition', `it has ${written} bytes of ${sizeBytes}`);
  } catch (err) {
    throw wrap(`layer ${layer.diffId} is not what it was when it was pulled`, err);
  }
}

const OUTPUT_BYTES = 256 * 1024;

/** Few large writes in place of many small ones. */
class BlockOutput {
  readonly #fd: number;
  readonly #block = Buffer.allocUnsafeSlow(OUTPUT_BYTES);
  #filled = 0;

  constructor(fd: number) {
    this.#fd = fd;
  }

  write(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const now = Math.min(bytes.length - done, OUTPUT_BYTES - this.#filled);
      this.#block.set(bytes.subarray(done, done + now), this.#filled);
      this.#filled += now;
      done += now;
      if (this.#filled === OUTPUT_BYTES) this.flush();
    }
  }

  flush(): void {
    for (let done = 0; done < this.#filled; ) done += writeSync(this.#fd, this.#block, done, this.#filled - done);
    this.#filled = 0;
  }
}

/** A long name goes in front as a file of its own, the way GNU tar does it (tar manual, "Basic Tar Format"). */
function headers(name: string, sizeBytes: number): Buffer[] {
  const plain = header(name, sizeBytes, '0');
  if (name.length <= MAX_NAME_CHARS) return [plain];
  const content = Buffer.alloc(Math.ceil((name.length + 1) / BLOCK_BYTES) * BLOCK_BYTES);
  content.write(name, 'latin1');
  return [header('././@LongLink', name.length + 1, 'L'), content, plain];
}

function header(name: string, sizeBytes: number, type: string): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  block.write(name, 0, MAX_NAME_CHARS, 'latin1');
  block.write('0000644\0', 100, 'latin1');
  block.write('0000000\0', 108, 'latin1');
  block.write('0000000\0', 116, 'latin1');
  if (sizeBytes <= MAX_OCTAL_SIZE) {
    block.write(`${sizeBytes.toString(8).padStart(11, '0')}\0`, 124, 'latin1');
  } else {
    block[124] = 0x80;
    block.writeBigUInt64BE(BigInt(sizeBytes), 128);
  }
  block.write('00000000000\0', 136, 'latin1');
  block.write(`        ${type}`, 148, 'latin1');
  block.write('ustar\x0000', 257, 'latin1');
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}
