import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Debian's nginx with the libraries that busybox does not need anyway. */
const PACKAGES = ['nginx', 'libcrypt1', 'libpcre2-8-0', 'libssl3', 'zlib1g'];

const CONFIGURATION = `
daemon off;
user root;
error_log stderr;
pid /tmp/nginx.pid;
events {}
http {
  access_log off;
  server { listen 80; root /www; }
}
`;

/** Puts Debian's nginx, a configuration and a page into a root filesystem. Throws when the packages cannot be had. */
export async function addNginx(rootfs: string, page: string): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), 'berth-nginx-'));
  try {
    await run('apt-get', ['download', ...PACKAGES], { cwd: work, timeout: 120_000 });
    for (const file of await readdir(work)) await run('dpkg', ['-x', join(work, file), join(work, 'tree')]);
    // Debian's folders of libraries are links in a root of our own making: only files are taken over.
    for (const folder of ['usr/sbin', 'lib', 'usr/lib']) {
      await mkdir(join(rootfs, folder), { recursive: true });
      await run('cp', ['-a', '--no-preserve=ownership', `${join(work, 'tree', folder)}/.`, join(rootfs, folder)]);
    }
  } finally {
    await rm(work, { recursive: true });
  }
  await mkdir(join(rootfs, 'etc/nginx'), { recursive: true });
  await mkdir(join(rootfs, 'var/lib/nginx'), { recursive: true });
  await mkdir(join(rootfs, 'var/log/nginx'), { recursive: true });
  await writeFile(join(rootfs, 'etc/nginx/nginx.conf'), CONFIGURATION);
  await writeFile(join(rootfs, 'www/index.html'), page);
}
