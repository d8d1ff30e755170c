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

import {
  addProgram,
  type FixtureConfig,
  type FixtureLayer,
  makeBaseLayer,
  makeFileLayer,
  pushLayout,
  type TestRegistry,
  writeLayout,
} from '../fakes/images.ts';
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

/** What an image is made of. */
interface Content {
  readonly config?: FixtureConfig;
  readonly layers: readonly FixtureLayer[];
}

/** Content of each image, by repository and tag without the registry's host. */
async function catalogue(): Promise<Record<string, Content>> {
  const [box, nginx, hostNginx, noNewPrivs, pause] = await Promise.all([
    makeBaseLayer({ populate: finishBusybox }),
    nginxLayer(80),
    nginxLayer(12003),
    makeBaseLayer({ populate: addNoNewPrivs }),
    makeBaseLayer({ empty: true, populate: (rootfs) => copyFile(PAUSE, join(rootfs, 'pause')) }),
  ]);
  // Each has a file more than busybox: images that shall differ must not have the same id.
  const marked = async (mark: string, base = box): Promise<Content> => ({
    layers: [base, await makeFileLayer({ [mark]: mark })],
  });
  const ofUser = async (User: string): Promise<Content> => ({ ...(await marked(`user-${User}`)), config: { User } });
  const ofNginx = { Cmd: ['/usr/sbin/nginx', '-c', '/etc/nginx/nginx.conf'] };
  const asPause = { Entrypoint: ['/pause'] };
  const same = await marked('tags');
  const accounts = {
    'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/home/user:/bin/sh\n',
    'etc/group': 'root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n',
  };
  return {
    [`${E2E}/busybox:1.29-2`]: { layers: [box] },
    [`${E2E}/nginx:1.14-2`]: { config: ofNginx, layers: [nginx] },
    [`${E2E}/httpd:2.4.39-4`]: {
      config: { Cmd: ['sh', '-c', 'echo "httpd serves"; exec httpd -f -v -p 80 -h /www'] },
      layers: [box],
    },
    [`${E2E}/nonewprivs:1.3`]: { config: { Cmd: ['/nonewprivs'] }, layers: [noNewPrivs] },
    [`${STAGING}/hostnet-nginx-${ARCHITECTURE}:latest`]: { config: ofNginx, layers: [hostNginx] },
    [`${STAGING}/test-image-predefined-group:latest`]: {
      config: { User: '1000' },
      layers: [box, await makeFileLayer(accounts)],
    },
    [`${STAGING}/test-image-user-uid:latest`]: await ofUser('1002'),
    [`${STAGING}/test-image-user-username:latest`]: await ofUser('www-data'),
    [`${STAGING}/test-image-user-uid-group:latest`]: await ofUser('1003:1004'),
    [`${STAGING}/test-image-user-username-group:latest`]: await ofUser('www-data:1004'),
    [`${STAGING}/test-image-latest:latest`]: await marked('latest'),
    [`${STAGING}/test-image-tag:test`]: await marked('tag-test'),
    [`${STAGING}/test-image-tag:all`]: await marked('tag-all'),
    [`${STAGING}/test-image-1:latest`]: await marked('image-1'),
    [`${STAGING}/test-image-2:latest`]: await marked('image-2'),
    [`${STAGING}/test-image-3:latest`]: await marked('image-3'),
    [`${STAGING}/test-image-tags:1`]: same,
    [`${STAGING}/test-image-tags:2`]: same,
    [`${STAGING}/test-image-tags:3`]: same,
    'pause:3.9': { ...(await marked('3.9', pause)), config: asPause },
    'pause:3.10': { ...(await marked('3.10', pause)), config: asPause },
    'docker/library/busybox:1': await marked('library'),
  };
}

/**
 * Makes all images and pushes them, some repositories at a time. Takes some seconds. Those of one repository come one
 * after the other: docker-registry writes a layer's link in place, so who asks for the layer meanwhile gets a 500.
 */
export async function pushImages(registry: TestRegistry): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), 'berth-critest-images-'));
  try {
    const repositories = Map.groupBy(Object.entries(await catalogue()), ([target]) => repositoryOf(target)).entries();
    const pushSome = async (): Promise<void> => {
      // An iterator that is shared: each takes the next one.
      for (const [, images] of repositories) {
        for (const [target, { config = {}, layers }] of images) {
          const layout = await writeLayout(join(work, encodeURIComponent(target)), { tag: target, config }, layers);
          await pushLayout(layout, registry, target);
        }
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, pushSome));
  } finally {
    await rm(work, { recursive: true });
  }
}

function repositoryOf(target: string): string {
  return target.slice(0, target.lastIndexOf(':'));
}

function nginxLayer(port: number): Promise<FixtureLayer> {
  return makeBaseLayer({ populate: (rootfs) => addNginx(rootfs, { page: 'nginx of the conformance suite\n', port }) });
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
