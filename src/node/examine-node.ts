import { systemClock } from '../base/clock.ts';
import type { Config } from '../config/load-config.ts';
import { inspectStore } from '../store/inspect-store.ts';
import { Store } from '../store/store.ts';
import { checkNode } from './check-node.ts';
import type { Finding, ToldFinding } from './finding.ts';
import { tellFindings } from './mend.ts';
import { databaseFindings, leftFindings } from './store-findings.ts';

/**
 * Looks over this node and what an earlier berthd has left in its folders, where none runs; mends what is safe, if that
 * is wanted. Never throws for what is wrong.
 */
export async function examineNode(config: Config, fix: boolean): Promise<ToldFinding[]> {
  return await tellFindings([...(await checkNode(config)), ...storeFindings(config)], fix);
}

function storeFindings({ root, state }: Config): Finding[] {
  if (process.geteuid?.() !== 0) return [];
  const { problem, contents } = inspectStore(root);
  // Opening it for good mends it.
  const mend = (): void => Store.open(root, systemClock, state).close();
  return [
    ...databaseFindings({ root, state }, problem, mend),
    ...(contents ? leftFindings({ root, state }, contents) : []),
  ];
}
