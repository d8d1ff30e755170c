import { status } from '@grpc/grpc-js';

import { RuntimeServiceService } from '../../../proto/gen/cri/api.ts';
import { CliError } from '../cli-error.ts';
import { noSuchCommand } from '../no-such-command.ts';
import { json } from '../output.ts';
import { getContainer, type Session } from '../session.ts';

/** Added to the command's own limit, so that berthd's answer comes before the client gives up. */
const ANSWER_TIMEOUT_MS = 30_000;
const NO_LIMIT_MS = 86_400_000;
/** That of timeout(1). */
const TIMED_OUT = 124;

/**
 * `berth exec CONTAINER -- COMMAND`: its output, and its exit code for the shell; 127 and 126, as shells do it, for a
 * command that is not there or cannot be run, and 124, as timeout(1) does it, for one that took longer than `timeoutS`.
 */
export async function exec(
  session: Session,
  text: string,
  command: readonly string[],
  timeoutS: number,
): Promise<number> {
  const { id } = await getContainer(session, text);
  const { stdout, stderr, exitCode } = await session.connection
    .call(
      RuntimeServiceService.execSync,
      { containerId: id, cmd: [...command], timeout: BigInt(timeoutS) },
      timeoutS === 0 ? NO_LIMIT_MS : timeoutS * 1000 + ANSWER_TIMEOUT_MS,
    )
    .catch((err: unknown) => {
      throw timedOut(noSuchCommand(err, 'cmd'));
    });
  const [out, err] = [Buffer.from(stdout).toString(), Buffer.from(stderr).toString()];
  if (session.json) {
    session.output.out(json({ exitCode, stdout: out, stderr: err }));
  } else {
    session.output.out(out);
    session.output.err(err);
  }
  return exitCode;
}

function timedOut(err: unknown): unknown {
  if (!(err instanceof CliError) || err.code !== status.DEADLINE_EXCEEDED) return err;
  return new CliError(err.message, err.hint, { code: err.code, exitCode: TIMED_OUT });
}
