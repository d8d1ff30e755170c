import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import type { TestBerthd } from './berthd.ts';

const TOP = fileURLToPath(new URL('../..', import.meta.url));
const UNITS = '/run/systemd/system';
const COMMAND_TIMEOUT_MS = 180_000;

/** The unit of deploy/, as it is for a checkout elsewhere, with other options and folders. */
export function unitText(args: string, name: string): string {
  return readFileSync(join(TOP, 'deploy/berthd.service'), 'utf8')
    .replace(/^ExecStart=.*$/m, `ExecStart=${join(TOP, 'bin/berthd')} ${args}`)
    .replaceAll('/opt/berth/', TOP)
    .replace(/^(RuntimeDirectory|StateDirectory)=berth$/gm, `$1=${name}`);
}

/** True where systemd runs the machine (sd_booted(3)). */
export function hasSystemd(): boolean {
  return existsSync('/run/systemd/system');
}

/** A test's berthd as a service of the systemd that runs this machine. `lines` are added to its [Service] section. */
export class BerthdUnit implements Disposable {
  readonly name: string;
  readonly #file: string;
  readonly #folders: readonly string[];

  constructor(berthd: TestBerthd, lines: readonly string[] = []) {
    const name = basename(berthd.state);
    this.name = `${name}.service`;
    this.#file = join(UNITS, this.name);
    this.#folders = [`/run/${name}-folder`, `/var/lib/${name}-folder`];
    const text = unitText(`--config ${join(berthd.root, 'berth.toml')}`, `${name}-folder`);
    writeFileSync(this.#file, text.replace('[Install]', [...lines, '[Install]'].join('\n')));
    systemctl('daemon-reload');
  }

  /** What `systemctl show` says. */
  show(property: string): string {
    return systemctl('show', '--value', `--property=${property}`, this.name);
  }

  get pid(): number {
    return Number(this.show('MainPID'));
  }

  /** `start`, `stop`, `restart` or `reload`; returns when systemd has done it. Throws when it fails. */
  do(verb: 'start' | 'stop' | 'restart' | 'reload'): void {
    systemctl(verb, this.name);
  }

  /** The journal's entries of berthd itself, or with `UNIT` of systemd about it, with their fields. */
  journal(by: '_SYSTEMD_UNIT' | 'UNIT' = '_SYSTEMD_UNIT'): Record<string, string>[] {
    const args = [`${by}=${this.name}`, '--output=json', '--no-pager'];
    const text = execFileSync('journalctl', args, { encoding: 'utf8', timeout: COMMAND_TIMEOUT_MS });
    return text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, string>);
  }

  [Symbol.dispose](): void {
    try {
      this.do('stop');
    } finally {
      rmSync(this.#file, { force: true });
      systemctl('daemon-reload');
      for (const folder of this.#folders) rmSync(folder, { recursive: true, force: true });
    }
  }
}

/** Runs systemctl and returns what it says. Throws when it fails. */
export function systemctl(...args: readonly string[]): string {
  return execFileSync('systemctl', args, { encoding: 'utf8', timeout: COMMAND_TIMEOUT_MS }).trim();
}
