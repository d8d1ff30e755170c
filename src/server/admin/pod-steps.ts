import type { PodStepsRequest, PodStepsResponse } from '../../../proto/gen/berth/admin.ts';
import { invalid } from '../../base/errors.ts';
import type { Pods } from '../../pod/pods.ts';
import type { Handler } from '../unary.ts';

/** One step of a pipeline, as it went. */
export interface TimedStep {
  readonly pipeline: string;
  readonly step: string;
  readonly outcome: string;
  readonly durationMs: number;
  readonly startedAtUs: number;
}

/** Where the times of a sandbox's or container's steps are kept. */
export interface StepHistory {
  times(subject: string): readonly TimedStep[];
}

/** PodSteps: where the time of a pod's life went. */
export function podSteps(pods: Pods, history: StepHistory): Handler<PodStepsRequest, PodStepsResponse> {
  return ({ id }) => {
    if (id === '') throw invalid('id', 'is empty');
    const times = history.times(pods.getAnyId(id));
    return {
      steps: times.map(({ pipeline, step, outcome, durationMs, startedAtUs }) => ({
        pipeline,
        name: step,
        outcome,
        durationMs,
        startedAtUs: BigInt(startedAtUs),
      })),
    };
  };
}
