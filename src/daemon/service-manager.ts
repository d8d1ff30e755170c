import { describe } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { printable } from '../base/printable.ts';
import { notifySystemd } from '../sys/notify-systemd.ts';

/** How often a start that goes on asks for more time, how much it asks for, and when it has had enough. */
const EXTEND_EVERY_MS = 10_000;
const EXTEND_BY_MS = 60_000;
const LONGEST_START_MS = 15 * 60_000;
const MAX_STATUS_CHARS = 400;

/** What systemd says to a service that it starts, by its environment. */
export interface ServiceSettings {
  /** The socket that hears states; empty when nobody asked to be told. */
  readonly socket: string;
  /** Without a sign of life for so long systemd ends the service; undefined when it does not watch. */
  readonly watchdogMs: number | undefined;
}

/**
 * Reads what systemd has put into the environment, and takes it out: no program that berthd starts may be taken for
 * the service. $WATCHDOG_USEC counts for the process that $WATCHDOG_PID names, or for whoever reads it
 * (sd_watchdog_enabled(3)); a value that is no number of microseconds is none.
 */
export function takeServiceSettings(env: Record<string, string | undefined>, pid: number): ServiceSettings {
  const socket = env['NOTIFY_SOCKET'] ?? '';
  const usec = env['WATCHDOG_USEC'] ?? '';
  const watchedPid = env['WATCHDOG_PID'] ?? '';
  for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete env[name];
  const isWatched = /^[1-9]\d{0,15}$/.test(usec) && (watchedPid === '' || watchedPid === String(pid));
  return { socket, watchdogMs: isWatched ? Number(usec) / 1000 : undefined };
}

/**
 * Tells systemd how berthd fares (sd_notify(3)). Without systemd nothing is sent. A service manager that does not
 * listen is no reason not to start, and none to stop halfway: that is a warning in the log.
 */
export class ServiceManager {
  readonly watchdogMs: number | undefined;
  readonly #socket: string;
  readonly #log: Logger;
  readonly #notify: (state: string, socket: string) => void;
  readonly #startedMs = performance.now();
  #extending: NodeJS.Timeout | undefined;
  #isReady = false;
  /** What went wrong with the last reload. */
  #note = '';
  #status = '';

  constructor(
    { socket, watchdogMs }: ServiceSettings,
    log: Logger,
    notify: (state: string, socket: string) => void = notifySystemd,
  ) {
    this.#notify = notify;
    this.#socket = socket;
    this.watchdogMs = watchdogMs;
    this.#log = log;
  }

  /** True when somebody listens. */
  get isThere(): boolean {
    return this.#socket !== '';
  }

  /** Says what the start is at. As long as it goes on systemd is asked for more time, up to a quarter of an hour. */
  starting(status: string): void {
    if (!this.isThere || this.#isReady) return;
    this.#send(`STATUS=${oneLine(status)}`);
    if (this.#extending) return;
    const extend = (): void => {
      if (performance.now() - this.#startedMs > LONGEST_START_MS) clearInterval(this.#extending);
      else this.#send(`EXTEND_TIMEOUT_USEC=${EXTEND_BY_MS * 1000}`);
    };
    this.#extending = setInterval(extend, EXTEND_EVERY_MS);
    this.#extending.unref();
  }

  /** Clients are served. */
  ready(status: string): void {
    clearInterval(this.#extending);
    this.#isReady = true;
    this.#status = status;
    this.#send(`READY=1\nSTATUS=${this.#statusLine()}`);
  }

  /** berthd is alive and does its work: the watchdog's food. */
  alive(status: string): void {
    this.#status = status;
    this.#send(`WATCHDOG=1\nSTATUS=${this.#statusLine()}`);
  }

  /**
   * Runs a reload of the configuration between the words that systemd 253 and newer waits for with
   * Type=notify-reload, and older ones show. Throws what the reload throws; the status says it until one succeeds.
   */
  async reload(work: () => Promise<void> | void): Promise<void> {
    // READY=1 of a reload that comes before the first one would say too much.
    const isReady = this.#isReady;
    const monotonicUs = process.hrtime.bigint() / 1000n;
    if (isReady) this.#send(`RELOADING=1\nMONOTONIC_USEC=${monotonicUs}`);
    try {
      await work();
      this.#note = '';
    } catch (err) {
      this.#note = `configuration not reloaded: ${describe(err)}`;
      throw err;
    } finally {
      if (isReady) this.#send(`READY=1\nSTATUS=${this.#statusLine()}`);
    }
  }

  /** berthd begins to stop. */
  stopping(): void {
    clearInterval(this.#extending);
    this.#send('STOPPING=1\nSTATUS=stops; pods go on');
  }

  #statusLine(): string {
    return oneLine(this.#note === '' ? this.#status : `${this.#status}; ${this.#note}`);
  }

  #send(state: string): void {
    try {
      this.#notify(state, this.#socket);
    } catch (err) {
      this.#log.warn({ state, err: describe(err) }, 'service manager could not be told');
    }
  }
}

/** A newline would begin another assignment. */
function oneLine(text: string): string {
  return printable(text).slice(0, MAX_STATUS_CHARS);
}
