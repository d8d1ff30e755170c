import { status } from '@grpc/grpc-js';

import { AdminService, CheckConfigRequest, type CheckConfigResponse } from '../../../proto/gen/berth/admin.ts';
import { BerthError, describe } from '../../base/errors.ts';
import { printable } from '../../base/printable.ts';
import { ConfigError } from '../../config/config-problems.ts';
import { describeConfig } from '../../config/describe-config.ts';
import { loadConfig } from '../../config/load-config.ts';
import { CliError } from '../cli-error.ts';
import { json } from '../output.ts';
import type { Session } from '../session.ts';

/**
 * `berth config check`: reads the configuration as berthd would, and asks a running berthd what it found on this node.
 * Works without one, so that a berthd that does not start can be mended. Exit code 1 when something is wrong.
 */
export async function checkConfig(session: Session, { config }: { config?: string }): Promise<number> {
  const { output } = session;
  const text = readConfig(config);
  const running = await askDaemon(session);
  const findings = running?.findings ?? [];
  if (session.json) {
    output.out(json({ configText: text, running: running?.configText, findings }));
  } else {
    output.out(text);
    if (!running) output.out('\nno berthd answers, so this node itself was not checked\n');
    else if (running.configText !== text)
      output.out(
        '\nthe running berthd has another configuration: it was started before the last change, or with flags\n',
      );
    for (const { severity, subject, message, remedy } of findings) {
      output.out(`\n${severity}: ${subject}: ${printable(message)}\n${remedy === '' ? '' : `  ${remedy}\n`}`);
    }
  }
  return findings.some(({ severity }) => severity === 'error') ? 1 : 0;
}

function readConfig(file: string | undefined): string {
  try {
    return describeConfig(loadConfig(file === undefined ? {} : { file }));
  } catch (err) {
    if (err instanceof BerthError) throw wrongConfig(err);
    throw err;
  }
}

function wrongConfig(err: BerthError): CliError {
  const problems = err instanceof ConfigError ? err.problems : [];
  return new CliError(describe(err), 'berthd will not start with it; deploy/berth.toml shows every key', { problems });
}

async function askDaemon({ connection }: Session): Promise<CheckConfigResponse | undefined> {
  try {
    return await connection.call(AdminService.checkConfig, CheckConfigRequest.create());
  } catch (err) {
    if (err instanceof CliError && err.code !== undefined && err.code !== status.UNAVAILABLE) throw err;
    return undefined;
  }
}
