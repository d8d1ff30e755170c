import { BerthError, describe, findCause, kindOf } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { formatEndpoint } from './endpoints.ts';
import type { Access } from './registry-client.ts';
import { RegistryError } from './registry-error.ts';

/** The places that one pull may be served from, the one that answered last first. */
export class PullSource {
  readonly #accesses: Access[];
  readonly #log: Logger;

  constructor(accesses: readonly Access[], log: Logger) {
    this.#accesses = [...accesses];
    this.#log = log;
  }

  /** Where the last answer came from, or the first will be asked for. */
  get servedBy(): string {
    const [first] = this.#accesses;
    return first ? formatEndpoint(first.endpoint) : '';
  }

  /** The registry itself, whatever mirrors it has. */
  get registry(): string {
    return (this.#accesses.find(({ endpoint }) => !endpoint.mirror) ?? this.#accesses[0])?.endpoint.host ?? '';
  }

  /**
   * What the first place that can do it returns; places that the configuration does not allow it are not asked. Throws the failure of the registry itself (the last place in the
   * configured order), with those of the mirrors in its message.
   */
  async first<T>(
    signal: AbortSignal,
    step: (access: Access) => Promise<T>,
    ability: 'resolves' | 'pulls' = 'pulls',
  ): Promise<T> {
    const failures: { access: Access; err: unknown }[] = [];
    const able = this.#accesses.filter(({ endpoint }) => endpoint.special?.[ability] ?? true);
    if (able.length === 0) throw new BerthError('precondition', `hosts.toml names no host that ${ability}`);
    for (const access of able) {
      try {
        const result = await step(access);
        this.#prefer(access);
        return result;
      } catch (err) {
        signal.throwIfAborted();
        if (!mayBeElsewhere(err)) throw err;
        failures.push({ access, err });
        const more = failures.length < able.length;
        if (more) {
          const endpoint = formatEndpoint(access.endpoint);
          this.#log.warn({ err: describe(err), endpoint }, 'mirror failed, asking the next');
        }
      }
    }
    const own = failures.find(({ access }) => !access.endpoint.mirror) ?? failures.at(-1);
    const others = failures.filter((entry) => entry !== own).map(({ err }) => messageOf(err));
    if (others.length === 0) throw own?.err;
    throw new BerthError(kindOf(own?.err), `mirrors failed too (${others.join('; ')})`, { cause: own?.err });
  }

  #prefer(access: Access): void {
    this.#accesses.sort((one, other) => Number(other === access) - Number(one === access));
  }
}

/** False for what another registry cannot mend, such as a full disk. */
function mayBeElsewhere(err: unknown): boolean {
  if (findCause(err, RegistryError)) return true;
  return err instanceof BerthError && ['unavailable', 'notFound', 'permission', 'precondition'].includes(err.kind);
}

function messageOf(err: unknown): string {
  return err instanceof Error ? err.message : String(err);
}
