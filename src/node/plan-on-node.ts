import { withDeadline } from '../base/deadline.ts';
import { silentLogger } from '../base/log.ts';
import { silentMeter } from '../base/meter.ts';
import type { Config } from '../config/load-config.ts';
import { AuthFile } from '../image/auth-file.ts';
import { CredentialHelpers } from '../image/credential-helpers.ts';
import { type PullPlan, planPull } from '../image/plan-pull.ts';
import { PolicyFiles } from '../image/policy-files.ts';
import { Registries, registriesPlaces } from '../image/registries.ts';
import { findPolicy } from '../image/trust.ts';
import { Processes } from '../proc/processes.ts';

const TIMEOUT_MS = 60_000;

/** How one reference would be pulled. */
export type PlannedPull = PullPlan;

/**
 * How a berthd with this configuration would pull an image, from the files on this node and without a berthd. No registry
 * is asked, but credential helpers are. Throws as planPull() does.
 */
export async function planOnNode({ image }: Config, text: string, namespace: string): Promise<readonly PlannedPull[]> {
  using signal = withDeadline('look at how an image would be pulled', TIMEOUT_MS);
  const processes = new Processes({ log: silentLogger, meter: silentMeter });
  // A wait for a process does not keep node alive.
  const keepAlive = setInterval(() => {}, TIMEOUT_MS);
  const policies = new PolicyFiles(
    {
      file: image.signaturePolicy,
      mayBeMissing: image.signaturePolicyMayBeMissing,
      namespacesDir: image.signaturePolicyDir,
    },
    silentLogger,
  );
  try {
    const parts = {
      registries: new Registries(registriesPlaces(image), silentLogger),
      credentials: [new AuthFile(image.authFile, new CredentialHelpers(processes))],
      trust: {
        policyOf: async (wanted: string) => await findPolicy(policies, wanted),
        heldBack: async (wanted: string) => await policies.heldBack(wanted),
      },
    };
    return await planPull(parts, text, namespace, signal);
  } finally {
    clearInterval(keepAlive);
    await processes.close();
  }
}
