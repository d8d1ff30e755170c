import { posix } from 'node:path';

import { invalid } from '../base/errors.ts';
import type { ContainerSpec } from './container-spec.ts';
import type { OciProcess } from './oci-spec.ts';
import { resolveRlimits } from './rlimits.ts';
import type { ImageProcess, SpecInput } from './spec-input.ts';

const DEFAULT_PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** The process section of config.json. Throws `invalid` naming the CRI's field. */
export function buildProcess(input: SpecInput): OciProcess {
  const { spec, image, user, host } = input;
  const apparmorProfile = spec.security.privileged ? undefined : input.apparmorProfile;
  const selinuxLabel = input.selinux?.process;
  return {
    terminal: spec.tty,
    user: { uid: user.uid, gid: user.gid, additionalGids: user.supplementalGroups },
    args: buildArgs(spec, image),
    env: buildEnv(input),
    cwd: chooseWorkingDir(spec, image),
    capabilities: input.capabilities,
    rlimits: resolveRlimits(input.ulimits, host.rlimitCeilings),
    noNewPrivileges: spec.security.noNewPrivs,
    oomScoreAdj: Math.max(spec.resources.oomScoreAdj ?? 0, host.oomScoreAdjFloor),
    ...(apparmorProfile !== undefined ? { apparmorProfile } : {}),
    ...(selinuxLabel !== undefined ? { selinuxLabel } : {}),
  };
}

/**
 * Command and arguments as Kubernetes combines them with the image's: its entrypoint unless the client gave a command,
 * its cmd only if the client gave neither. Throws `invalid` when nothing is left to run.
 */
export function buildArgs(spec: Pick<ContainerSpec, 'command' | 'args'>, image: ImageProcess): string[] {
  const [command, args] =
    spec.command.length > 0
      ? [spec.command, spec.args]
      : [image.entrypoint, spec.args.length > 0 ? spec.args : image.cmd];
  const all = [...command, ...args];
  if (all.length === 0) throw invalid('config.command', 'is empty, and the image names no command');
  if (all[0] === '') throw invalid('config.command', 'the program to run has an empty name');
  if (all.some((arg) => arg.includes('\0'))) throw invalid('config.command', 'has a NUL byte in it');
  return all;
}

/**
 * Default PATH, then the node's own variables, HOSTNAME and TERM, then the image's, then the client's: the later value
 * wins.
 */
export function buildEnv({ spec, image, sandbox, user, defaultEnv }: SpecInput): string[] {
  const byName = new Map<string, string>();
  const put = (entry: string): void => {
    byName.set(entry.split('=', 1)[0] ?? '', entry);
  };
  put(DEFAULT_PATH);
  for (const entry of defaultEnv) put(entry);
  put(`HOSTNAME=${sandbox.hostname}`);
  if (spec.tty) put('TERM=xterm');
  // A home with a line break would forge passwd lines in programs that copy it.
  if (user.home && !/[\n\0]/.test(user.home)) put(`HOME=${user.home}`);
  for (const entry of image.env) if (!entry.includes('\0')) put(entry.includes('=') ? entry : `${entry}=`);
  spec.env.forEach(({ key, value }, i) => {
    if (key === '' || /[=\0]/.test(key))
      throw invalid(`config.envs[${i}].key`, `${JSON.stringify(key)} is not a variable's name`);
    if (value.includes('\0')) throw invalid(`config.envs[${i}].value`, 'has a NUL byte in it');
    put(`${key}=${value}`);
  });
  return [...byName.values()];
}

/** The client's working directory, else the image's, else the root. */
export function chooseWorkingDir(spec: Pick<ContainerSpec, 'workingDir'>, image: ImageProcess): string {
  if (spec.workingDir !== '') {
    if (!spec.workingDir.startsWith('/')) throw invalid('config.working_dir', `${spec.workingDir} is not absolute`);
    if (spec.workingDir.includes('\0')) throw invalid('config.working_dir', 'has a NUL byte in it');
    return posix.normalize(spec.workingDir);
  }
  // Some builders leave it relative to the root.
  return posix.normalize(`/${image.workingDir}`);
}
