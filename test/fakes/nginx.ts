import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Debian's nginx with the libraries that busybox does not need anyway. */
export const NGINX_PACKAGES: readonly string[] = ['nginx', 'libcrypt1', 'libpcre2-8-0', 'libssl3', 'zlib1g'];
/** Names the folder that has them on a machine without a network. */
const FOLDER_VARIABLE = 'BERTH_TEST_NGINX';

/** What its server shall be like. */
export interface NginxOptions {
  /** Text of /index.html. */
  readonly page: string;
  /** TCP port that it listens on; 80 by default. */
  readonly port?: number;
}

/** Puts Debian's nginx, a configuration and a page into a root filesystem. Throws when the packages cannot be had. */
export async function addNginx(rootfs: string, { page, port = 80 }: NginxOptions): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), 'berth-nginx-'));
  try {
    const given = process.env[FOLDER_VARIABLE];
    const packages = given ?? join(work, 'packages');
    if (given === undefined) await download(packages);
    for (const file of await readdir(packages)) await run('dpkg', ['-x', join(packages, file), join(work, 'tree')]);
    // Debian's folders of libraries are links in a root of our own making: only files are taken over.
    for (const folder of ['usr/sbin', 'lib', 'usr/lib']) {
      await mkdir(join(rootfs, folder), { recursive: true });
      await run('cp', ['-a', '--no-preserve=ownership', `${join(work, 'tree', folder)}/.`, join(rootfs, folder)]);
    }
  } finally {
    await rm(work, { recursive: true });
  }
  for (const folder of ['etc/nginx', 'var/lib/nginx', 'var/log/nginx', 'var/run']) {
    await mkdir(join(rootfs, folder), { recursive: true });
  }
  await writeFile(join(rootfs, 'etc/nginx/nginx.conf'), configuration(port));
  await writeFile(join(rootfs, 'www/index.html'), page);
}

function configuration(port: number): string {
  return `
daemon off;
user root;
error_log stderr;
pid /var/run/nginx.pid;
events {}
http {
  access_log off;
  server { listen ${port}; root /www; }
}
`;
}

/** A fresh machine has no list of packages yet. */
async function download(folder: string): Promise<void> {
  await mkdir(folder);
  const options = { cwd: folder, timeout: 120_000 };
  try {
    await run('apt-get', ['download', ...NGINX_PACKAGES], options);
  } catch {
    await run('apt-get', ['update'], options);
    await run('apt-get', ['download', ...NGINX_PACKAGES], options);
  }
}
