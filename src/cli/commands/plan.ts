import { AdminService, PlanPullRequest } from '../../../proto/gen/berth/admin.ts';
import { BerthError, describe } from '../../base/errors.ts';
import { printable } from '../../base/printable.ts';
import type { PlannedPull } from '../../node/plan-on-node.ts';
import { CliError } from '../cli-error.ts';
import { json } from '../output.ts';
import type { Session } from '../session.ts';
import { orNotThere, readConfig } from './config.ts';
import { orNotHere } from './image-not-here.ts';

/**
 * `berth config check IMAGE`: which places a pull would ask, in which order, how and why; where no berthd runs, by the
 * files that one would read. Exit code 1 when it cannot be pulled.
 */
export async function checkImage(
  session: Session,
  image: string,
  { namespace, config }: { readonly namespace: string; readonly config?: string },
): Promise<number> {
  const request = PlanPullRequest.create({ image, namespace });
  const running = await orNotThere(orNotHere(session.connection.call(AdminService.planPull, request)));
  const plans: readonly PlannedPull[] = running?.plans ?? (await planOnNode(session, image, { namespace, config }));
  const note = running ? '' : 'no berthd answers; this is what one would do by the files on this node\n\n';
  session.output.out(session.json ? json({ plans }) : note + plans.map(inWords).join('\n'));
  return plans.some(({ problem }) => problem === '') ? 0 : 1;
}

async function planOnNode(
  session: Session,
  image: string,
  { namespace, config }: { readonly namespace: string; readonly config: string | undefined },
): Promise<readonly PlannedPull[]> {
  try {
    return await session.planOnNode(readConfig(config), image, namespace);
  } catch (err) {
    throw err instanceof BerthError ? new CliError(describe(err)) : err;
  }
}

function inWords({
  reference,
  because: why,
  endpoints,
  requirements,
  requirementsBecause,
  problem,
  notes,
  passedOver,
}: PlannedPull): string {
  const lines = [reference, `  because ${why}`];
  for (const [index, { url, mirror, tls, credentials, serves, because }] of endpoints.entries()) {
    lines.push(
      `  ${index + 1}. ${url}${mirror ? ' (mirror)' : ''}`,
      `     because      ${because}`,
      `     asked for    ${serves}`,
      `     certificate  ${tls}`,
      `     credentials  ${credentials}`,
    );
  }
  if (requirements.length > 0)
    lines.push(`  trust: ${requirements.join(', and ')}`, `     because      ${requirementsBecause}`);
  for (const mirror of passedOver) lines.push(`  note: ${mirror}`);
  for (const note of notes)
    lines.push(
      `  warning: what holds is what was said before a change that cannot be used, until berthd ends: ${note}`,
    );
  if (problem !== '') lines.push(`  cannot be pulled: ${problem}`);
  return `${lines.map(printable).join('\n')}\n`;
}
