/** Facts that go with a log line. Keys are lowerCamelCase: `sandbox`, `container`, `rpc`, `step`, `err`. */
export type LogFields = Readonly<Record<string, unknown>>;

/** What rooms need of a logger; src/main.ts hands them pino. */
export interface Logger {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
  /** A logger whose every line carries these fields. */
  child(fields: LogFields): Logger;
}

/** A logger that says nothing, for tests and for command-line tools. */
export const silentLogger: Logger = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => silentLogger,
};
