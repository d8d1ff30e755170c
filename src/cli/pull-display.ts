import type { Pull, PullLayer } from '../../proto/gen/berth/admin.ts';
import { bytes, type Output, shortId, timeLeft } from './output.ts';

const BAR_CELLS = 30;
/** What a line needs beside the bar. */
const NARROWEST = 80;

/** Shows how a pull comes on: a bar for each layer on a terminal, elsewhere a line whenever a layer gets further. */
export class PullDisplay {
  readonly #output: Output;
  readonly #told = new Map<string, string>();
  #lines = 0;
  #last: Pull | undefined;

  constructor(output: Output) {
    this.#output = output;
  }

  /** Shows the state of a pull. */
  show(pull: Pull): void {
    this.#last = pull;
    if (this.#output.columns === undefined) this.#tell(pull);
    else this.#draw(pull, this.#output.columns);
  }

  /** The pull was successful: shows as done what was not seen to be. Nothing when nothing of the pull was seen. */
  end(): void {
    if (!this.#last) return;
    const layers = this.#last.layers.map((layer) => ({ ...layer, phase: 'done', bytesDone: layer.bytesTotal }));
    this.show({ ...this.#last, layers, phase: 'done', secondsLeft: 0 });
    if (this.#output.columns === undefined && this.#last.layersPresent > 0) {
      this.#output.err(
        `${this.#last.layersPresent} more ${plural(this.#last.layersPresent, 'layer was', 'layers were')} here\n`,
      );
    }
  }

  #tell({ layers }: Pull): void {
    for (const { digest, phase, bytesTotal } of layers) {
      const before = this.#told.get(digest);
      this.#told.set(digest, phase);
      if (phase === 'waiting' || phase === before) continue;
      this.#output.err(`${shortId(digest)} ${phase} ${bytes(Number(bytesTotal))}\n`);
    }
  }

  /** Draws over what it drew before. */
  #draw(pull: Pull, columns: number): void {
    const lines = [...pull.layers.map((layer) => layerLine(layer, columns)), summary(pull)];
    const fitting = lines.map((line) => line.slice(0, columns - 1));
    const up = this.#lines > 0 ? `\x1b[${this.#lines}A` : '';
    this.#output.err(`${up}${fitting.map((line) => `\r\x1b[2K${line}\n`).join('')}`);
    this.#lines = Math.max(this.#lines, fitting.length);
  }
}

function layerLine({ digest, phase, bytesTotal, bytesDone }: PullLayer, columns: number): string {
  const [total, done] = [Number(bytesTotal), Number(bytesDone)];
  const share = total === 0 ? 1 : done / total;
  const filled = Math.min(BAR_CELLS, Math.floor(share * BAR_CELLS));
  const bar = columns < NARROWEST ? '' : `[${'='.repeat(filled)}${' '.repeat(BAR_CELLS - filled)}] `;
  const percent = `${Math.floor(share * 100)}%`.padStart(4);
  return `${shortId(digest)} ${bar}${percent} ${bytes(total).padStart(9)} ${phase}`;
}

function summary({ phase, layers, layersPresent, transferredBytes, bytesPerSecond, secondsLeft }: Pull): string {
  if (phase === 'resolving') return 'resolving';
  const done = layers.filter((layer) => layer.phase === 'done').length;
  const here = layersPresent > 0 ? `, ${layersPresent} more ${plural(layersPresent, 'was', 'were')} here` : '';
  const rate = `${bytes(Number(transferredBytes))} at ${bytes(Math.round(bytesPerSecond))}/s`;
  return `${done} of ${layers.length} layers${here}, ${rate}, ${timeLeft(secondsLeft)} left`;
}

function plural(count: number, one: string, many: string): string {
  return count === 1 ? one : many;
}
