/** Nothing that can go wrong is left out of the tests of faults: pipelines, requests, programs, calls of the C library. */

import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { ImageServiceService, RuntimeServiceService } from '../../proto/gen/cri/api.ts';
import { FaultPoints } from '../../src/base/fault-points.ts';
import { listPipelines } from '../../src/pod/pipelines.ts';
import { disturbed, type Library } from '../../src/sys/faulty-libc.ts';

const TOP = fileURLToPath(new URL('../..', import.meta.url));

/** They change nothing on the machine, and have nothing to undo. */
const READS =
  /^(Version|Status|RuntimeConfig|UpdateRuntimeConfig|ImageStatus|ImageFsInfo|GetContainerEvents)$|^(List|Stream)|S(tats|tatus)$/;
/** Where the answer is only an address, the work is that of a stream: by which test that is disturbed. */
const STREAMS: Readonly<Record<string, string>> = {
  Exec: 'pod-streams.test.ts',
  Attach: 'pod-streams-attach.test.ts',
  PortForward: 'pod-streams-port-forward.test.ts',
};
/** What only prepares something in memory, cannot fail, or what node:fs or a loop does in the same way. */
const HARMLESS = [
  ...['close', 'fcntl', 'getsockopt', 'inet_pton', 'malloc_trim', 'memmove', 'read', 'waitid', 'write'],
  ...['strerrordesc_np', 'strerrorname_np'],
  ...['addchdir_np', 'addclosefrom_np', 'adddup2', 'destroy', 'init'].map((name) => `posix_spawn_file_actions_${name}`),
  ...['destroy', 'init', 'setcgroup_np', 'setflags', 'setsigdefault', 'setsigmask'].map(
    (name) => `posix_spawnattr_${name}`,
  ),
];

const texts = (pattern: string): Map<string, string> =>
  new Map(
    globSync(pattern, { cwd: TOP })
      .filter((file) => pattern.startsWith('test') || !file.endsWith('.test.ts'))
      .map((file) => [file, readFileSync(join(TOP, file), 'utf8')]),
  );
const sources = texts('src/**/*.ts');
const faultTests = [...texts('test/integration/faults-*.test.ts').values()].join('\n');
const namesIn = (text: string, pattern: RegExp): string[] => [...text.matchAll(pattern)].map(([, name = '']) => name);
const inSources = (pattern: RegExp): string[] => [...sources.values()].flatMap((text) => namesIn(text, pattern));

test('faults are tried on every pipeline', () => {
  const tried = namesIn(faultTests, /pipelines: \[([^\]]*)\]/g).join();
  for (const { name } of listPipelines()) assert.ok(tried.includes(`'${name}'`), name);
});

test('every list of steps is a pipeline that is known, and every other place has its test', () => {
  const known = sources.get('src/pod/pipelines.ts') ?? '';
  const lists = inSources(/^export const (\w+): readonly Step</gm);
  assert.ok(lists.length >= 7, lists.join());
  for (const list of lists) assert.ok(known.includes(list), list);
  const places = inSources(/^export const (\w+_PLACES) =/gm);
  assert.ok(places.length >= 4, places.join());
  for (const list of places) assert.ok(faultTests.includes(list), list);
});

test('faults are tried on every request that changes something', () => {
  const scenes = namesIn(faultTests, /\bname: '(\w+)'/g);
  const services: Readonly<Record<string, { readonly path: string }>>[] = [RuntimeServiceService, ImageServiceService];
  const methods = services.flatMap((service) => Object.values(service).map(({ path }) => path.split('/').at(-1) ?? ''));
  assert.ok(methods.length > 30, methods.join());
  const missing = methods.filter((name) => !READS.test(name) && !(name in STREAMS) && !scenes.includes(name));
  assert.deepEqual(missing, []);
});

test('every program is started where a test may disturb it', () => {
  const starting = [...sources].flatMap(([file, text]) => (/\b(startChild|posixSpawn)\(/.test(text) ? [file] : []));
  // A pause process comes from the thread of namespaces, where posix_spawnp is disturbed itself.
  const known = ['proc/child.ts', 'proc/processes.ts', 'sys/namespace-worker.ts', 'sys/spawn.ts'];
  assert.deepEqual(
    starting.sort(),
    known.map((file) => `src/${file}`),
  );
});

test('every call of the C library is one that a test may disturb, or a harmless one', () => {
  const real = (): number => 0;
  const library = disturbed({ func: () => real } as unknown as Library, new FaultPoints(TOP));
  const names = new Set(inSources(/\bfunc\(\s*'(\w+)'/g));
  assert.ok(names.size > 50, [...names].join());
  const undisturbed = [...names].filter((name) => library.func(name, 'int', []) === real);
  assert.deepEqual(undisturbed.sort(), HARMLESS.toSorted());
  const loading = [...sources].flatMap(([file, text]) => (/\bkoffi\.load\('/.test(text) ? [file] : []));
  // The other one only computes: it unpacks what was compressed.
  assert.deepEqual(loading.sort(), ['src/sys/isal.ts', 'src/sys/libc.ts']);
});
