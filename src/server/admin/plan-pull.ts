import type { PlanPullRequest, PlanPullResponse, PullPlan } from '../../../proto/gen/berth/admin.ts';
import { invalid } from '../../base/errors.ts';
import type { Handler } from '../unary.ts';

/** What knows how pulls go. */
interface PullPlanner {
  plan(image: string, namespace: string, signal: AbortSignal): Promise<readonly Readonly<PlanOfRoom>[]>;
}

type PlanOfRoom = {
  readonly [K in keyof Omit<PullPlan, 'endpoints' | 'requirements' | 'notes' | 'passedOver'>]: PullPlan[K];
} & {
  readonly endpoints: readonly PullPlan['endpoints'][number][];
  readonly requirements: readonly string[];
  readonly notes: readonly string[];
  readonly passedOver: readonly string[];
};

/** PlanPull: which places a pull would ask, in which order, how and why. */
export function planPull(images: PullPlanner): Handler<PlanPullRequest, PlanPullResponse> {
  return async ({ image, namespace }, { signal }) => {
    if (image === '') throw invalid('image', 'is empty');
    const plans = await images.plan(image, namespace, signal);
    return {
      plans: plans.map(({ endpoints, requirements, notes, passedOver, ...plan }) => ({
        ...plan,
        endpoints: [...endpoints],
        requirements: [...requirements],
        notes: [...notes],
        passedOver: [...passedOver],
      })),
    };
  };
}
