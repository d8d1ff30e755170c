import { execFile, execFileSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const TOP = fileURLToPath(new URL('../..', import.meta.url));
const BUILD_TIMEOUT_MS = 400_000;

/**
 * crictl: the one in the PATH, else one that is built where Go 1.26 is. A text says why there is none.
 */
export function findCrictl(): { readonly path: string } | { readonly missing: string } {
  for (const folder of ['/usr/local/bin', '/usr/bin']) {
    if (existsSync(join(folder, 'crictl'))) return { path: join(folder, 'crictl') };
  }
  const built = join(TOP, 'node_modules/.cache/crictl');
  if (existsSync(built)) return { path: built };
  const go = ['/usr/local/go/bin/go', '/usr/bin/go'].find((path) => existsSync(path));
  if (go === undefined) return { missing: 'crictl is not installed, and Go, which could build it, neither' };
  mkdirSync(join(TOP, 'node_modules/.cache'), { recursive: true });
  try {
    execFileSync(go, ['build', '-o', built, 'sigs.k8s.io/cri-tools/cmd/crictl'], {
      cwd: join(TOP, 'test/crictl'),
      timeout: BUILD_TIMEOUT_MS,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    return { path: built };
  } catch (err) {
    return {
      missing: `crictl is not installed, and cannot be built: ${err instanceof Error ? err.message : String(err)}`,
    };
  }
}

/** Runs crictl against an endpoint and returns what it prints, trimmed. Throws with its own words when it fails. */
export async function crictl(path: string, endpoint: string, ...args: string[]): Promise<string> {
  const own = [
    '--config',
    '/dev/null',
    '--runtime-endpoint',
    endpoint,
    '--image-endpoint',
    endpoint,
    '--timeout',
    '60s',
  ];
  const { stdout } = await run(path, [...own, ...args], { timeout: 90_000, maxBuffer: 16 * 1024 * 1024 });
  return stdout.trim();
}
