import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { AdminService, LoadImageRequest } from '../../proto/gen/berth/admin.ts';
import { Connection } from '../../src/cli/connection.ts';
import type { Endpoint } from '../measure/rounds.ts';
import { type BenchLab, repository } from './bench-lab.ts';
import { RestartableDaemon } from './started-daemon.ts';

/** What a berthd of the bench has besides. */
export interface BerthdOptions {
  /** Of its folders; default: berth. */
  readonly name?: string;
  /** The checkout that it is of; default: this one. */
  readonly checkout?: string;
  /** Lines for the end of its configuration. */
  readonly config?: readonly string[];
  /** In addition to this process' own. */
  readonly env?: Readonly<Record<string, string>>;
}

/** Starts the berthd of a checkout, as it was built, with folders of its own, and loads the image into it. */
export async function startBerthd(
  lab: BenchLab,
  layout: string,
  runtime: string,
  signal: AbortSignal,
  { name = 'berth', checkout = repository, config: more = [], env = {} }: BerthdOptions = {},
): Promise<{ daemon: RestartableDaemon; endpoint: Endpoint }> {
  const root = join(lab.root, name);
  const state = join(lab.state, name);
  mkdirSync(root, { recursive: true });
  const address = `unix://${state}/berth.sock`;
  const config = join(root, 'berth.toml');
  const keys = [
    `root = "${root}"`,
    `state = "${state}"`,
    `listen = "${address}"`,
    '[cni]',
    `conf_dir = "${lab.cniConfDir}"`,
    '[runtime]',
    `default_runtime = "${runtime}"`,
    '[log]',
    'format = "json"',
    ...more,
  ];
  writeFileSync(config, `${keys.join('\n')}\n`);
  const command = [join(checkout, 'bin/berthd'), '--config', config];
  const daemon = await RestartableDaemon.start({ command, address, env }, signal);
  const connection = new Connection(address);
  try {
    await connection.call(AdminService.loadImage, LoadImageRequest.create({ path: layout }));
  } catch (err) {
    await daemon.stop();
    throw err;
  } finally {
    connection.close();
  }
  return { daemon, endpoint: { name, address, restart: () => daemon.restart() } };
}
