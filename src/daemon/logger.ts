import { writeSync } from 'node:fs';
import { isatty } from 'node:tty';

import { pino } from 'pino';

import type { Logger } from '../base/log.ts';
import { printable } from '../base/printable.ts';
import type { LogLevel } from '../config/load-config.ts';

/** A logger whose level can be changed while it is used. */
export interface DaemonLogger extends Logger {
  setLevel(level: LogLevel): void;
}

const STDERR = 2;

/**
 * The daemon's log on stderr: JSON lines, or text for a person who started it on a terminal. What cannot be written (a
 * full disk, a reader that has left) is lost, and counted in the next line that can: no pod shall suffer from its log.
 */
export function createLogger(level: LogLevel, format: 'auto' | 'json' | 'text', fd = STDERR): DaemonLogger {
  const isText = format === 'text' || (format === 'auto' && isatty(fd));
  const lines = new LogLines(fd, isText ? toText : (line) => line);
  const root = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    lines,
  );
  return Object.assign(root, {
    setLevel(next: LogLevel) {
      root.level = next;
    },
  });
}

/** Writes each line at once: the last one before a crash matters most. */
class LogLines {
  readonly #fd: number;
  readonly #format: (line: string) => string;
  #lost = 0;
  #isInsideLine = false;

  constructor(fd: number, format: (line: string) => string) {
    this.#fd = fd;
    this.#format = format;
  }

  write(line: string): void {
    try {
      if (this.#lost > 0) this.#put(lostLine(this.#lost));
      this.#lost = 0;
      this.#put(line);
    } catch {
      this.#lost += 1;
    }
  }

  #put(line: string): void {
    // What was cut off in the middle shall not swallow this one.
    const text = `${this.#isInsideLine ? '\n' : ''}${this.#format(line)}`;
    for (let rest = Buffer.from(text); rest.length > 0; ) {
      rest = rest.subarray(writeSync(this.#fd, rest));
      this.#isInsideLine = rest.length > 0;
    }
  }
}

function lostLine(lines: number): string {
  const time = new Date().toISOString();
  return `${JSON.stringify({ level: 'warn', time, lines, msg: 'log lines were lost: they could not be written' })}\n`;
}

/** `12:03:04.567 INFO  message  key=value ...` from pino's JSON line. */
function toText(line: string): string {
  const { level, time, msg, ...fields } = JSON.parse(line) as Record<string, unknown>;
  const facts = Object.entries(fields).map(
    ([key, value]) => `${key}=${typeof value === 'string' ? printable(value) : JSON.stringify(value)}`,
  );
  const clock = String(time).slice(11, 23);
  return `${clock} ${String(level).toUpperCase().padEnd(5)} ${String(msg)}${facts.length > 0 ? `  ${facts.join(' ')}` : ''}\n`;
}
