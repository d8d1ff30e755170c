import type { OciProcess, OciRlimit, OciSpec } from './oci-spec.ts';

/** RLIM_INFINITY: a number that no double holds, so that reading it gives the next one that does. */
const NO_LIMIT = 0xffff_ffff_ffff_ffffn;

/** The text of a config.json. */
export function specJson(spec: OciSpec): string {
  return JSON.stringify({ ...spec, process: exact(spec.process) });
}

/** The text of a process.json. */
export function processJson(process: OciProcess): string {
  return JSON.stringify(exact(process));
}

/** Infinity, and what became of it when it was read back, are written as the kernel's number for no limit. */
function exact(process: OciProcess): object {
  const isLimited = ({ soft, hard }: OciRlimit): boolean => soft < NO_LIMIT && hard < NO_LIMIT;
  if (process.rlimits.every(isLimited)) return process;
  const write = (limit: number): unknown => (limit < NO_LIMIT ? limit : rawJson(NO_LIMIT));
  return {
    ...process,
    rlimits: process.rlimits.map(({ type, soft, hard }) => ({ type, soft: write(soft), hard: write(hard) })),
  };
}

function rawJson(number: bigint): unknown {
  // ECMAScript has it, and TypeScript's library not yet.
  const { rawJSON } = JSON as unknown as { readonly rawJSON: (text: string) => unknown };
  return rawJSON(String(number));
}
