import type { DoctorRequest, DoctorResponse } from '../../../proto/gen/berth/admin.ts';
import type { Handler } from '../unary.ts';

/** Who looks over the node, and mends. */
export interface Doctor {
  examine(fix: boolean, signal: AbortSignal): Promise<DoctorResponse['findings']>;
}

/** Doctor: what is wrong with this node and with what berthd keeps, and what became of it. */
export function doctor(examiner: Doctor): Handler<DoctorRequest, DoctorResponse> {
  return async ({ fix }, { signal }) => ({ findings: await examiner.examine(fix, signal) });
}
