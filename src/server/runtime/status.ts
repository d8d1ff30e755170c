import type { RuntimeCondition, StatusRequest, StatusResponse } from '../../../proto/gen/cri/api.ts';
import { describe } from '../../base/errors.ts';
import type { Cni } from '../../cni/cni.ts';
import type { Handlers } from '../../runtime/handlers.ts';
import { infoToProto } from '../convert/info.ts';
import type { Handler } from '../unary.ts';

/** Status: is the runtime up, is there a network for pods, and what can each handler do. */
export function status(deps: {
  readonly cni: Pick<Cni, 'status'>;
  readonly handlers: Handlers;
  /** Facts for `verbose`. */
  readonly info: () => Record<string, unknown>;
}): Handler<StatusRequest, StatusResponse> {
  return async ({ verbose }, { signal }) => {
    const network = await deps.cni.status(signal);
    const runtime = runtimeStatus(deps.handlers);
    return {
      status: { conditions: [condition('RuntimeReady', runtime), condition('NetworkReady', network)] },
      runtimeHandlers: runtimeHandlers(deps.handlers),
      features: { supplementalGroupsPolicy: true, userNamespacesHostNetwork: true, mountOptions: true },
      info: verbose ? infoToProto(deps.info()) : {},
    };
  };
}

/** Whether something works, and if not, why, in words for the kubelet's node status. */
interface Readiness {
  readonly ready: boolean;
  readonly reason: string;
  readonly message: string;
}

function condition(type: string, { ready, reason, message }: Readiness): RuntimeCondition {
  return { type, status: ready, reason: ready ? '' : reason, message: ready ? '' : message };
}

// Without a default handler no ordinary pod can run, whatever else works.
function runtimeStatus(handlers: Handlers): Readiness {
  try {
    handlers.get('');
    return { ready: true, reason: '', message: '' };
  } catch (err) {
    return { ready: false, reason: 'RuntimeHandlerNotReady', message: describe(err) };
  }
}

// The default handler is there twice, under its name and as '': a pod without a RuntimeClass asks for ''.
function runtimeHandlers(handlers: Handlers): StatusResponse['runtimeHandlers'] {
  const usable = handlers.all();
  const fallback = usable
    .filter(({ name }) => name === handlers.defaultName)
    .map((handler) => ({ ...handler, name: '' }));
  return [...fallback, ...usable].map(({ name, features }) => ({
    name,
    features: {
      recursiveReadOnlyMounts: features.recursiveReadOnlyMounts,
      userNamespaces: features.userNamespaces,
    },
  }));
}
