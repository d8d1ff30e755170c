import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { FAULTS_VARIABLE, type Fault } from '../../src/base/fault-points.ts';

const NOTHING_SAID = {
  phase: 'before',
  action: 'error',
  skip: 0,
  error: 'unavailable',
  delayMs: 0,
  script: '',
} as const satisfies Omit<Fault, 'place'>;

/** A fault as a test describes it. */
export type FaultFields = Partial<Fault> & Pick<Fault, 'place'>;

/** The folder by which a test disturbs a berthd that was started with `environment`. */
export class FaultFolder implements Disposable {
  readonly path: string = mkdtempSync(join(tmpdir(), 'berth-fault-folder-'));
  #count = 0;

  get environment(): Record<string, string> {
    return { [FAULTS_VARIABLE]: this.path };
  }

  /** Has a fault wait at its place. */
  arm(fault: FaultFields): ArmedFault {
    this.#count += 1;
    // Names in the order in which they were armed.
    const name = String(this.#count).padStart(6, '0');
    writeFileSync(join(this.path, `${name}.armed`), JSON.stringify({ ...NOTHING_SAID, ...fault }));
    return new ArmedFault(join(this.path, name));
  }

  /** Takes the faults away that have not struck: none does any more. */
  disarm(): void {
    for (const name of readdirSync(this.path))
      if (name.includes('.armed')) rmSync(join(this.path, name), { force: true });
  }

  /** Takes all faults away; what hangs goes on. */
  clear(): void {
    for (const name of readdirSync(this.path)) if (name !== 'passed') rmSync(join(this.path, name), { force: true });
  }

  /** Forgets which places were passed. */
  forgetPassed(): void {
    writeFileSync(join(this.path, 'passed'), '');
  }

  /** The places that were passed, in order. */
  passed(): string[] {
    const file = join(this.path, 'passed');
    return existsSync(file) ? readFileSync(file, 'utf8').split('\n').filter(Boolean) : [];
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true });
  }
}

/** A fault that was armed. */
export class ArmedFault {
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  /** True when it has struck. */
  get hasStruck(): boolean {
    return existsSync(`${this.#file}.fired`);
  }

  /** Lets what hangs go on. */
  release(): void {
    rmSync(`${this.#file}.fired`, { force: true });
  }
}
