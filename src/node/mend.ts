import { describe } from '../base/errors.ts';
import type { Finding, ToldFinding } from './finding.ts';

/** Mends what can be mended, one after the other, if that is wanted. Never throws: what fails is told. */
export async function tellFindings(findings: readonly Finding[], fix: boolean): Promise<ToldFinding[]> {
  const told: ToldFinding[] = [];
  for (const { mend, ...finding } of findings)
    told.push({ ...finding, canMend: mend !== undefined, mended: fix && mend ? await attempt(mend) : '' });
  return told;
}

async function attempt(mend: () => Promise<void> | void): Promise<string> {
  try {
    await mend();
    return 'done';
  } catch (err) {
    return describe(err);
  }
}
