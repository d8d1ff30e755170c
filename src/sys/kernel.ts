import { release } from 'node:os';

/** The running kernel's version, `{ major: 6, minor: 1 }`, to tell which calls it has. */
export function kernelRelease(): { major: number; minor: number } {
  return parseKernelRelease(release());
}

/** Reads `6.1.0-18-cloud-amd64`; what is not a number counts as 0. */
export function parseKernelRelease(text: string): { major: number; minor: number } {
  const match = /^(\d+)\.(\d+)/.exec(text);
  return { major: Number(match?.[1] ?? 0), minor: Number(match?.[2] ?? 0) };
}
