import type { TestContext } from 'node:test';

import { NamespaceMode, type PodSandboxConfig } from '../../proto/gen/cri/api.ts';
import { listPipelines } from '../../src/pod/pipelines.ts';
import { FaultTrials, type Scene } from './fault-trials.ts';
import { FaultFolder } from './faults.ts';
import { type LabOptions, PodLab } from './pod-lab.ts';

/** A berthd that faults are tried on. */
export class FaultLab {
  readonly lab: PodLab;
  readonly faults: FaultFolder;
  readonly #trials: FaultTrials;

  private constructor(lab: PodLab, faults: FaultFolder, limits: { limitMs: number; scenes: number }) {
    this.lab = lab;
    this.faults = faults;
    this.#trials = new FaultTrials({ lab, faults, outlines: listPipelines() }, limits);
  }

  /** Starts it; the limits are those of FaultTrials. */
  static async start(
    limits: { limitMs: number; scenes: number },
    { environment, ...options }: LabOptions = {},
  ): Promise<FaultLab> {
    const faults = new FaultFolder();
    const lab = await PodLab.start({ ...options, environment: { ...faults.environment, ...environment } });
    return new FaultLab(lab, faults, limits);
  }

  /** Tries all faults of a scene; see FaultTrials. */
  async run<C>(t: TestContext, scene: Scene<C>): Promise<void> {
    t.diagnostic(JSON.stringify(await this.#trials.run(scene)));
  }

  /** A pod on the host's network, where the network is not what is tested. */
  hostPod(): PodSandboxConfig {
    const securityContext = { namespaceOptions: { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER } };
    return this.lab.podConfig({ linux: { cgroupParent: this.lab.cgroupParent, securityContext } });
  }

  async close(): Promise<void> {
    await this.lab.close();
    this.faults[Symbol.dispose]();
  }
}
