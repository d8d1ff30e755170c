import { raceSignal, sleep, withDeadline } from '../../base/deadline.ts';
import { BerthError, because, isKind } from '../../base/errors.ts';
import type { DbusMessage, DbusValue } from './dbus-codec.ts';
import { type DbusConnection, openDbus } from './dbus-connection.ts';

const SYSTEMD = 'org.freedesktop.systemd1';
const MANAGER = `${SYSTEMD}.Manager`;
const MANAGER_PATH = '/org/freedesktop/systemd1';
const TO_MANAGER = Object.freeze({ destination: SYSTEMD, path: MANAGER_PATH, interface: MANAGER });
/** Where systemd's own clients look for the system bus. */
export const SYSTEM_BUS = '/run/dbus/system_bus_socket';
/** A scope starts and stops in milliseconds; systemd's own limit for a job is 90 s. */
const JOB_TIMEOUT_MS = 30_000;
/** systemd is away from the bus for a moment when it runs itself anew (systemctl daemon-reexec), as its upgrade does. */
const AWAY_TIMEOUT_MS = 5_000;
const LOOK_EVERY_MS = 50;
const BUS = 'org.freedesktop.DBus';

/** A property of a transient unit, by the names of org.freedesktop.systemd1(5). */
export interface UnitProperty {
  readonly name: string;
  /** D-Bus type of the value. */
  readonly signature: string;
  readonly value: DbusValue;
}

/** What a job is to make of a unit. */
interface UnitJob {
  readonly verb: 'start' | 'stop';
  readonly unit: string;
  readonly member: string;
  readonly signature: string;
  readonly body: readonly DbusValue[];
}

/** A connection that was begun; `isOver` once it has failed or ended. */
interface Link {
  readonly opening: Promise<Bus>;
  isOver: boolean;
}

/** The bus, and the name on it that nobody but systemd has. */
interface Bus {
  readonly connection: DbusConnection;
  readonly systemd: string;
}

/**
 * systemd's manager object on the system bus. Connects with the first call, and again after the connection has ended:
 * a job that was begun on one that is lost is looked for on the next. `unavailable` when there is none.
 */
export class SystemdManager {
  readonly #busSocket: string;
  #link: Link | undefined;
  #closes = 0;

  constructor(busSocket = SYSTEM_BUS) {
    this.#busSocket = busSocket;
  }

  /** Starts a transient unit, and waits until it is active. Throws `alreadyExists` when there is one of that name. */
  async startUnit(unit: string, properties: readonly UnitProperty[], signal: AbortSignal): Promise<void> {
    const values = properties.map(({ name, signature, value }) => [name, { signature, value }]);
    const body = [unit, 'fail', values, []];
    await this.#runJob(
      { verb: 'start', unit, member: 'StartTransientUnit', signature: 'ssa(sv)a(sa(sv))', body },
      signal,
    );
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
      const body = [unit, 'replace'];
      await this.#runJob({ verb: 'stop', unit, member: 'StopUnit', signature: 'ss', body }, signal);
      using limited = withDeadline(`reset ${unit}`, JOB_TIMEOUT_MS, signal);
      await this.#call('ResetFailedUnit', 's', [unit], limited);
    } catch (err) {
      // Stopped and collected by systemd: what was asked for.
      if (!isKind(err, 'notFound')) throw err;
    }
  }

  close(): void {
    this.#link?.opening.then(
      ({ connection }) => connection.close(),
      () => undefined,
    );
    this.#link = undefined;
    this.#closes++;
  }

  async #runJob({ verb, unit, member, signature, body }: UnitJob, signal: AbortSignal): Promise<void> {
    using limited = withDeadline(`systemd: ${verb} ${unit}`, JOB_TIMEOUT_MS, signal);
    const bus = await this.#connect(limited);
    const { connection } = bus;
    const closes = this.#closes;
    // From before the call: a job can be through before its number is read from the answer.
    const jobs = new JobResults(bus);
    try {
      const [job] = await connection.call({ ...TO_MANAGER, member, signature, body }, limited);
      const result = await jobs.resultOf(String(job), limited);
      if (result !== 'done')
        throw new BerthError('internal', `systemd could not ${verb} ${unit}: the job's result is ${result}`);
    } catch (err) {
      if (connection.isOpen || closes !== this.#closes || limited.aborted) throw err;
      await this.#outcomeOf(verb, unit, err, limited);
    } finally {
      jobs.close();
    }
  }

  // Nobody hears any more how the job ends, or whether systemd was asked at all: the unit's state tells.
  async #outcomeOf(verb: UnitJob['verb'], unit: string, lost: unknown, signal: AbortSignal): Promise<void> {
    for (;;) {
      const state = await this.#stateOnceBack(unit, signal);
      if (state !== 'busy') {
        if ((state === 'up') === (verb === 'start')) return;
        throw because('unavailable', `systemd: ${verb} ${unit}: lost before it was done`, lost);
      }
      await sleep(LOOK_EVERY_MS, signal);
    }
  }

  async #stateOnceBack(unit: string, signal: AbortSignal): Promise<'up' | 'down' | 'busy'> {
    using away = withDeadline('systemd: come back to the bus', AWAY_TIMEOUT_MS, signal);
    for (;;) {
      try {
        return await this.#stateOf(unit, away);
      } catch (err) {
        if (!isKind(err, 'unavailable')) throw err;
        await sleep(LOOK_EVERY_MS, away);
      }
    }
  }

  // org.freedesktop.systemd1(5): a unit's Job is 0 when none is queued.
  async #stateOf(unit: string, signal: AbortSignal): Promise<'up' | 'down' | 'busy'> {
    try {
      const [path] = await this.#call('GetUnit', 's', [unit], signal);
      const [job] = await this.#property(String(path), 'Job', signal);
      if (job !== 0) return 'busy';
      const [state] = await this.#property(String(path), 'ActiveState', signal);
      return state === 'active' ? 'up' : 'down';
    } catch (err) {
      if (isKind(err, 'notFound')) return 'down';
      throw err;
    }
  }

  async #property(path: string, name: string, signal: AbortSignal): Promise<readonly DbusValue[]> {
    const { connection } = await this.#connect(signal);
    const body = [`${SYSTEMD}.Unit`, name];
    const call = { destination: SYSTEMD, path, interface: `${BUS}.Properties`, member: 'Get', signature: 'ss', body };
    const [variant] = await connection.call(call, signal);
    const value = typeof variant === 'object' && 'value' in variant ? variant.value : undefined;
    if (value === undefined) throw new BerthError('internal', `systemd: the property ${name} has no value`);
    return Array.isArray(value) ? value : [value];
  }

  async #call(
    member: string,
    signature: string,
    body: readonly DbusValue[],
    signal: AbortSignal,
  ): Promise<readonly DbusValue[]> {
    const { connection } = await this.#connect(signal);
    return await connection.call({ ...TO_MANAGER, member, signature, body }, signal);
  }

  // Shared by all who call meanwhile, so no caller's signal ends it: nothing is awaited before it is known to the next.
  async #connect(signal: AbortSignal): Promise<Bus> {
    signal.throwIfAborted();
    if (!this.#link || this.#link.isOver) this.#link = openLink(this.#busSocket);
    return await raceSignal(this.#link.opening, signal);
  }
}

function openLink(busSocket: string): Link {
  const link: Link = { opening: openManager(busSocket), isOver: false };
  const end = (): void => {
    link.isOver = true;
  };
  link.opening.then(({ connection }) => connection.onEnd(end), end);
  return link;
}

async function openManager(busSocket: string): Promise<Bus> {
  using signal = withDeadline('connect to systemd', JOB_TIMEOUT_MS);
  const connection = await openDbus(busSocket, signal);
  try {
    connection.onSignal(({ sender, member, body }) => {
      // What it did meanwhile nobody was told, and who comes next may not know of the subscription.
      if (sender === BUS && member === 'NameOwnerChanged' && body[0] === SYSTEMD && body[1] !== '')
        connection.close(new BerthError('unavailable', 'systemd left the bus'));
    });
    await connection.match(`type='signal',sender='${BUS}',member='NameOwnerChanged',arg0='${SYSTEMD}'`, signal);
    await connection.match(`type='signal',sender='${SYSTEMD}',interface='${MANAGER}',member='JobRemoved'`, signal);
    const ask = { destination: BUS, path: '/org/freedesktop/DBus', interface: BUS, member: 'GetNameOwner' };
    const [systemd] = await connection.call({ ...ask, signature: 's', body: [SYSTEMD] }, signal);
    await connection.call({ ...TO_MANAGER, member: 'Subscribe' }, signal);
    return { connection, systemd: String(systemd) };
  } catch (err) {
    connection.close();
    throw err;
  }
}

/** The results of jobs that ended since it was made. */
class JobResults {
  readonly #systemd: string;
  readonly #results = new Map<string, string>();
  readonly #stops: readonly (() => void)[];
  #lost: BerthError | undefined;
  #wake = Promise.withResolvers<void>();

  constructor({ connection, systemd }: Bus) {
    this.#systemd = systemd;
    this.#stops = [
      connection.onSignal((message) => this.#onSignal(message)),
      connection.onEnd((reason) => {
        this.#lost = reason;
        this.#wake.resolve();
      }),
    ];
  }

  /** Throws why the connection ended when it did before. */
  async resultOf(job: string, signal: AbortSignal): Promise<string> {
    for (;;) {
      const result = this.#results.get(job);
      if (result !== undefined) return result;
      if (this.#lost) throw this.#lost;
      await raceSignal(this.#wake.promise, signal);
    }
  }

  close(): void {
    for (const stop of this.#stops) stop();
  }

  // Any user of the host may send a signal of that name to any connection (dbus-daemon(1), the system bus).
  #onSignal({ sender, interface: source, member, body }: DbusMessage): void {
    if (sender !== this.#systemd || source !== MANAGER || member !== 'JobRemoved') return;
    const [, job, , result] = body;
    this.#results.set(String(job), String(result));
    this.#wake.resolve();
    this.#wake = Promise.withResolvers<void>();
  }
}
