import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { get } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe as suite, test } from 'node:test';

import { BerthError, describe } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import { compareConfigs } from '../config/compare-configs.ts';
import { type Config, loadConfig } from '../config/load-config.ts';
import { PrometheusMetrics } from '../metrics/prometheus.ts';
import { Processes } from '../proc/processes.ts';
import type { Handlers } from '../runtime/handlers.ts';
import { Tracer } from '../server/tracing/tracer.ts';
import { followConfig, type LiveParts } from './live-parts.ts';
import { openSecurityParts } from './security-parts.ts';
import { SentTraces } from './sent-traces.ts';
import { ServedMetrics } from './served-metrics.ts';

const HANDLERS = { name: 'next' } as unknown as Handlers;

suite('taking over a configuration', { timeout: 120_000 }, () => {
  let folder: string;
  let file: string;
  let running: Config;
  let parts: LiveParts;
  let served: ServedMetrics;
  let traces: SentTraces;
  let tracer: Tracer;
  let followed: string[];
  let probe: () => Handlers;

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'berth-live-'));
    file = join(folder, 'berth.toml');
    running = configOf(`[metrics]\nlisten = ""\nsocket = "${folder}/old.sock"\n[runtime]\ndefault_env = ["OLD=1"]`);
    const metrics = new PrometheusMetrics();
    const log = { ...silentLogger, setLevel: note('level'), setFormat: note('format') };
    const processes = new Processes({ log, meter: metrics.meter });
    [tracer, followed, probe] = [new Tracer(), [], () => HANDLERS];
    served = new ServedMetrics(metrics, log);
    await served.serve(running.metrics);
    traces = new SentTraces({ tracer, version: '1', metrics, log });
    parts = {
      images: { follow: note('images') },
      cni: { follow: async () => note('cni')() },
      spareNetworks: { follow: note('spare networks') },
      handlers: { become: note('handlers') },
      probe: async () => probe(),
      security: { ...openSecurityParts(running, { processes, log }) },
      processes,
      metrics: served,
      traces,
      log,
      faults: undefined,
    };
  });
  afterEach(async () => {
    await Promise.all([served.close(), traces.close()]);
    rmSync(folder, { recursive: true });
  });

  const note = (what: string) => (): void => void followed.push(what);

  function configOf(text: string): Config {
    writeFileSync(file, text);
    return loadConfig({ file });
  }

  /** A configuration in which everything is different. */
  const everything = (metrics: string, more: { readonly tracing?: string; readonly runtime?: string } = {}): Config =>
    configOf(`
      [log]\nlevel = "debug"
      [image]\npinned_images = ["*"]
      [cni]\nconf_dir = "${folder}"
      [metrics]\nlisten = ""\n${metrics}
      [tracing]\nendpoint = "127.0.0.1:4317"\n${more.tracing ?? ''}
      [runtime]\ndefault_env = ["NEW=1"]\n${more.runtime ?? ''}
      [runtime.handlers.other]\npath = "runc"
    `);

  const follow = async (next: Config): Promise<void> => {
    const { live } = compareConfigs(running, next);
    await followConfig(parts, next, live, new AbortController().signal);
  };

  async function answers(socketPath: string): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    get({ socketPath, path: '/metrics' }, (response) => {
      response.resume();
      response.once('end', () => resolve(response.statusCode === 200));
    }).once('error', () => resolve(false));
    return await promise;
  }

  async function freePort(): Promise<number> {
    const server = createServer();
    const { promise, resolve } = Promise.withResolvers<number>();
    server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port));
    const port = await promise;
    server.close();
    return port;
  }

  test('all parts follow', async () => {
    await follow(everything(`socket = "${folder}/new.sock"`));
    assert.deepEqual(followed.toSorted(), ['cni', 'format', 'handlers', 'images', 'level', 'spare networks']);
    assert.deepEqual(parts.security.defaultEnv, configOf('[runtime]\ndefault_env = ["NEW=1"]').runtime.defaultEnv);
    assert.equal(tracer.isOn, true);
    assert.deepEqual([await answers(`${folder}/new.sock`), existsSync(`${folder}/old.sock`)], [true, false]);
  });

  test('when any part refuses, all go on as before', async () => {
    const taken = createServer().listen(join(folder, 'taken.sock')).unref();
    const good = `socket = "${folder}/new.sock"`;
    const env = parts.security.defaultEnv;
    const refusals: [what: string, next: () => Config, words: RegExp][] = [
      ['containers', () => everything(good, { runtime: 'default_sysctls = ["kernel.panic=1"]' }), /kernel\.panic/],
      ['handlers', () => everything(good), /no runtime works/],
      ['traces', () => everything(good, { tracing: `tls = true\ntls_ca = "${folder}/none.pem"` }), /tls_ca.*none\.pem/],
      ['metrics', () => everything(`socket = "${folder}/taken.sock"`), /another program answers/],
    ];
    for (const [what, next, words] of refusals) {
      probe = () => {
        if (what === 'handlers') throw new BerthError('precondition', 'no runtime works');
        return HANDLERS;
      };
      await assert.rejects(follow(next()), (err) => words.test(describe(err)), what);
      assert.deepEqual(followed, [], what);
      assert.equal(parts.security.defaultEnv, env, what);
      assert.equal(tracer.isOn, false, what);
      assert.deepEqual([await answers(`${folder}/old.sock`), existsSync(`${folder}/new.sock`)], [true, false], what);
    }
    taken.close();
    // What was refused is not in the way of what comes next.
    probe = () => HANDLERS;
    await follow(everything(good));
    assert.equal(await answers(`${folder}/new.sock`), true);
  });

  test('a place that stays is left only to see whether its new certificate can be used, and taken again', async () => {
    const port = await freePort();
    const metrics = { ...running.metrics, listen: `127.0.0.1:${port}` };
    await served.serve(metrics);
    const broken = {
      ...metrics,
      socket: `${folder}/new.sock`,
      tlsCert: `${folder}/none.pem`,
      tlsKey: `${folder}/none.key`,
    };
    await assert.rejects(served.prepare(broken), (err) => /none\.(pem|key)/.test(describe(err)));
    assert.equal((await fetch(`http://127.0.0.1:${port}/metrics`)).status, 200);
    assert.deepEqual([await answers(`${folder}/old.sock`), existsSync(`${folder}/new.sock`)], [true, false]);
  });
});
