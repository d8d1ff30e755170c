/** A virtual machine: qemu's process, its disks, its console, and the port for commands. */

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { stripVTControlCharacters } from 'node:util';

import { type Answer, type CommandOptions, Control } from './control.ts';

/** What a machine is made of. */
export interface MachineParts {
  readonly kernel: string;
  readonly initrd: string;
  /** ext4 images. They stay as they are: what the machine writes is gone when it ends. */
  readonly root: string;
  readonly checkout: string;
  /** Existing folder for the socket for commands. Its path is short (man 7 unix). */
  readonly folder: string;
  /** Existing folder for console.log and journal.log. */
  readonly logs: string;
  /** `tcg` emulates every instruction, and works wherever qemu does; `kvm` is for hosts that have it in full. */
  readonly accelerator: 'tcg' | 'kvm';
  readonly memoryMib: number;
}

/** An emulated boot takes a minute on an idle host, and any number of them on a busy one. */
const BOOT_TIMEOUT_MS = 25 * 60_000;
const POWER_OFF_TIMEOUT_MS = 600_000;
const KILL_TIMEOUT_MS = 10_000;
const SOCKET_TIMEOUT_MS = 20_000;
const SHOWN_CONSOLE_LINES = 40;
/**
 * One emulated processor in one thread: several crash Debian's kernels. Its clock counts instructions, a nanosecond each
 * (and follows the host's while it waits), so that a second in the machine is enough for what a second of a real
 * processor is, however slow and busy the host: the machine's timeouts and watchdogs mean what they mean on a node.
 */
const EMULATION = ['-accel', 'tcg,thread=single', '-icount', 'shift=0,sleep=on', '-rtc', 'clock=vm'];
const KERNEL_OPTIONS = [
  'root=/dev/vda',
  'rw',
  'console=ttyS0',
  'panic=-1',
  // What every boot would load, and test in emulation, for nothing.
  'module_blacklist=aesni_intel,ghash_clmulni_intel,sha512_ssse3,sha256_ssse3,sha1_ssse3,crct10dif_pclmul,crc32_pclmul',
];

/** Where the port for commands of a machine in that folder is. */
export function controlSocket(folder: string): string {
  return join(folder, 'control.sock');
}

/** How qemu is called. */
export function qemuArguments(parts: MachineParts): string[] {
  const accelerator = parts.accelerator === 'kvm' ? ['-accel', 'kvm'] : EMULATION;
  const disk = (path: string): string[] => ['-drive', `file=${path},format=raw,if=virtio,snapshot=on,cache=unsafe`];
  return [
    ...accelerator,
    ...['-cpu', 'max', '-smp', '1', '-m', String(parts.memoryMib)],
    ...['-nodefaults', '-no-user-config', '-display', 'none'],
    ...['-kernel', parts.kernel, '-initrd', parts.initrd],
    ...['-append', KERNEL_OPTIONS.join(' ')],
    ...disk(parts.root),
    ...disk(parts.checkout),
    ...['-netdev', 'user,id=net,restrict=on', '-device', 'virtio-net-pci,netdev=net,romfile='],
    ...['-object', 'rng-random,id=rng,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng'],
    ...['-serial', `file:${join(parts.logs, 'console.log')}`],
    ...['-device', 'virtio-serial-pci'],
    ...['-chardev', `socket,id=control,path=${controlSocket(parts.folder)},server=on,wait=off`],
    ...['-device', 'virtserialport,chardev=control,name=berth.control'],
    ...['-chardev', `file,id=journal,path=${join(parts.logs, 'journal.log')}`],
    ...['-device', 'virtserialport,chardev=journal,name=berth.journal'],
  ];
}

/** The end of what a console showed, without what only a terminal understands. */
export function lastLines(console: string, count = SHOWN_CONSOLE_LINES): string {
  const plain = stripVTControlCharacters(console).replaceAll('\r', '');
  return plain.trimEnd().split('\n').slice(-count).join('\n');
}

/** A machine that is up. Dispose of it: it ends in any case, after what it was given to end by itself. */
export class Machine implements AsyncDisposable {
  readonly #parts: MachineParts;
  readonly #qemu: ChildProcess;
  readonly #ended: Promise<void>;
  #control: Control | undefined;
  #boot: string | undefined;

  private constructor(parts: MachineParts) {
    this.#parts = parts;
    const args = qemuArguments(parts);
    this.#qemu = spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'inherit', 'inherit'] });
    // However this process ends, the machine ends with it.
    process.once('exit', () => this.#qemu.kill('SIGKILL'));
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#qemu.once('exit', () => resolve()).once('error', () => resolve());
    this.#ended = promise;
  }

  /** Boots a machine and returns when it takes commands. Throws with the console's end when it does not. */
  static async boot(parts: MachineParts): Promise<Machine> {
    const machine = new Machine(parts);
    try {
      await machine.#connect();
      await machine.#comesUp();
      return machine;
    } catch (err) {
      await machine[Symbol.asyncDispose]();
      throw err;
    }
  }

  /** Runs a command of the machine's shell. */
  async run(command: string, options: CommandOptions): Promise<Answer> {
    try {
      return await this.#connected.run(command, options);
    } catch (err) {
      throw this.#withConsole(err);
    }
  }

  /** Runs a command that must succeed, and returns what it wrote. */
  async output(command: string, timeoutMs: number): Promise<string> {
    const { status, output } = await this.run(command, { timeoutMs });
    if (status !== 0) throw new Error(`${command}: exit code ${status}\n${output.toString()}`);
    return output.toString();
  }

  /** Reboots it, as an administrator does, and returns when it takes commands again. */
  async reboot(): Promise<void> {
    this.#connected.send('systemctl reboot');
    await this.#comesUp();
  }

  /** Lets it power itself off. Throws when it does not. */
  async powerOff(): Promise<void> {
    this.#connected.send('systemctl poweroff');
    if (!(await this.#endsWithin(POWER_OFF_TIMEOUT_MS)))
      throw this.#withConsole(new Error(`the machine did not power off within ${POWER_OFF_TIMEOUT_MS / 1000} s`));
  }

  /** Leaves the port to another program. */
  disconnect(): void {
    this.#control?.[Symbol.dispose]();
    this.#control = undefined;
  }

  /** Returns when it has powered itself off. */
  async ended(): Promise<void> {
    await this.#ended;
  }

  /** Ends qemu, if it has not ended: first kindly, then not. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      if (this.#qemu.exitCode !== null || this.#qemu.signalCode !== null) break;
      this.#qemu.kill(signal);
      if (await this.#endsWithin(KILL_TIMEOUT_MS)) break;
    }
    this.disconnect();
  }

  get #connected(): Control {
    if (!this.#control) throw new Error('the machine takes no commands from here');
    return this.#control;
  }

  /** qemu makes the socket before anything runs. */
  async #connect(): Promise<void> {
    const path = controlSocket(this.#parts.folder);
    const giveUpAt = performance.now() + SOCKET_TIMEOUT_MS;
    while (!existsSync(path)) {
      if (this.#qemu.exitCode !== null) throw new Error(`qemu ended with ${this.#qemu.exitCode}`);
      if (performance.now() > giveUpAt) throw new Error('qemu does not start');
      await delay(50);
    }
    this.#control = await Control.connect(path);
  }

  async #comesUp(): Promise<void> {
    try {
      this.#boot = await this.#connected.ready(this.#boot, BOOT_TIMEOUT_MS);
    } catch (err) {
      throw this.#withConsole(err);
    }
  }

  async #endsWithin(timeoutMs: number): Promise<boolean> {
    const timer = AbortSignal.timeout(timeoutMs);
    const late = new Promise<boolean>((resolve) => timer.addEventListener('abort', () => resolve(false)));
    return await Promise.race([this.#ended.then(() => true), late]);
  }

  #withConsole(err: unknown): Error {
    const path = join(this.#parts.logs, 'console.log');
    const console = existsSync(path) ? readFileSync(path, 'utf8') : '';
    const problem = err instanceof Error ? err.message : String(err);
    return new Error(`${problem}; the console's last lines:\n${lastLines(console)}`, { cause: err });
  }
}
