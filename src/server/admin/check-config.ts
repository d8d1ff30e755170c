import type { CheckConfigRequest, CheckConfigResponse, Finding } from '../../../proto/gen/berth/admin.ts';
import type { Handler } from '../unary.ts';

/** The configuration in force, and what is wrong with it or with this node. */
export interface ConfigCheck {
  describe(): string;
  findings(signal: AbortSignal): Promise<Finding[]>;
}

/** CheckConfig: what an operator wants to know before and after a change. */
export function checkConfig(config: ConfigCheck): Handler<CheckConfigRequest, CheckConfigResponse> {
  return async (_request, { signal }) => ({
    configText: config.describe(),
    findings: await config.findings(signal),
  });
}
