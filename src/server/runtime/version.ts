import type { VersionRequest, VersionResponse } from '../../../proto/gen/cri/api.ts';
import type { Handler } from '../unary.ts';

/** What a client is told about the program that it speaks to. */
export interface ProgramVersion {
  readonly name: string;
  readonly version: string;
}

/** Version: `version` is the kubelet's runtime API version, fixed at 0.1.0 since the dockershim. */
export function version(program: ProgramVersion): Handler<VersionRequest, VersionResponse> {
  return () => ({
    version: '0.1.0',
    runtimeName: program.name,
    runtimeVersion: program.version,
    runtimeApiVersion: 'v1',
  });
}
