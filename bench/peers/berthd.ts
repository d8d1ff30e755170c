import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { AdminService, LoadImageRequest } from '../../proto/gen/berth/admin.ts';
import { Connection } from '../../src/cli/connection.ts';
import type { Endpoint } from '../measure/rounds.ts';
import { type BenchLab, repository } from './bench-lab.ts';
import { type StartedDaemon, startDaemon } from './started-daemon.ts';

/**
 * Starts the berthd of this checkout, as it was built, with folders of its own, and loads the image into it. `more` is
 * added to its configuration.
 */
export async function startBerthd(
  lab: BenchLab,
  layout: string,
  runtime: string,
  signal: AbortSignal,
  more: readonly string[] = [],
): Promise<{ daemon: StartedDaemon; endpoint: Endpoint }> {
  const root = join(lab.root, 'berth');
  const state = join(lab.state, 'berth');
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
  const command = [join(repository, 'bin/berthd'), '--config', config];
  const daemon = await startDaemon(command, /berthd serves/, signal);
  const connection = new Connection(address);
  try {
    await connection.call(AdminService.loadImage, LoadImageRequest.create({ path: layout }));
  } catch (err) {
    await daemon.stop();
    throw err;
  } finally {
    connection.close();
  }
  return { daemon, endpoint: { name: 'berth', address } };
}
