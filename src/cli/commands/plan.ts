import { AdminService, PlanPullRequest, type PullPlan } from '../../../proto/gen/berth/admin.ts';
import { printable } from '../../base/printable.ts';
import { json } from '../output.ts';
import type { Session } from '../session.ts';

/**
 * `berth config check IMAGE`: which places a pull would ask, in which order, how and why. Exit code 1 when there is
 * nothing that would be asked.
 */
export async function checkImage(session: Session, image: string, namespace: string): Promise<number> {
  const request = PlanPullRequest.create({ image, namespace });
  const { plans } = await session.connection.call(AdminService.planPull, request);
  session.output.out(session.json ? json({ plans }) : plans.map(inWords).join('\n'));
  return plans.some(({ problem }) => problem === '') ? 0 : 1;
}

function inWords({ reference, endpoints, requirements, requirementsBecause, problem }: PullPlan): string {
  const lines = [reference];
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
  if (problem !== '') lines.push(`  cannot be pulled: ${problem}`);
  return `${lines.map(printable).join('\n')}\n`;
}
