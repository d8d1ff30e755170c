import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** What differs from the plainest container that runc and crun both run. */
export interface BundleOptions {
  readonly args: readonly string[];
  readonly cgroupsPath: string;
  readonly memoryLimitBytes?: number;
  readonly seccomp?: object;
  readonly capabilities?: readonly string[];
}

const APPLETS = ['sh', 'cat', 'sleep', 'true', 'ls', 'id', 'date', 'hostname', 'unshare', 'mount', 'chmod', 'wget'];

/** Makes a bundle with Debian's busybox as its root file system below `folder`, and returns its path. */
export function makeBundle(folder: string, options: BundleOptions): string {
  const bundle = join(folder, 'bundle');
  const rootfs = join(bundle, 'rootfs');
  for (const name of ['proc', 'dev']) mkdirSync(join(rootfs, name), { recursive: true });
  const libraries = execFileSync('ldd', ['/bin/busybox'], { encoding: 'utf8' }).match(/\/lib\S+/g) ?? [];
  for (const file of ['/bin/busybox', ...libraries]) {
    mkdirSync(join(rootfs, dirname(file)), { recursive: true });
    copyFileSync(file, join(rootfs, file));
  }
  for (const applet of APPLETS) symlinkSync('busybox', join(rootfs, 'bin', applet));
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(config(options)));
  return bundle;
}

function config(options: BundleOptions): object {
  const capabilities = options.capabilities ?? [];
  return {
    ociVersion: '1.0.2',
    process: {
      user: { uid: 0, gid: 0 },
      args: options.args,
      env: ['PATH=/bin'],
      cwd: '/',
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
    },
    root: { path: 'rootfs', readonly: true },
    mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }],
    linux: {
      cgroupsPath: options.cgroupsPath,
      namespaces: [{ type: 'pid' }, { type: 'ipc' }, { type: 'uts' }, { type: 'mount' }],
      resources: { ...(options.memoryLimitBytes ? { memory: { limit: options.memoryLimitBytes } } : {}) },
      ...(options.seccomp ? { seccomp: options.seccomp } : {}),
    },
  };
}
