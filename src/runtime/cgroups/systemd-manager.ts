import { raceSignal, withDeadline } from '../../base/deadline.ts';
import { BerthError, isKind } from '../../base/errors.ts';
import type { DbusMessage, DbusValue } from './dbus-codec.ts';
import { type DbusConnection, openDbus } from './dbus-connection.ts';

const SYSTEMD = 'org.freedesktop.systemd1';
const MANAGER = `${SYSTEMD}.Manager`;
const MANAGER_PATH = '/org/freedesktop/systemd1';
/** Where systemd's own clients look for the system bus. */
export const SYSTEM_BUS = '/run/dbus/system_bus_socket';
/** A scope starts and stops in milliseconds; systemd's own limit for a job is 90 s. */
const JOB_TIMEOUT_MS = 30_000;

/** A property of a transient unit, by the names of org.freedesktop.systemd1(5). */
export interface UnitProperty {
  readonly name: string;
  /** D-Bus type of the value. */
  readonly signature: string;
  readonly value: DbusValue;
}

/** systemd's manager object on the system bus. Connects with the first call, and again after systemd restarted the bus. */
export class SystemdManager {
  readonly #busSocket: string;
  #connection: Promise<DbusConnection> | undefined;

  constructor(busSocket = SYSTEM_BUS) {
    this.#busSocket = busSocket;
  }

  /** Starts a transient unit, and waits until it is active. Throws `alreadyExists` when there is one of that name. */
  async startUnit(unit: string, properties: readonly UnitProperty[], signal: AbortSignal): Promise<void> {
    const values = properties.map(({ name, signature, value }) => [name, { signature, value }]);
    await this.#runJob(`start ${unit}`, 'StartTransientUnit', 'ssa(sv)a(sa(sv))', [unit, 'fail', values, []], signal);
  }

  /** Changes properties of a loaded unit until the next boot. Throws `notFound` for an unknown unit. */
  async setProperties(unit: string, properties: readonly UnitProperty[], signal: AbortSignal): Promise<void> {
    if (properties.length === 0) return;
    using limited = withDeadline(`change ${unit}`, JOB_TIMEOUT_MS, signal);
    const values = properties.map(({ name, signature, value }) => [name, { signature, value }]);
    await this.#call('SetUnitProperties', 'sba(sv)', [unit, true, values], limited);
  }

  /** Moves processes into a running unit's cgroup. Throws `notFound` for an unknown unit. */
  async attachProcesses(unit: string, pids: readonly number[], signal: AbortSignal): Promise<void> {
    using limited = withDeadline(`move processes into ${unit}`, JOB_TIMEOUT_MS, signal);
    await this.#call('AttachProcessesToUnit', 'ssau', [unit, '', pids], limited);
  }

  /** Stops a unit and waits until it is inactive, and forgets that it failed. An unknown unit is success. */
  async stopUnit(unit: string, signal: AbortSignal): Promise<void> {
    try {
      await this.#runJob(`stop ${unit}`, 'StopUnit', 'ss', [unit, 'replace'], signal);
      using limited = withDeadline(`reset ${unit}`, JOB_TIMEOUT_MS, signal);
      await this.#call('ResetFailedUnit', 's', [unit], limited);
    } catch (err) {
      // Stopped and collected by systemd: what was asked for.
      if (!isKind(err, 'notFound')) throw err;
    }
  }

  close(): void {
    this.#connection?.then(
      (connection) => connection.close(),
      () => undefined,
    );
    this.#connection = undefined;
  }

  async #runJob(
    what: string,
    member: string,
    signature: string,
    body: readonly DbusValue[],
    signal: AbortSignal,
  ): Promise<void> {
    using limited = withDeadline(`systemd: ${what}`, JOB_TIMEOUT_MS, signal);
    const connection = await this.#connect(limited);
    // From before the call: a job can be through before its number is read from the answer.
    const jobs = new JobResults(connection);
    try {
      const [job] = await this.#call(member, signature, body, limited);
      const result = await jobs.resultOf(String(job), limited);
      if (result !== 'done')
        throw new BerthError('internal', `systemd could not ${what}: the job's result is ${result}`);
    } finally {
      jobs.close();
    }
  }

  async #call(
    member: string,
    signature: string,
    body: readonly DbusValue[],
    signal: AbortSignal,
  ): Promise<readonly DbusValue[]> {
    const connection = await this.#connect(signal);
    return await connection.call(
      { destination: SYSTEMD, path: MANAGER_PATH, interface: MANAGER, member, signature, body },
      signal,
    );
  }

  async #connect(signal: AbortSignal): Promise<DbusConnection> {
    const known = await this.#connection?.catch(() => undefined);
    if (known?.isOpen) return known;
    signal.throwIfAborted();
    // Another call may have begun the new connection meanwhile. It is shared, so no caller's signal ends it.
    if (this.#connection && (await this.#connection.catch(() => undefined)) !== known) return await this.#connection;
    this.#connection = openManager(this.#busSocket);
    return await this.#connection;
  }
}

async function openManager(busSocket: string): Promise<DbusConnection> {
  using signal = withDeadline('connect to systemd', JOB_TIMEOUT_MS);
  const connection = await openDbus(busSocket, signal);
  await connection.match(`type='signal',sender='${SYSTEMD}',interface='${MANAGER}',member='JobRemoved'`, signal);
  const subscribe = { destination: SYSTEMD, path: MANAGER_PATH, interface: MANAGER, member: 'Subscribe' };
  await connection.call(subscribe, signal);
  return connection;
}

/** The results of jobs that ended since it was made. */
class JobResults {
  readonly #results = new Map<string, string>();
  readonly #stop: () => void;
  #wake = Promise.withResolvers<void>();

  constructor(connection: DbusConnection) {
    this.#stop = connection.onSignal((message) => this.#onSignal(message));
  }

  async resultOf(job: string, signal: AbortSignal): Promise<string> {
    for (;;) {
      const result = this.#results.get(job);
      if (result !== undefined) return result;
      await raceSignal(this.#wake.promise, signal);
    }
  }

  close(): void {
    this.#stop();
  }

  #onSignal({ interface: source, member, body }: DbusMessage): void {
    if (source !== MANAGER || member !== 'JobRemoved') return;
    const [, job, , result] = body;
    this.#results.set(String(job), String(result));
    this.#wake.resolve();
    this.#wake = Promise.withResolvers<void>();
  }
}
