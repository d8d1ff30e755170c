import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const TOP = fileURLToPath(new URL('../..', import.meta.url));
const END = 'end of the command:';
const COMMAND_TIMEOUT_MS = 300_000;

/** In place of systemd: starts what the unit says, in the background, and stops it as the unit does. No
 * more than systemd's does it start a unit that is disabled, which /var/tmp/disabled says. */
const INVOKE = `#!/bin/sh
unit=/usr/lib/systemd/system/$2
echo "$1 $2" >> /var/tmp/invoked
case "$1" in
  start)
    [ ! -e /var/tmp/disabled ] || [ -n "$BY_SYSTEMCTL" ] || exit 0
    [ -e "$unit" ] || exit 0
    setsid $(sed -n 's/^ExecStart=//p' "$unit") >>/var/tmp/berthd.log 2>&1 </dev/null &
    echo $! >/run/berthd.pid
    for try in $(seq 600); do berth version >/dev/null 2>&1 && break; sleep 0.1; done
    ;;
  stop)
    ls -d /usr/lib/berth/[0-9]* >/var/tmp/unpacked-at-stop 2>&1
    [ -s /run/berthd.pid ] || exit 0
    pid=$(cat /run/berthd.pid)
    kill "$pid" && while kill -0 "$pid" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$pid/status"; do sleep 0.05; done
    rm -f /run/berthd.pid
    ;;
esac
`;

/** In place of systemctl, as far as maintainer scripts ask it. */
const SYSTEMCTL = `#!/bin/sh
case "$*" in
  *is-enabled*) [ ! -e /var/tmp/disabled ] ;;
  *ActiveState*) [ ! -s /run/berthd.pid ] || echo active ;;
  'start '*) BY_SYSTEMCTL=yes exec deb-systemd-invoke "$@" ;;
esac
`;

/** Makes the root of the node: this machine's, with all changes in a folder beside, and none of the checkout. Manual pages
 * of this machine are not sorted again at each installation: with many packages and a slow disk that takes minutes. */
const ENTER = `set -e
mount -t overlay -o lowerdir=/,upperdir=$FOLDER/upper,workdir=$FOLDER/work overlay $FOLDER/root
cd $FOLDER/root
mount --rbind /proc proc; mount --rbind /sys sys; mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run; mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p var/lib/berth; mount --bind $FOLDER/disk var/lib/berth
mkdir -p run/lock run/systemd/system given; mount --bind $FOLDER/given given
mkdir -p .$TOP; mount -t tmpfs tmpfs .$TOP
rm -f usr/bin/node usr/bin/nodejs usr/local/bin/node
for program in deb-systemd-invoke systemctl; do rm -f usr/bin/$program; cp given/$program usr/bin/$program; done
rm -f usr/sbin/policy-rc.d
rm -f var/lib/man-db/auto-update
ip link set lo up
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive chroot . /bin/sh
`;

/**
 * A Debian node that packages can be installed on: this machine's root with an overlay, in mount, network and PID
 * namespaces of its own, where neither the checkout nor another Node is to be seen. What systemd does is done by a
 * stand-in. Dispose of it: all that was started in it ends, and all that was written goes.
 */
export class PackagedNode implements Disposable {
  /** Files that are at /given in the node. */
  readonly given: string;
  readonly #folder: string;
  readonly #shell: ChildProcess;
  #output = '';
  #heard = hearing();

  constructor() {
    this.#folder = mkdtempSync('/var/tmp/berth-packaged-');
    for (const name of ['upper', 'work', 'root', 'disk', 'given']) mkdirSync(join(this.#folder, name));
    this.given = join(this.#folder, 'given');
    for (const [name, script] of [
      ['deb-systemd-invoke', INVOKE],
      ['systemctl', SYSTEMCTL],
    ] as const) {
      writeFileSync(join(this.given, name), script);
      chmodSync(join(this.given, name), 0o755);
    }
    const apart = ['--mount', '--net', '--pid', '--fork', '--kill-child', '--mount-proc', '--propagation', 'private'];
    this.#shell = spawn('unshare', [...apart, 'sh', '-c', ENTER], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, FOLDER: this.#folder, TOP },
    });
    this.#shell.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#output += text;
      this.#heard.resolve();
    });
    this.#shell.once('exit', () => this.#heard.reject(new Error(`the node's shell has ended:\n${this.#output}`)));
  }

  /** Runs a command in the node's shell; its exit code, and what it wrote to standard output and standard error. */
  async try(command: string): Promise<{ readonly code: number; readonly output: string }> {
    this.#output = '';
    this.#shell.stdin?.write(`( ${command}\n) 2>&1 </dev/null; echo "${END} $?"\n`);
    const late = setTimeout(() => this.#heard.reject(new Error(`no end:\n${this.#output}`)), COMMAND_TIMEOUT_MS);
    try {
      for (;;) {
        const end = new RegExp(`${END} (\\d+)\\n$`).exec(this.#output);
        if (end) return { code: Number(end[1]), output: this.#output.slice(0, end.index) };
        await this.#heard.promise;
        this.#heard = hearing();
      }
    } finally {
      clearTimeout(late);
    }
  }

  /** The same, for commands that must succeed. */
  async run(command: string): Promise<string> {
    const { code, output } = await this.try(command);
    assert.equal(code, 0, `${command}:\n${output}`);
    return output.trim();
  }

  async end(): Promise<void> {
    if (this.#shell.exitCode !== null || this.#shell.signalCode !== null) return;
    const ended = once(this.#shell, 'exit');
    this.#shell.stdin?.end();
    this.#shell.kill('SIGKILL');
    await ended;
  }

  /** After end(). */
  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** Paths of what was written on the node and is still there, whose last part matches a pattern of find(1). */
  written(pattern: string): string[] {
    const upper = join(this.#folder, 'upper');
    const found = execFileSync('find', ['.', '-iname', pattern, '!', '-type', 'c'], { cwd: upper, encoding: 'utf8' });
    return found.split('\n').flatMap((path) => (path === '' ? [] : [path.slice(1)]));
  }
}

/** Settles with what the shell says next; nobody need wait for it when the shell ends. */
function hearing(): PromiseWithResolvers<void> {
  const heard = Promise.withResolvers<void>();
  heard.promise.catch(() => undefined);
  return heard;
}
