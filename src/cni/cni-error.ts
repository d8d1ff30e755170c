import { BerthError, type ErrorKind } from '../base/errors.ts';
import type { CniVerb } from './cni-version.ts';

/** Reserved error codes of the CNI specification, section 5, that Berth acts on. */
export const cniCodes = Object.freeze({ containerUnknown: 3, tryAgainLater: 11, notAvailable: 50, limited: 51 });

/** What is known of a plugin's failure. */
export interface CniFailure {
  readonly verb: CniVerb;
  readonly network: string;
  readonly plugin: string;
  /** The problem in words. */
  readonly problem: string;
  /** The plugin's own code; 0 when it gave none. */
  readonly code?: number;
  readonly details?: string;
  /** The program is not there, so that nothing was done. */
  readonly isProgramMissing?: boolean;
  /** Overrides what follows from the code. */
  readonly kind?: ErrorKind;
  readonly cause?: unknown;
}

/** A CNI plugin did not do what it was asked for. Names the plugin, the verb and the network. */
export class CniError extends BerthError {
  override readonly name = 'CniError';
  readonly verb: CniVerb;
  readonly network: string;
  readonly plugin: string;
  /** The plugin's own code (CNI specification, section 5); 0 when it gave none. */
  readonly code: number;
  readonly details: string;
  /** The program is not there, so that nothing was done. */
  readonly isProgramMissing: boolean;

  constructor(failure: CniFailure) {
    const { verb, network, plugin, problem, code = 0, details = '', cause } = failure;
    const kind = failure.kind ?? kindOfCode(code);
    const text = details === '' || problem.includes(details) ? problem : `${problem} (${details})`;
    super(kind, `CNI plugin "${plugin}" failed ${verb} on network "${network}": ${text}`, { cause });
    this.verb = verb;
    this.network = network;
    this.plugin = plugin;
    this.code = code;
    this.details = details;
    this.isProgramMissing = failure.isProgramMissing ?? false;
  }
}

function kindOfCode(code: number): ErrorKind {
  const passing: readonly number[] = [cniCodes.tryAgainLater, cniCodes.notAvailable, cniCodes.limited];
  return passing.includes(code) ? 'unavailable' : 'precondition';
}
