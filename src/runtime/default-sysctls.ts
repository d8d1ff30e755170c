import { existsSync } from 'node:fs';

import { invalid } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { parseSetting, type Setting } from '../config/parse-setting.ts';
import { type NamespaceKind, sysctlKind, sysctlPath } from '../sys/namespace-request.ts';

/** Its groups must be ones of the pod's user namespace, and a range for all pods cannot know that one's. */
const GROUP_RANGE = 'net.ipv4.ping_group_range';

/** The sysctls that the node's owner wants for all pods. */
export class DefaultSysctls {
  readonly #settings: readonly (Setting & { readonly kind: NamespaceKind })[];

  /**
   * Reads `NAME=VALUE`s. Throws `invalid` for one that no pod has to itself; one that this kernel has not is left out
   * with a warning.
   */
  constructor(texts: readonly string[], log: Logger) {
    this.#settings = texts.flatMap((text) => {
      const { name, value } = parseSetting(text) ?? { name: '', value: '' };
      const kind = sysctlKind(name);
      if (!kind) throw invalid('runtime.default_sysctls', `${JSON.stringify(name)} belongs to no namespace of a pod`);
      if (existsSync(sysctlPath(name))) return [{ name: dotted(name), value, kind }];
      log.warn({ sysctl: name }, 'runtime.default_sysctls: this kernel has no such sysctl');
      return [];
    });
  }

  /** Those of the defaults that belong to one of the pod's own namespaces, and over them the pod's own. */
  with(
    own: Readonly<Record<string, string>>,
    pod: { readonly kinds: readonly NamespaceKind[]; readonly hasUserNamespace: boolean },
  ): Record<string, string> {
    const named = new Set(Object.keys(own).map(dotted));
    const defaults = this.#settings.filter(
      ({ name, kind }) =>
        pod.kinds.includes(kind) && !named.has(name) && !(pod.hasUserNamespace && name === GROUP_RANGE),
    );
    return { ...Object.fromEntries(defaults.map(({ name, value }) => [name, value])), ...own };
  }
}

function dotted(name: string): string {
  return name.replaceAll('/', '.');
}
