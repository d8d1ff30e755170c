import type { Cni } from '../cni/cni.ts';
import { describeConfig } from '../config/describe-config.ts';
import type { Config } from '../config/load-config.ts';
import type { Images } from '../image/images.ts';
import { type CommonParts, commonFindings } from '../node/common-findings.ts';
import type { Finding } from '../node/finding.ts';
import { networkFindings } from '../node/network-findings.ts';
import { handlerFindings } from '../node/program-findings.ts';
import type { Handlers } from '../runtime/handlers.ts';

/** What the findings are about. */
interface FindingParts extends CommonParts {
  readonly config: Config;
  readonly cni: Cni;
  readonly handlers: Handlers;
  readonly images: Pick<Images, 'holdsOlderRegistries'>;
}

/** What `berth config check` shows of a running berthd: the configuration in force, and what keeps pods from running. */
export class ConfigFindings {
  readonly #parts: FindingParts;

  constructor(parts: FindingParts) {
    this.#parts = parts;
  }

  describe(): string {
    return describeConfig(this.#parts.config);
  }

  /** The handlers are shown as they were found when berthd started: what has been installed since needs a restart. */
  async findings(signal: AbortSignal): Promise<Finding[]> {
    const { config, cni, handlers, images } = this.#parts;
    return [
      ...networkFindings(config.cni.confDir, await cni.status(signal)),
      ...handlerFindings(handlers.statuses(), handlers.defaultName),
      ...(await commonFindings(
        config,
        { ...this.#parts, holdsOlderRegistries: await images.holdsOlderRegistries() },
        signal,
      )),
    ];
  }
}
