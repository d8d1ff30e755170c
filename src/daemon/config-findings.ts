import { existsSync } from 'node:fs';

import type { Cni } from '../cni/cni.ts';
import { parseAddress } from '../config/check-value.ts';
import { describeConfig } from '../config/describe-config.ts';
import type { Config } from '../config/load-config.ts';
import type { CdiDevices } from '../runtime/cdi/cdi-devices.ts';
import type { Cgroups } from '../runtime/cgroups/cgroups.ts';
import type { Handlers } from '../runtime/handlers.ts';
import type { HookFolders } from '../runtime/hooks/hook-folders.ts';
import type { HostFacts } from '../runtime/host-facts.ts';

/** Something that the operator of this node should know. */
interface Finding {
  readonly severity: 'error' | 'warning' | 'info';
  readonly subject: string;
  readonly message: string;
  readonly remedy: string;
}

/** What the findings are about. */
interface FindingParts {
  readonly config: Config;
  readonly cni: Cni;
  readonly handlers: Handlers;
  readonly cgroups: Cgroups;
  readonly host: HostFacts;
  readonly cdi: CdiDevices;
  readonly hooks: HookFolders;
}

/** What `berth config check` shows: the configuration in force, and what keeps pods from running with it. */
export class ConfigFindings {
  readonly #parts: FindingParts;

  constructor(parts: FindingParts) {
    this.#parts = parts;
  }

  describe(): string {
    return describeConfig(this.#parts.config);
  }

  async findings(signal: AbortSignal): Promise<Finding[]> {
    const { config, cni } = this.#parts;
    const network = await cni.status(signal);
    const found: Finding[] = [];
    if (!network.ready) {
      found.push({
        severity: 'error',
        subject: `cni.conf_dir ${config.cni.confDir}`,
        message: network.message,
        remedy: "pods on the host's network run all the same; deploy/cni has an example of a configuration",
      });
    } else if (network.message !== '') {
      found.push({
        severity: 'warning',
        subject: `cni.conf_dir ${config.cni.confDir}`,
        message: network.message,
        remedy: '',
      });
    }
    return [
      ...found,
      ...this.#runtimeFindings(),
      ...this.#hostFindings(),
      ...this.#streamFindings(),
      ...(await this.#fileFindings()),
    ];
  }

  // The kubelet, which passes streams on, is on this node, so that others have no need to connect.
  #streamFindings(): Finding[] {
    const { listen, tlsCert } = this.#parts.config.stream;
    const host = parseAddress(listen)?.host ?? '';
    if (tlsCert !== '' || host === 'localhost' || host === '::1' || host.startsWith('127.')) return [];
    return [
      {
        severity: 'warning',
        subject: `stream.listen ${listen}`,
        message: 'what people type into containers and read there goes over the network in the clear',
        remedy: 'listen on 127.0.0.1, or set stream.tls_cert and stream.tls_key',
      },
    ];
  }

  async #fileFindings(): Promise<Finding[]> {
    const { cdi, hooks } = this.#parts;
    const problems = [...(await cdi.problems()), ...(await hooks.problems())];
    return problems.map(({ path, problem }) => ({
      severity: 'warning',
      subject: path,
      message: problem,
      remedy: 'it is left out until it is mended or removed',
    }));
  }

  #runtimeFindings(): Finding[] {
    const { handlers } = this.#parts;
    const isDefault = (name: string): boolean => name === handlers.defaultName;
    return handlers.statuses().flatMap((status) =>
      'error' in status
        ? [
            {
              severity: isDefault(status.name) ? ('error' as const) : ('warning' as const),
              subject: `runtime.handlers.${status.name}`,
              message: status.error,
              remedy: `install it, or name another path in [runtime.handlers.${status.name}]`,
            },
          ]
        : [],
    );
  }

  #hostFindings(): Finding[] {
    const { host, cgroups, config } = this.#parts;
    const found: Finding[] = [
      {
        severity: 'info',
        subject: 'cgroups',
        message: `${cgroups.mode}, made by ${cgroups.driver}; default handler ${this.#parts.handlers.defaultName}`,
        remedy: '',
      },
    ];
    if (host.oomScoreAdjFloor > -1000) {
      found.push({
        severity: 'warning',
        subject: 'CAP_SYS_RESOURCE',
        message: `berthd lacks it: containers get no oom_score_adj below ${host.oomScoreAdjFloor}`,
        remedy: 'run berthd with it, unless this is a test machine',
      });
    }
    if (config.image.authFile !== '' && !existsSync(config.image.authFile)) {
      found.push({
        severity: 'warning',
        subject: `image.auth_file ${config.image.authFile}`,
        message: 'is not there',
        remedy: 'private images need the credentials of the kubelet, or a login that writes this file',
      });
    }
    return found;
  }
}
