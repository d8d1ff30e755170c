import { describe } from '../base/errors.ts';
import type { Processes } from '../proc/processes.ts';
import type { HandlerStatus } from '../runtime/handlers.ts';
import { findProgram } from '../runtime/handlers.ts';
import type { Finding } from './finding.ts';

const VERSION_TIMEOUT_MS = 10_000;

/** A version such as [2, 1, 6], from a text that has one in it. */
type Version = readonly [number, number, number];

/** The oldest that Berth is made for; older ones may work. */
const OLDEST: Readonly<Record<string, Version>> = Object.freeze({
  runc: [1, 1, 0],
  crun: [1, 8, 0],
  conmon: [2, 1, 0],
});

/** What is wrong with the container monitor: missing, broken or old. */
export async function monitorFindings(
  path: string,
  processes: Pick<Processes, 'run'>,
  signal: AbortSignal,
): Promise<Finding[]> {
  const subject = `runtime.monitor_path ${path}`;
  const remedy = 'apt-get install conmon, or set runtime.monitor_path';
  const broken = (message: string): Finding[] => [
    { severity: 'error', subject, message: `${message}: berthd cannot start, containers need a monitor`, remedy },
  ];
  try {
    const cmd = { path: findProgram(path), args: ['--version'], timeoutMs: VERSION_TIMEOUT_MS };
    const { exitCode, stdout } = await processes.run(cmd, signal);
    if (exitCode !== 0) return broken(`${path} --version ends with exit code ${exitCode}`);
    const version = stdout.toString().split('\n', 1)[0] ?? '';
    return [{ severity: 'info', subject, message: version, remedy: '' }, ...ageFindings('conmon', version, subject)];
  } catch (err) {
    signal.throwIfAborted();
    return broken(describe(err));
  }
}

/** Which OCI runtimes cannot be used, or are old. */
export function handlerFindings(statuses: readonly HandlerStatus[], defaultName: string): Finding[] {
  const noneWorks = statuses.every((status) => 'error' in status);
  return statuses.flatMap((status): Finding[] => {
    const subject = `runtime.handlers.${status.name}`;
    if ('handler' in status) {
      const { version, path } = status.handler;
      const message = `${version}, ${path}${status.name === defaultName ? ', the default' : ''}`;
      const program = /^\S+/.exec(version)?.[0] ?? '';
      return [{ severity: 'info', subject, message, remedy: '' }, ...ageFindings(program, version, subject)];
    }
    const isDefault = noneWorks || status.name === defaultName;
    const meaning = isDefault ? 'no pod can run its containers' : 'pods that ask for it by name are refused';
    return [
      {
        severity: isDefault ? 'error' : severityOf(status),
        subject,
        message: `${status.error}: ${meaning}`,
        remedy: `${installing(status.name)}, then systemctl restart berthd; or name another path in [runtime.handlers.${status.name}]`,
      },
    ];
  });
}

/** Nobody has asked for a runtime that is merely not installed, while another one is. */
function severityOf({ isSpare }: { readonly isSpare?: boolean }): 'info' | 'warning' {
  return isSpare === true ? 'info' : 'warning';
}

/** Only what Debian has packages of, under these names; a handler of another name is no program's name. */
function installing(name: string): string {
  return name === 'runc' || name === 'crun' ? `apt-get install ${name}` : 'install it';
}

/** Handlers that are installed, and that cannot make a container on this host; `trials` has their reasons by name. */
export function trialFindings(
  trials: ReadonlyMap<string, { readonly passed: boolean; readonly reason: string }>,
  defaultName: string,
): Finding[] {
  return [...trials].flatMap(([name, { passed, reason }]): Finding[] =>
    passed
      ? []
      : [
          {
            severity: name === defaultName ? 'error' : 'warning',
            subject: `runtime.handlers.${name}`,
            message: `cannot make a container on this host: ${reason}`,
            remedy: `set runtime.default_runtime to another handler, or mend what ${name} says`,
          },
        ],
  );
}

function ageFindings(program: string, text: string, subject: string): Finding[] {
  const oldest = OLDEST[program];
  const found = versionIn(text);
  if (!oldest || !found || compare(found, oldest) >= 0) return [];
  return [
    {
      severity: 'warning',
      subject,
      message: `${program} ${found.join('.')} is older than ${oldest.join('.')}, the oldest that Berth is made for`,
      remedy: `apt-get install --only-upgrade ${program}`,
    },
  ];
}

/** The first version number in a text. */
export function versionIn(text: string): Version | undefined {
  const [, major, minor, patch = '0'] = /(\d+)\.(\d+)(?:\.(\d+))?/.exec(text) ?? [];
  if (major === undefined || minor === undefined) return undefined;
  return [Number(major), Number(minor), Number(patch)];
}

function compare(one: Version, other: Version): number {
  return one[0] - other[0] || one[1] - other[1] || one[2] - other[2];
}
