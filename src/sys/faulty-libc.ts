import koffi from 'koffi';

import { kindOf } from '../base/errors.ts';
import type { FaultPoints } from '../base/fault-points.ts';

/** What of a loaded library this room uses. */
export type Library = Pick<ReturnType<typeof koffi.load>, 'func'>;

/** They only prepare or look up something in memory, or their failing tells the caller nothing. */
const UNHARMED =
  /^(strerror|memmove$|malloc_trim$|inet_|posix_spawn_file_actions_|posix_spawnattr_|close$|read$|write$|getsockopt$|waitid$|fcntl$)/;
/** Of the calls that go through syscall(2), by number. */
const NUMBERED: Readonly<Record<number, string>> = Object.freeze({
  424: 'pidfd_send_signal',
  428: 'open_tree',
  429: 'move_mount',
  434: 'pidfd_open',
  437: 'openat2',
  442: 'mount_setattr',
});

/** The library with every system call as a place where a test may disturb it: `call mount`. */
export function disturbed(library: Library, faults: FaultPoints): Library {
  return {
    func(...definition: readonly unknown[]) {
      const real: unknown = Reflect.apply(library.func, library, definition);
      const [name] = definition;
      if (typeof real !== 'function' || typeof name !== 'string' || UNHARMED.test(name)) return real;
      const disturbedCall = (...args: unknown[]): unknown => callDisturbed(faults, name, real, args);
      const inPool = 'async' in real ? real.async : undefined;
      return Object.assign(disturbedCall, {
        async: (...args: unknown[]): void => callInPoolDisturbed(faults, name, inPool, args),
      });
    },
  } as Library;
}

function callDisturbed(faults: FaultPoints, name: string, real: unknown, args: unknown[]): unknown {
  let errno = 0;
  const call = (): unknown => {
    const result: unknown = Reflect.apply(real as (...args: unknown[]) => unknown, undefined, args);
    errno = koffi.errno();
    return result;
  };
  const fail = (error: string): unknown => {
    errno = koffi.os.errno[error] ?? 0;
    return resultOfFailed(name, errno);
  };
  const result = faults.aroundCall(`call ${callName(name, args[0])}`, call, fail);
  // Looking for faults has called the library too.
  koffi.errno(errno);
  return result;
}

/** The same for a call that a thread of the pool makes: it ends in a later turn, and a hang leaves the others alone. */
function callInPoolDisturbed(faults: FaultPoints, name: string, real: unknown, args: unknown[]): void {
  const onDone = args.at(-1) as (err: unknown, result: unknown) => void;
  let errno = 0;
  const call = async (): Promise<unknown> => {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    const keep = (_err: unknown, result: unknown): void => {
      errno = koffi.errno();
      resolve(result);
    };
    Reflect.apply(real as (...args: unknown[]) => unknown, undefined, [...args.slice(0, -1), keep]);
    return await promise;
  };
  const fail = (err: unknown): unknown => {
    errno = koffi.os.errno[kindOf(err)] ?? 0;
    return resultOfFailed(name, errno);
  };
  void faults
    .around(`call ${callName(name, args[0])}`, call)
    .catch(fail)
    .then((result) => {
      koffi.errno(errno);
      onDone(null, result);
    });
}

/** posix_spawn returns the number itself. */
function resultOfFailed(name: string, errno: number): number {
  return name.startsWith('posix_spawn') ? errno : -1;
}

function callName(name: string, first: unknown): string {
  if (name !== 'syscall') return name;
  return (typeof first === 'number' ? NUMBERED[first] : undefined) ?? `syscall ${String(first)}`;
}
