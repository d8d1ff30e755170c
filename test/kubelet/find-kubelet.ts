/** Finds the kubelet that the scenes run, or builds one. */

import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const execute = promisify(execFile);
const CACHE = fileURLToPath(new URL('../../node_modules/.cache/kubelet', import.meta.url));
const DOWNLOAD_TIMEOUT_MS = 300_000;
/** Two slow processors need half an hour. */
const BUILD_TIMEOUT_MS = 3_600_000;
const VERSION = /^1\.(\d+)\.\d+$/;
const OLDEST_MINOR = 30;

/** A kubelet, or why there is none. */
export type FoundKubelet = { readonly program: string; readonly version: string } | { readonly missing: string };

/** The kubelet of that version (such as 1.36.3), built if it is not there yet; without a version the one of $KUBELET_BIN. */
export async function findKubelet(version: string | undefined): Promise<FoundKubelet> {
  if (version !== undefined) return await buildKubelet(version);
  const named = process.env['KUBELET_BIN'];
  if (named === undefined) return { missing: 'KUBELET_BIN names no kubelet, and --build VERSION was not said' };
  if (!existsSync(named)) return { missing: `KUBELET_BIN names ${named}, which is not there` };
  return await examine(named);
}

async function examine(program: string): Promise<FoundKubelet> {
  const { stdout } = await execute(program, ['--version'], { timeout: 30_000 });
  const version = /^Kubernetes v(\S+)/.exec(stdout)?.[1];
  if (version === undefined) return { missing: `${program} is no kubelet: --version says ${stdout.split('\n')[0]}` };
  const minor = Number(/^1\.(\d+)\./.exec(version)?.[1] ?? 0);
  if (minor < OLDEST_MINOR) return { missing: `${program} is ${version}; the scenes need 1.${OLDEST_MINOR} or newer` };
  return { program, version };
}

/** Builds a version from its sources, as Go's module proxy has them, into a cache. */
async function buildKubelet(version: string): Promise<FoundKubelet> {
  const minor = VERSION.exec(version)?.[1];
  if (minor === undefined) return { missing: `--build ${version} is no version such as 1.36.3` };
  const program = join(CACHE, `kubelet-${version}`);
  if (existsSync(program)) return await examine(program);
  const go = ['/usr/local/go/bin', ...(process.env['PATH'] ?? '').split(':')]
    .map((folder) => join(folder, 'go'))
    .find((path) => existsSync(path));
  if (go === undefined) return { missing: 'Go, which could build it, is not installed' };
  const folder = join(CACHE, `module-${version}`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  try {
    writeFileSync(join(folder, 'go.mod'), moduleFor(version, await kubernetesModule(go, version)));
    const draft = join(folder, 'kubelet');
    await compile(go, folder, ['build', '-trimpath', '-ldflags', linkerFlags(version, minor), '-o', draft]);
    renameSync(draft, program);
    return await examine(program);
  } catch (err) {
    return { missing: `kubelet ${version} cannot be built: ${err instanceof Error ? err.message : String(err)}` };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The go.mod of a version of Kubernetes. */
async function kubernetesModule(go: string, version: string): Promise<string> {
  const { stdout } = await execute(go, ['mod', 'download', '-json', `k8s.io/kubernetes@v${version}`], {
    cwd: CACHE,
    timeout: DOWNLOAD_TIMEOUT_MS,
  });
  const { GoMod: file } = JSON.parse(stdout) as { GoMod: string };
  return readFileSync(file, 'utf8');
}

/** A module that requires Kubernetes, with the libraries that Kubernetes keeps in its own tree as they are published. */
function moduleFor(version: string, kubernetes: string): string {
  const settings = kubernetes.match(/^(go|godebug) .*$/gm) ?? [];
  const staged = [...kubernetes.matchAll(/^\t(k8s\.io\/\S+) => \.\/staging\//gm)].map((match) => match[1]);
  const published = version.replace(/^1\./, 'v0.');
  return [
    'module berth.test/kubelet',
    ...settings,
    `require k8s.io/kubernetes v${version}`,
    ...staged.map((name) => `replace ${name} => ${name} ${published}`),
    '',
  ].join('\n\n');
}

function linkerFlags(version: string, minor: string): string {
  const facts = { gitVersion: `v${version}`, gitMajor: '1', gitMinor: minor, gitTreeState: 'clean' };
  const told = Object.entries(facts).map(([name, value]) => `-X k8s.io/component-base/version.${name}=${value}`);
  return ['-s', '-w', ...told].join(' ');
}

/** Go says on its standard error what it downloads: this takes long. */
async function compile(go: string, folder: string, words: readonly string[]): Promise<void> {
  // Another toolchain would be a download; go.mod and go.sum are completed on the way.
  const environment = { ...process.env, GOTOOLCHAIN: 'local', GOFLAGS: '-mod=mod -buildvcs=false' };
  const child = spawn(go, [...words, 'k8s.io/kubernetes/cmd/kubelet'], {
    cwd: folder,
    env: environment,
    stdio: ['ignore', 'inherit', 'inherit'],
    timeout: BUILD_TIMEOUT_MS,
  });
  const { promise, resolve, reject } = Promise.withResolvers<number | null>();
  child.once('error', reject).once('exit', resolve);
  const code = await promise;
  if (code !== 0) throw new Error(`go build ended with ${code ?? child.signalCode}`);
}
