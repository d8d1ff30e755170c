import type { Cni } from '../cni/cni.ts';
import { describeConfig } from '../config/describe-config.ts';
import type { Config } from '../config/load-config.ts';
import type { Images } from '../image/images.ts';
import { type CommonParts, commonFindings } from '../node/common-findings.ts';
import type { Finding } from '../node/finding.ts';
import { networkFindings } from '../node/network-findings.ts';
import { handlerFindings, trialFindings } from '../node/program-findings.ts';
import type { Handlers } from '../runtime/handlers.ts';

/** What came of the last reload. */
export interface ReloadState {
  /** Why the files that are there are not in force; '' when they are. */
  readonly problem: string;
  /** Keys whose new value waits for a restart. */
  readonly waiting: readonly string[];
}

/** What the findings are about. */
interface FindingParts extends Omit<CommonParts, 'cdi' | 'hooks'> {
  /** In force now. */
  readonly config: () => Config;
  readonly reloaded: () => ReloadState;
  readonly security: Pick<CommonParts, 'cdi' | 'hooks'>;
  readonly cni: Cni;
  readonly handlers: Handlers;
  readonly images: Pick<Images, 'holdsOlderRegistries' | 'olderFiles'>;
}

/** What `berth config check` shows of a running berthd: the configuration in force, and what keeps pods from running. */
export class ConfigFindings {
  readonly #parts: FindingParts;

  constructor(parts: FindingParts) {
    this.#parts = parts;
  }

  describe(): string {
    return describeConfig(this.#parts.config());
  }

  /** The handlers are shown as they were found when berthd started: what has been installed since needs a restart. */
  async findings(signal: AbortSignal): Promise<Finding[]> {
    const { cni, handlers, images, security } = this.#parts;
    const config = this.#parts.config();
    const older = {
      holdsOlderRegistries: await images.holdsOlderRegistries(),
      olderFiles: await images.olderFiles(),
    };
    return [
      ...reloadFindings(this.#parts.reloaded()),
      ...networkFindings(config.cni.confDir, await cni.status(signal)),
      ...handlerFindings(handlers.statuses(), handlers.defaultName),
      ...trialFindings(handlers.trials, handlers.defaultName),
      ...(await commonFindings(config, { ...this.#parts, ...security, ...older }, signal)),
    ];
  }
}

function reloadFindings({ problem, waiting }: ReloadState): Finding[] {
  const findings: Finding[] = [];
  if (problem !== '') {
    findings.push({
      severity: 'error',
      subject: 'configuration files',
      message: `cannot be used as they are now, and the configuration before goes on: ${problem}`,
      remedy: 'correct them; berthd looks again by itself',
    });
  }
  if (waiting.length > 0) {
    findings.push({
      severity: 'warning',
      subject: 'configuration files',
      message: `say something else than what is in force of ${waiting.join(', ')}`,
      remedy: 'systemctl restart berthd; pods go on',
    });
  }
  return findings;
}
