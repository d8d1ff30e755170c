/** What is called NAME, and has VALUE. */
export interface Setting {
  readonly name: string;
  readonly value: string;
}

/** NAME and VALUE of `NAME=VALUE`, on one line; undefined for anything else. */
export function parseSetting(text: string): Setting | undefined {
  const at = text.indexOf('=');
  if (at < 1 || /[\0\n\r]/.test(text)) return undefined;
  return { name: text.slice(0, at), value: text.slice(at + 1) };
}

/** A limit of setrlimit(2). Infinity is no limit. */
export interface Ulimit {
  /** As getrlimit(2) has it, `RLIMIT_NOFILE`. */
  readonly type: string;
  readonly soft: number;
  readonly hard: number;
}

const ULIMITS: ReadonlySet<string> = new Set(
  `as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack`.split(' '),
);

/** The limit of `nofile=1024:4096` or `nofile=1024`, which sets both; undefined for anything else. */
export function parseUlimit(text: string): Ulimit | undefined {
  const [, name = '', softText = '', hardText = softText] =
    /^([a-z]+)=(-1|\d{1,15})(?::(-1|\d{1,15}))?$/.exec(text) ?? [];
  if (!ULIMITS.has(name)) return undefined;
  const number = (digits: string): number => (digits === '-1' ? Number.POSITIVE_INFINITY : Number(digits));
  const [soft, hard] = [number(softText), number(hardText)];
  return soft <= hard ? { type: `RLIMIT_${name.toUpperCase()}`, soft, hard } : undefined;
}
