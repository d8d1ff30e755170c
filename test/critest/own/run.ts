/** Runs Berth's own conformance suite: images, registry and server first, then each file of facts, then the counts. */

import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { RuntimeServiceService as runtime, VersionRequest } from '../../../proto/gen/cri/api.ts';
import { describe } from '../../../src/base/errors.ts';
import { buildBusyboxLayout, pushLayout, startRegistry, type TestRegistry } from '../../fakes/images.ts';
import { CriConnection } from '../../harness/cri-connection.ts';
import { patient } from '../../harness/patience.ts';
import { pushImages } from '../images.ts';
import { startTarget } from '../target.ts';
import { SERVER_VARIABLE, type ServerFacts } from './server.ts';

const USAGE = `Usage: npm run conformance -- [OPTION]...
Runs Berth's own conformance suite against a berthd that it starts, with images from a registry of its own on loopback.

  --endpoint unix:///PATH    run against this one; it must take the images of registry.k8s.io from the mirror at
                             --registry
  --containerd               run against Debian's containerd, which it starts
  --registry HOST:PORT       where the registry listens (127.0.0.1, any free port)
  --runtime NAME             OCI runtime of the berthd that it starts (berthd's own choice)
  --runtime-handler NAME     handler that pods ask for (the default one)
  --focus REGEX              only facts that match
  --summary FILE             also write the counts there
`;
/** A registry whose images come from the one on loopback. */
const MIRRORED_HOST = 'registry.k8s.io';
const FACT_TIMEOUT_S = patient(60);
const ANSWER_TIMEOUT_MS = patient(10_000);
const HERE = import.meta.dirname;

interface Options {
  readonly endpoint: string | undefined;
  readonly containerd: boolean;
  readonly registry: string;
  readonly runtime: string | undefined;
  readonly handler: string;
  readonly focus: string | undefined;
  readonly summary: string | undefined;
}

async function main(): Promise<number> {
  let options: Options | undefined;
  try {
    options = parseOptions(process.argv.slice(2));
  } catch (err) {
    process.stderr.write(`conformance: ${describe(err)}\n${USAGE}`);
    return 2;
  }
  if (!options) {
    process.stdout.write(USAGE);
    return 0;
  }
  if (options.endpoint !== undefined) {
    const problem = await problemOf(options.endpoint);
    if (problem !== undefined) {
      process.stderr.write(`conformance: no CRI server answers on ${options.endpoint}: ${problem}\n`);
      return 1;
    }
  }
  const work = mkdtempSync(join(tmpdir(), 'berth-conformance-'));
  try {
    await using registry = await startRegistry({ listen: options.registry });
    // Pods of containerd have an image of their own.
    if (options.containerd) await pushImages(registry);
    const references = await pushAll(registry, work);
    await using server = await startTarget(options, registry.host, work);
    const facts: ServerFacts = { ...references, endpoint: server.endpoint, handler: options.handler };
    const status = await runFacts(facts, options, work);
    if (status === 0) await server.assertNoTraces();
    return status;
  } finally {
    rmSync(work, { recursive: true });
  }
}

function parseOptions(args: readonly string[]): Options | undefined {
  const { values } = parseArgs({
    args: [...args],
    options: {
      endpoint: { type: 'string' },
      containerd: { type: 'boolean', default: false },
      registry: { type: 'string' },
      runtime: { type: 'string' },
      'runtime-handler': { type: 'string', default: '' },
      focus: { type: 'string' },
      summary: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return undefined;
  if (values.endpoint !== undefined && !/^unix:\/\/\/./.test(values.endpoint))
    throw new Error(`--endpoint ${values.endpoint}: expected unix:///PATH`);
  if (values.endpoint !== undefined && values.containerd)
    throw new Error('--endpoint and --containerd exclude each other');
  return {
    endpoint: values.endpoint,
    containerd: values.containerd,
    registry: values.registry ?? '127.0.0.1:0',
    runtime: values.runtime,
    handler: values['runtime-handler'],
    focus: values.focus,
    summary: values.summary,
  };
}

/** Why a server does not answer; undefined when it does. */
async function problemOf(endpoint: string): Promise<string | undefined> {
  const connection = new CriConnection(endpoint);
  try {
    await connection.call(runtime.version, VersionRequest.create(), { timeoutMs: ANSWER_TIMEOUT_MS });
    return undefined;
  } catch (err) {
    return err instanceof Error && 'details' in err
      ? String(err.details).replace(/\.? Resolution note:.*$/s, '')
      : describe(err);
  } finally {
    connection.close();
  }
}

/** Makes the images and puts them into the registry. */
async function pushAll(registry: TestRegistry, work: string): Promise<Omit<ServerFacts, 'endpoint' | 'handler'>> {
  const make = async (name: string, config: Parameters<typeof buildBusyboxLayout>[1]['config']) => {
    const users = {
      'etc/passwd': 'root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n',
      'etc/group': 'root:x:0:\nuser:x:1000:\nextra:x:2000:user\n',
    };
    return await buildBusyboxLayout(join(work, name), { tag: name, files: users, ...(config ? { config } : {}) });
  };
  const busybox = await make('busybox', undefined);
  const rich = await make('rich', {
    User: 'user',
    Entrypoint: ['/bin/printf', '%s.'],
    Cmd: ['from', 'the', 'image'],
    Env: ['PATH=/bin', 'FIRST=image', 'SECOND=image'],
    WorkingDir: '/home/user',
    StopSignal: 'SIGUSR1',
  });
  await pushLayout(busybox, registry, 'conformance/busybox:1');
  for (const name of ['rich', 'again']) await pushLayout(rich, registry, `conformance/${name}:1`);
  const reference = (name: string): string => `${MIRRORED_HOST}/conformance/${name}:1`;
  return { busybox: reference('busybox'), rich: reference('rich'), again: reference('again') };
}

/** One process after the other: the facts of a file share what they were told. */
async function runFacts(facts: ServerFacts, options: Options, work: string): Promise<number> {
  const files = readdirSync(HERE).filter((name) => name.endsWith('.spec.ts'));
  const tap = join(work, 'tap');
  const args = [
    '--test',
    '--test-concurrency=1',
    `--test-timeout=${FACT_TIMEOUT_S * 1000}`,
    ...['--test-reporter=spec', '--test-reporter-destination=stdout'],
    ...['--test-reporter=tap', `--test-reporter-destination=${tap}`],
    ...(options.focus === undefined ? [] : [`--test-name-pattern=${options.focus}`]),
    ...files.map((name) => join(HERE, name)),
  ];
  const env = { ...process.env, [SERVER_VARIABLE]: JSON.stringify(facts) };
  const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'inherit', 'inherit'] });
  const { promise, resolve } = Promise.withResolvers<number>();
  child.once('exit', (code) => resolve(code ?? 1));
  const status = await promise;
  if (options.summary !== undefined) {
    const counts = readFileSync(tap, 'utf8').match(/^# (pass|fail|skipped|cancelled) \d+$/gm) ?? ['# fail 1'];
    writeFileSync(options.summary, `${counts.join('\n')}\n`);
  }
  return status;
}

process.exitCode = await main();
