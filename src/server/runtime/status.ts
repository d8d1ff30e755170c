import type { RuntimeCondition, StatusRequest, StatusResponse } from '../../../proto/gen/cri/api.ts';
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
    return {
      status: {
        conditions: [
          condition('RuntimeReady', true, '', ''),
          condition(
            'NetworkReady',
            network.ready,
            network.ready ? '' : network.reason,
            network.ready ? '' : network.message,
          ),
        ],
      },
      runtimeHandlers: runtimeHandlers(deps.handlers),
      features: { supplementalGroupsPolicy: true, userNamespacesHostNetwork: false, mountOptions: true },
      info: verbose ? infoToProto(deps.info()) : {},
    };
  };
}

function condition(type: string, isMet: boolean, reason: string, message: string): RuntimeCondition {
  return { type, status: isMet, reason, message };
}

// The default handler is there twice, under its name and as '': a pod without a RuntimeClass asks for ''.
function runtimeHandlers(handlers: Handlers): StatusResponse['runtimeHandlers'] {
  const usable = handlers.all();
  const fallback = handlers.get('');
  return [{ handler: fallback, name: '' }, ...usable.map((handler) => ({ handler, name: handler.name }))].map(
    ({ handler, name }) => ({
      name,
      features: {
        recursiveReadOnlyMounts: handler.features.recursiveReadOnlyMounts,
        // The runtime may be able to; Berth gives pods no user namespace yet.
        userNamespaces: false,
      },
    }),
  );
}
