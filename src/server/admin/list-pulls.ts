import type { ListPullsRequest, ListPullsResponse, Pull } from '../../../proto/gen/berth/admin.ts';
import type { Images } from '../../image/images.ts';
import type { PullProgress } from '../../image/pull-progress.ts';
import type { Handler } from '../unary.ts';

/** ListPulls: how far the pulls that run have come. */
export function listPulls(images: Images): Handler<ListPullsRequest, ListPullsResponse> {
  return ({ image }) => ({ pulls: images.pullsInFlight(image).map(pullToProto) });
}

function pullToProto({ reference, phase, startedAtUs, layersPresent, layers, traffic }: Readonly<PullProgress>): Pull {
  const rate = traffic.rate();
  const missing = layers.reduce((sum, layer) => sum + layer.bytesTotal - layer.bytesDone, 0);
  return {
    image: reference,
    phase,
    startedAtUs: BigInt(startedAtUs),
    layersPresent,
    layers: layers.map(({ digest, phase: layerPhase, bytesTotal, bytesDone }) => ({
      digest,
      phase: layerPhase,
      bytesTotal: BigInt(bytesTotal),
      bytesDone: BigInt(bytesDone),
    })),
    transferredBytes: BigInt(traffic.bytes),
    bytesPerSecond: rate,
    secondsLeft: phase === 'resolving' ? -1 : secondsLeft(missing, rate),
  };
}

/** Negative when nobody can tell. */
function secondsLeft(missingBytes: number, bytesPerSecond: number): number {
  if (missingBytes === 0) return 0;
  return bytesPerSecond > 0 ? missingBytes / bytesPerSecond : -1;
}
