import { fstatSync, writeSync } from 'node:fs';
import { isatty } from 'node:tty';

import { pino } from 'pino';

import type { Logger } from '../base/log.ts';
import { printable } from '../base/printable.ts';
import type { LogLevel } from '../config/load-config.ts';
import { makeNonBlocking } from '../sys/pipe.ts';

type LogFormat = 'auto' | 'json' | 'text';
type Formatter = (line: string) => string;

/** A logger whose level and form can be changed while it is used. */
export interface DaemonLogger extends Logger {
  setLevel(level: LogLevel): void;
  setFormat(format: LogFormat): void;
  /** How many lines could not be written, since the start. */
  linesLost(): number;
}

const STDERR = 2;
/** syslog's priorities (sd-daemon(3)) by pino's names of levels. */
const PRIORITIES: Readonly<Record<string, number>> = Object.freeze({ debug: 7, info: 6, warn: 4, error: 3, fatal: 2 });

/**
 * The daemon's log on stderr: JSON lines, or text for a person who started it on a terminal or reads the journal. Each
 * line to the journal begins with its priority, `<4>`, which journald takes off. What cannot be written (a full disk, a
 * reader that has left, a journald that stands still) is lost, and counted in the next line that can: no pod shall suffer
 * from its log.
 */
export function createLogger(
  level: LogLevel,
  format: LogFormat,
  fd = STDERR,
  journalStream = process.env['JOURNAL_STREAM'] ?? '',
): DaemonLogger {
  const isJournal = isSameFile(fd, journalStream);
  // Its socket is the service's own. A terminal is not: the shell, which has it too, would not expect that.
  if (isJournal) makeNonBlocking(fd);
  const formatter = (wanted: LogFormat): Formatter =>
    formatOf(wanted === 'text' || (wanted === 'auto' && (isJournal || isatty(fd))), isJournal);
  const lines = new LogLines(fd, formatter(format));
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
    setFormat(next: LogFormat) {
      lines.format = formatter(next);
    },
    linesLost: () => lines.lostSoFar,
  });
}

/** $JOURNAL_STREAM is the device and inode of what systemd connected with the journal (systemd.exec(5)). */
function isSameFile(fd: number, journalStream: string): boolean {
  if (journalStream === '') return false;
  const { dev, ino } = fstatSync(fd, { bigint: true });
  return journalStream === `${dev}:${ino}`;
}

function formatOf(isText: boolean, isJournal: boolean): Formatter {
  if (isJournal) return isText ? toJournal : (line) => `${priorityOf(levelOf(line))}${line}`;
  return isText ? toText : (line) => line;
}

/** Writes each line at once: the last one before a crash matters most. */
class LogLines {
  readonly #fd: number;
  format: (line: string) => string;
  lostSoFar = 0;
  #lost = 0;
  #isInsideLine = false;

  constructor(fd: number, format: (line: string) => string) {
    this.#fd = fd;
    this.format = format;
  }

  write(line: string): void {
    try {
      if (this.#lost > 0) this.#put(lostLine(this.#lost));
      this.#lost = 0;
      this.#put(line);
    } catch {
      this.#lost += 1;
      this.lostSoFar += 1;
    }
  }

  #put(line: string): void {
    // What was cut off in the middle shall not swallow this one.
    const text = `${this.#isInsideLine ? '\n' : ''}${this.format(line)}`;
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
  const { level, time, text } = parseLine(line);
  return `${time.slice(11, 23)} ${level.toUpperCase().padEnd(5)} ${text}\n`;
}

/** `<6>message  key=value ...`: the journal has its own clock. */
function toJournal(line: string): string {
  const { level, text } = parseLine(line);
  return `${priorityOf(level)}${text}\n`;
}

function parseLine(line: string): { level: string; time: string; text: string } {
  const { level, time, msg, ...fields } = JSON.parse(line) as Record<string, unknown>;
  const facts = Object.entries(fields).map(
    ([key, value]) => `${key}=${typeof value === 'string' ? printable(value) : JSON.stringify(value)}`,
  );
  const text = `${String(msg)}${facts.length > 0 ? `  ${facts.join(' ')}` : ''}`;
  return { level: String(level), time: String(time), text };
}

function priorityOf(level: string): string {
  return `<${PRIORITIES[level] ?? PRIORITIES['info']}>`;
}

/** pino writes the level first. */
function levelOf(line: string): string {
  return /^\{"level":"([a-z]+)"/.exec(line)?.[1] ?? '';
}
