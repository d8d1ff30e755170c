import { status } from '@grpc/grpc-js';

import { AdminService, CheckConfigRequest, type CheckConfigResponse } from '../../../proto/gen/berth/admin.ts';
import { BerthError, describe } from '../../base/errors.ts';
import { samplePath } from '../../base/own-files.ts';
import { ConfigError } from '../../config/config-problems.ts';
import { configObject, describeConfig } from '../../config/describe-config.ts';
import { type Config, loadConfig } from '../../config/load-config.ts';
import { CliError, reworded } from '../cli-error.ts';
import { json } from '../output.ts';
import type { Session } from '../session.ts';
import { type ShownFinding, showFindings } from './findings.ts';

/**
 * `berth config check`: reads the configuration as berthd would, and tells what is wrong on this node: what a running
 * berthd has found, or where none runs what one would find. Exit code 1 when something keeps pods from running.
 */
export async function checkConfig(session: Session, { config: file }: { config?: string }): Promise<number> {
  const { output } = session;
  const config = await readConfigBeside(session, file);
  const text = describeConfig(config);
  const running = await askDaemon(session);
  const findings: readonly ShownFinding[] = running?.findings ?? (await session.checkNode(config));
  if (session.json) {
    output.out(json({ config: configObject(config), configText: text, running: running?.configText, findings }));
  } else {
    output.out(text);
    if (!running) output.out('\nno berthd answers; this is what one would find on this node\n');
    else if (running.configText !== text)
      output.out(
        '\nthe running berthd has another configuration: it was started before the last change, or with flags\n',
      );
    showFindings(output, findings);
  }
  return findings.some(({ severity }) => severity === 'error') ? 1 : 0;
}

/** The configuration in a file, or in the usual place. Throws CliError for one that berthd would not start with. */
export function readConfig(file: string | undefined): Config {
  try {
    return loadConfig(file === undefined ? {} : { file });
  } catch (err) {
    if (err instanceof BerthError) throw wrongConfig(err);
    throw err;
  }
}

/** The same; a berthd that runs does not end for a file that it would not start with, and that is said. */
async function readConfigBeside(session: Session, file: string | undefined): Promise<Config> {
  try {
    return readConfig(file);
  } catch (err) {
    const running = await askDaemon(session).catch(() => undefined);
    if (!(err instanceof CliError) || !running) throw err;
    throw reworded(err, err.message, `the running berthd goes on with what it has; ${err.hint}`);
  }
}

function wrongConfig(err: BerthError): CliError {
  const problems = err instanceof ConfigError ? err.problems : [];
  return new CliError(describe(err), `berthd will not start with it; ${samplePath('berth.toml')} shows every key`, {
    problems,
  });
}

async function askDaemon({ connection }: Session): Promise<CheckConfigResponse | undefined> {
  return await orNotThere(connection.call(AdminService.checkConfig, CheckConfigRequest.create()));
}

/** Undefined where no berthd answers; throws what one that does answers with. */
export async function orNotThere<T>(asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked;
  } catch (err) {
    if (err instanceof CliError && err.code !== undefined && err.code !== status.UNAVAILABLE) throw err;
    return undefined;
  }
}
