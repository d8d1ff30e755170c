import type { AttachRequest, ExecRequest, PortForwardRequest } from '../../../proto/gen/cri/api.ts';
import { invalid } from '../../base/errors.ts';
import { requireCommand } from './arguments.ts';

/** Which streams a client wants of an exec or attach. Throws `invalid` for none, and for what a terminal cannot do. */
export function wantedStreams({ stdin, stdout, stderr, tty }: ExecRequest | AttachRequest): {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly tty: boolean;
} {
  if (!stdin && !stdout && !stderr) throw invalid('stdin', 'none of stdin, stdout and stderr is asked for');
  // api.proto, ExecRequest: "If `tty` is true, `stderr` MUST be false": a terminal has one output.
  if (tty && stderr) throw invalid('stderr', 'a terminal has no stderr of its own');
  return { stdin, stdout, stderr, tty };
}

/** The command to run. Throws `invalid` for none, and for what no program can be given. */
export function commandFromProto(cmd: readonly string[]): readonly string[] {
  if (cmd.length === 0 || cmd[0] === '') throw invalid('cmd', 'is empty');
  if (cmd.some((word) => word.includes('\0'))) throw invalid('cmd', 'has a NUL byte in it');
  requireCommand(cmd, 'cmd');
  return cmd;
}

/** The ports of a port-forward; none is right for all clients but the oldest. */
export function portsFromProto({ port }: PortForwardRequest): readonly number[] {
  for (const [index, number] of port.entries()) {
    if (number < 1 || number > 65_535) throw invalid(`port[${index}]`, `${number} is no port`);
  }
  return port;
}
