import { RuntimeServiceService } from '../../../proto/gen/cri/api.ts';
import { json } from '../output.ts';
import { findContainer, type Session } from '../session.ts';

/** Added to the command's own limit, so that berthd's answer comes before the client gives up. */
const ANSWER_TIMEOUT_MS = 30_000;
const NO_LIMIT_MS = 86_400_000;

/** `berth exec CONTAINER -- COMMAND`: its output, and its exit code for the shell. */
export async function exec(
  session: Session,
  text: string,
  command: readonly string[],
  timeoutS: number,
): Promise<number> {
  const { id } = await findContainer(session, text);
  const { stdout, stderr, exitCode } = await session.connection.call(
    RuntimeServiceService.execSync,
    { containerId: id, cmd: [...command], timeout: BigInt(timeoutS) },
    timeoutS === 0 ? NO_LIMIT_MS : timeoutS * 1000 + ANSWER_TIMEOUT_MS,
  );
  const [out, err] = [Buffer.from(stdout).toString(), Buffer.from(stderr).toString()];
  if (session.json) {
    session.output.out(json({ exitCode, stdout: out, stderr: err }));
  } else {
    session.output.out(out);
    session.output.err(err);
  }
  return exitCode;
}
