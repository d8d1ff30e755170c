import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { ListPodSandboxRequest, RuntimeServiceService as runtime } from '../../../proto/gen/cri/api.ts';
import { buildBusyboxLayout, pushLayout, startRegistry, type TestRegistry } from '../../fakes/images.ts';
import { TestBerthd } from '../../harness/berthd.ts';

const execute = promisify(execFile);
const TIMEOUT_MS = 60_000;

/** What a crictl has said and how it ended. */
export interface Said {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A berthd and a registry, and crictl as a person types it. */
export class CrictlLab {
  /** Every sub-command that was tried. */
  readonly tried: Set<string> = new Set();
  readonly #crictl: string;
  readonly berthd: TestBerthd;
  readonly registry: TestRegistry;
  readonly work: string;
  /** A busybox image, and a second tag of it. */
  readonly image: string;
  readonly otherTag: string;

  private constructor(path: string, berthd: TestBerthd, registry: TestRegistry, work: string) {
    this.#crictl = path;
    this.berthd = berthd;
    this.registry = registry;
    this.work = work;
    this.image = `${registry.host}/team/box:1`;
    this.otherTag = `${registry.host}/team/box:2`;
  }

  static async start(path: string, options: { readonly config?: string } = {}): Promise<CrictlLab> {
    const work = mkdtempSync(join(tmpdir(), 'berth-crictl-'));
    const registry = await startRegistry();
    const layout = await buildBusyboxLayout(join(work, 'layout'), {
      tag: 'box',
      config: { Cmd: ['sleep', '1000'], User: 'user', Labels: { team: 'web' } },
    });
    for (const tag of ['1', '2']) await pushLayout(layout, registry, `team/box:${tag}`);
    const berthd = new TestBerthd(options);
    await berthd.start();
    const lab = new CrictlLab(path, berthd, registry, work);
    await lab.run('pull', lab.image);
    return lab;
  }

  async close(): Promise<void> {
    try {
      await this.berthd[Symbol.asyncDispose]();
    } finally {
      await this.registry.close();
      rmSync(this.work, { recursive: true });
    }
  }

  /** Removes what a test left running. */
  async afterTest(): Promise<void> {
    const { items } = await this.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
    for (const { id } of items) {
      await this.berthd.call(runtime.stopPodSandbox, { podSandboxId: id });
      await this.berthd.call(runtime.removePodSandbox, { podSandboxId: id });
    }
    this.berthd.assertNoTraces();
  }

  /** Runs crictl to its end. */
  async say(...args: string[]): Promise<Said> {
    this.#note(args);
    try {
      const { stdout, stderr } = await execute(this.#crictl, this.#arguments(args), {
        timeout: TIMEOUT_MS,
        maxBuffer: 64 * 1024 * 1024,
      });
      return { code: 0, stdout, stderr };
    } catch (err) {
      if (!(err instanceof Error && 'stderr' in err && 'stdout' in err && 'code' in err)) throw err;
      return { code: Number(err.code), stdout: String(err.stdout), stderr: String(err.stderr) };
    }
  }

  /** What crictl prints, trimmed. Throws with its words when it fails. */
  async run(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.say(...args);
    if (code !== 0) throw new Error(`crictl ${args.join(' ')} ended with ${code}: ${stderr}`);
    return stdout.trim();
  }

  /** What crictl says when it fails, which it must. */
  async refused(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.say(...args);
    if (code === 0) throw new Error(`crictl ${args.join(' ')} succeeded: ${stdout}`);
    return stderr;
  }

  /** What crictl prints as JSON. */
  async json<T>(command: string, ...args: string[]): Promise<T> {
    // Options come before names.
    return JSON.parse(await this.run(command, '-o', 'json', ...args)) as T;
  }

  /** Starts a crictl that goes on until it is stopped or has nothing more to do. */
  start(...args: string[]): RunningCrictl {
    this.#note(args);
    return new RunningCrictl(spawn(this.#crictl, this.#arguments(args), { stdio: 'pipe' }));
  }

  /** The same on a terminal of its own, as `script` gives it. */
  startOnTerminal(...args: string[]): RunningCrictl {
    this.#note(args);
    const words = [this.#crictl, ...this.#arguments(args)].map((word) => `'${word.replaceAll("'", "'\\''")}'`);
    return new RunningCrictl(spawn('script', ['-qefc', words.join(' '), '/dev/null'], { stdio: 'pipe' }));
  }

  /** A pod's configuration as a file. */
  podFile(name: string, more: object = {}): string {
    return this.file(`${name}-pod.json`, {
      metadata: { name, namespace: 'people', uid: `uid-${name}`, attempt: 1 },
      log_directory: join(this.berthd.root, 'logs', name),
      linux: { security_context: { namespace_options: { pid: 1 } } },
      ...more,
    });
  }

  /** A container's configuration as a file. */
  containerFile(name: string, more: object = {}): string {
    const config = { metadata: { name }, image: { image: this.image }, log_path: `${name}.log`, ...more };
    return this.file(`${name}-container.json`, config);
  }

  file(name: string, content: object | string): string {
    const path = join(this.work, name);
    writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
    return path;
  }

  /** A pod with one container that runs. */
  async pod(name: string, container: object = {}, pod: object = {}): Promise<{ pod: string; container: string }> {
    const id = await this.run('runp', this.podFile(name, pod));
    const made = await this.run('create', id, this.containerFile(name, container), this.podFile(name, pod));
    await this.run('start', made);
    return { pod: id, container: made };
  }

  #note(args: readonly string[]): void {
    const [first = ''] = args;
    this.tried.add(first);
  }

  #arguments(args: readonly string[]): string[] {
    const { endpoint } = this.berthd;
    const own = ['--config', '/dev/null', '--runtime-endpoint', endpoint, '--image-endpoint', endpoint];
    return [...own, '--timeout', '30s', ...args];
  }
}

/** A crictl that runs. */
export class RunningCrictl implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #ended: Promise<number>;
  readonly #waiting: Set<() => void> = new Set();
  stdout = '';
  stderr = '';

  constructor(child: ChildProcess) {
    this.#child = child;
    const { promise, resolve } = Promise.withResolvers<number>();
    this.#ended = promise;
    child.once('close', (code, signal) => {
      resolve(code ?? (signal === null ? -1 : 128));
      this.#tell();
    });
    child.stdin?.on('error', () => undefined);
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
      this.#tell();
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
      this.#tell();
    });
  }

  /** Types something. */
  type(text: string): void {
    this.#child.stdin?.write(text);
  }

  /** Says that nothing more will be typed. */
  endInput(): void {
    this.#child.stdin?.end();
  }

  /** Waits until its output, of both kinds, matches. Throws when it ends without, or takes too long. */
  async shows(pattern: RegExp): Promise<RegExpExecArray> {
    const { promise, resolve, reject } = Promise.withResolvers<RegExpExecArray>();
    let hasEnded = false;
    const look = (): void => {
      const match = pattern.exec(`${this.stdout}${this.stderr}`);
      if (match) resolve(match);
      else if (hasEnded) reject(new Error(`crictl ended without ${pattern}: ${this.stdout}${this.stderr}`));
    };
    void this.#ended.then(() => {
      hasEnded = true;
      look();
    });
    const late = (): void => reject(new Error(`crictl does not show ${pattern}: ${this.stdout}${this.stderr}`));
    const timer = setTimeout(late, TIMEOUT_MS);
    this.#waiting.add(look);
    look();
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(look);
    }
  }

  /** Waits for its end; returns its exit code. */
  async end(): Promise<number> {
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), TIMEOUT_MS);
    try {
      return await this.#ended;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ctrl-C, and its end. */
  async interrupt(): Promise<number> {
    this.#child.kill('SIGINT');
    return await this.end();
  }

  /** Its end without a word, as when a connection breaks. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }

  #tell(): void {
    for (const look of this.#waiting) look();
  }
}
