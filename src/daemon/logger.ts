import { isatty } from 'node:tty';

import { destination, pino } from 'pino';

import type { Logger } from '../base/log.ts';
import type { LogLevel } from '../config/load-config.ts';

/** A logger whose level can be changed while it is used. */
export interface DaemonLogger extends Logger {
  setLevel(level: LogLevel): void;
  /** Writes what is still in memory. */
  flush(): void;
}

const STDERR = 2;

/** The daemon's log on stderr: JSON lines, or text for a person who started it on a terminal. */
export function createLogger(level: LogLevel, format: 'auto' | 'json' | 'text'): DaemonLogger {
  const isText = format === 'text' || (format === 'auto' && isatty(STDERR));
  const stream = destination({ dest: STDERR, sync: true });
  const root = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    isText ? { write: (line: string) => void stream.write(toText(line)) } : stream,
  );
  return Object.assign(root, {
    setLevel(next: LogLevel) {
      root.level = next;
    },
    flush: () => stream.flushSync(),
  });
}

/** `12:03:04.567 INFO  message  key=value ...` from pino's JSON line. */
function toText(line: string): string {
  const { level, time, msg, ...fields } = JSON.parse(line) as Record<string, unknown>;
  const facts = Object.entries(fields).map(
    ([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`,
  );
  const clock = String(time).slice(11, 23);
  return `${clock} ${String(level).toUpperCase().padEnd(5)} ${String(msg)}${facts.length > 0 ? `  ${facts.join(' ')}` : ''}\n`;
}
