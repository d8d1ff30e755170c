/**
 * The images that the official suite pulls, made from Debian's packages. Their names are the suite's own; what must be
 * in them is known from its source: nothing but what the specs look at.
 */

import { execFile } from 'node:child_process';
import { chmod, copyFile, link, mkdtemp, readdir, readlink, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { addProgram, buildBusyboxLayout, type LayoutOptions, pushLayout, type TestRegistry } from '../fakes/images.ts';
import { addNginx } from '../fakes/nginx.ts';

const run = promisify(execFile);
const HERE = fileURLToPath(new URL('.', import.meta.url));
const PAUSE = fileURLToPath(new URL('../../dist/native/pause', import.meta.url));

/** Registries whose images are taken from the loopback one: a runtime under test needs it as their mirror. */
export const MIRRORED: readonly string[] = Object.freeze(['registry.k8s.io', 'k8s.gcr.io', 'gcr.io', 'public.ecr.aws']);

/** What a runtime that needs an image for its pods shall use. */
export const PAUSE_IMAGE = 'registry.k8s.io/pause:3.10';

/** What the benchmarks pull again and again. */
export const BENCHMARK_IMAGE = 'public.ecr.aws/docker/library/busybox:1';

const STAGING = 'k8s-staging-cri-tools';
const E2E = 'e2e-test-images';
/** The suite asks for the architecture in Go's words. */
const ARCHITECTURE = process.arch === 'x64' ? 'amd64' : process.arch;

/** Most of the time a program is waited for. */
const AT_ONCE = 4;

type Content = Omit<LayoutOptions, 'tag'>;

/** Content of each image, by repository and tag without the registry's host. */
function catalogue(): Record<string, Content> {
  const busybox = { populate: finishBusybox };
  // Each a layer more than busybox: images that shall differ must not have the same id.
  const marked = (mark: string): Content => ({ ...busybox, layers: [{ [mark]: mark }] });
  const nginx = (port: number): Content => ({
    config: { Cmd: ['/usr/sbin/nginx', '-c', '/etc/nginx/nginx.conf'] },
    populate: (rootfs) => addNginx(rootfs, { page: 'nginx of the conformance suite\n', port }),
  });
  const pause = (version: string): Content => ({
    empty: true,
    config: { Entrypoint: ['/pause'] },
    files: { version },
    populate: (rootfs) => copyFile(PAUSE, join(rootfs, 'pause')),
  });
  const users = {
    uid: '1002',
    username: 'www-data',
    'uid-group': '1003:1004',
    'username-group': 'www-data:1004',
  };
  const tags = Object.fromEntries(['1', '2', '3'].map((tag) => [`${STAGING}/test-image-tags:${tag}`, marked('same')]));
  const numbered = Object.fromEntries(
    ['1', '2', '3'].map((number) => [`${STAGING}/test-image-${number}:latest`, marked(`image-${number}`)]),
  );
  const ofUsers = Object.fromEntries(
    Object.entries(users).map(([name, User]) => [
      `${STAGING}/test-image-user-${name}:latest`,
      { ...marked(name), config: { User } },
    ]),
  );
  return {
    [`${E2E}/busybox:1.29-2`]: busybox,
    [`${E2E}/nginx:1.14-2`]: nginx(80),
    [`${E2E}/httpd:2.4.39-4`]: {
      ...busybox,
      config: { Cmd: ['sh', '-c', 'echo "httpd serves"; exec httpd -f -v -p 80 -h /www'] },
    },
    [`${E2E}/nonewprivs:1.3`]: { config: { Cmd: ['/nonewprivs'] }, populate: addNoNewPrivs },
    [`${STAGING}/hostnet-nginx-${ARCHITECTURE}:latest`]: nginx(12003),
    [`${STAGING}/test-image-predefined-group:latest`]: {
      ...busybox,
      config: { User: '1000' },
      layers: [
        {
          'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/home/user:/bin/sh\n',
          'etc/group': 'root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n',
        },
      ],
    },
    [`${STAGING}/test-image-latest:latest`]: marked('latest'),
    [`${STAGING}/test-image-tag:test`]: marked('tag-test'),
    [`${STAGING}/test-image-tag:all`]: marked('tag-all'),
    'pause:3.9': pause('3.9'),
    'pause:3.10': pause('3.10'),
    'docker/library/busybox:1': marked('library'),
    ...tags,
    ...numbered,
    ...ofUsers,
  };
}

/** Makes all images and pushes them, some at a time. Takes some seconds. */
export async function pushImages(registry: TestRegistry): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), 'berth-critest-images-'));
  const images = Object.entries(catalogue()).entries();
  const makeSome = async (): Promise<void> => {
    // An iterator that is shared: each takes the next one.
    for (const [index, [target, content]] of images) {
      const layout = await buildBusyboxLayout(join(work, String(index)), { ...content, tag: target });
      await pushLayout(layout, registry, target);
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, makeSome));
  } finally {
    await rm(work, { recursive: true });
  }
}

/**
 * Adds what Debian's busybox lacks, and makes its applets hard links: a path that is masked, such as /bin/ls, must not
 * lead to the one program that all others are.
 */
async function finishBusybox(rootfs: string): Promise<void> {
  const bin = join(rootfs, 'bin');
  for (const entry of await readdir(bin, { withFileTypes: true })) {
    if (!entry.isSymbolicLink() || (await readlink(join(bin, entry.name))) !== 'busybox') continue;
    await rm(join(bin, entry.name));
    await link(join(bin, 'busybox'), join(bin, entry.name));
  }
  for (const program of ['/usr/bin/ipcs', '/usr/bin/pgrep']) await addProgram(rootfs, program);
}

async function addNoNewPrivs(rootfs: string): Promise<void> {
  const program = join(rootfs, 'nonewprivs');
  await run('gcc', ['-static', '-O2', '-o', program, join(HERE, 'nonewprivs.c')], { timeout: 60_000 });
  await chmod(program, 0o4755);
}
