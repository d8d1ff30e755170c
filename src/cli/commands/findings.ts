import { printable } from '../../base/printable.ts';
import type { Output } from '../output.ts';

/** What every finding is shown by. */
export interface ShownFinding {
  readonly severity: string;
  readonly subject: string;
  readonly message: string;
  readonly remedy: string;
  readonly canMend?: boolean;
  readonly mended?: string;
}

/** Prints findings, each with what to do about it, and how many there are. */
export function showFindings(output: Output, findings: readonly ShownFinding[]): void {
  for (const { severity, subject, message, remedy, mended = '' } of findings) {
    output.out(`\n${severity}: ${subject}: ${printable(message)}\n${remedy === '' ? '' : `  ${remedy}\n`}`);
    if (mended !== '') output.out(mended === 'done' ? '  mended\n' : `  not mended: ${printable(mended)}\n`);
  }
  output.out(`\n${summary(findings)}\n`);
}

/** Findings that still stand, by how bad they are. */
export function countOf(findings: readonly ShownFinding[], severity: string): number {
  return findings.filter((finding) => finding.severity === severity && finding.mended !== 'done').length;
}

function summary(findings: readonly ShownFinding[]): string {
  const [errors, warnings] = [countOf(findings, 'error'), countOf(findings, 'warning')];
  if (errors === 0 && warnings === 0) return 'nothing is wrong';
  return `${errors} ${errors === 1 ? 'error' : 'errors'}, ${warnings} ${warnings === 1 ? 'warning' : 'warnings'}`;
}
