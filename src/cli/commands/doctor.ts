import { AdminService, DoctorRequest } from '../../../proto/gen/berth/admin.ts';
import type { Config } from '../../config/load-config.ts';
import { json } from '../output.ts';
import type { Session } from '../session.ts';
import { orNotThere, readConfig } from './config.ts';
import { countOf, type ShownFinding, showFindings } from './findings.ts';

/** An examination asks programs for their versions, and plugins for their state. */
const TIMEOUT_MS = 120_000;
const ERRORS = 1;
const WARNINGS = 2;

/** What `berth doctor` was asked for. */
export interface DoctorOptions {
  readonly fix: boolean;
  readonly config?: string;
}

/**
 * `berth doctor`: what is wrong with this node and with what berthd keeps on it, what each means, and the command that
 * mends it; with `--fix` what is safe is mended. A running berthd is asked; without one the node is looked over from
 * here. Exit code 0: nothing is wrong (any more), 1: errors, 2: only warnings.
 */
export async function examine(session: Session, { fix, config }: DoctorOptions): Promise<number> {
  const { output } = session;
  const asked = session.connection.call(AdminService.doctor, DoctorRequest.create({ fix }), TIMEOUT_MS);
  const running = (await orNotThere(asked))?.findings;
  const alone = running ? undefined : readConfig(config);
  const findings: readonly ShownFinding[] = alone ? await session.examineNode(alone, fix) : (running ?? []);
  const canMend = findings.filter((finding) => finding.canMend).length;
  if (session.json) output.out(json({ berthdRuns: running !== undefined, findings }));
  else {
    if (alone) output.out(`no berthd answers; this is what one would find on this node, with ${sourceOf(alone)}\n`);
    showFindings(output, findings);
    if (!fix && canMend > 0) output.out(`berth doctor --fix mends ${canMend} of these\n`);
  }
  if (countOf(findings, 'error') > 0) return ERRORS;
  return countOf(findings, 'warning') > 0 ? WARNINGS : 0;
}

function sourceOf({ sources }: Config): string {
  return sources.length === 0 ? 'the defaults' : sources.join(', ');
}
