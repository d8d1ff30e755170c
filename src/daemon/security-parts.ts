import { join } from 'node:path';

import type { Logger } from '../base/log.ts';
import type { Config } from '../config/load-config.ts';
import { parseUlimit } from '../config/parse-setting.ts';
import type { SecurityParts } from '../pod/pod-deps.ts';
import type { Processes } from '../proc/processes.ts';
import { AppArmor } from '../runtime/apparmor.ts';
import { readHostCapabilities } from '../runtime/capabilities.ts';
import { CdiDevices } from '../runtime/cdi/cdi-devices.ts';
import { DefaultSysctls } from '../runtime/default-sysctls.ts';
import { HookFolders } from '../runtime/hooks/hook-folders.ts';
import { SeccompProfiles } from '../runtime/seccomp.ts';
import { Selinux } from '../runtime/selinux.ts';

/** What the node's owner and its kernel say about containers. Throws `invalid` for a setting that makes no sense. */
export function openSecurityParts(
  { runtime, state }: Config,
  { processes, log }: { readonly processes: Processes; readonly log: Logger },
): SecurityParts {
  return {
    seccomp: new SeccompProfiles(runtime.seccompProfile),
    apparmor: new AppArmor({
      defaultProfile: runtime.apparmorProfile,
      noteFile: join(state, 'apparmor-profile'),
      processes,
      log,
    }),
    selinux: new Selinux({ isWanted: runtime.selinux, log }),
    cdi: new CdiDevices(runtime.cdiSpecDirs),
    hooks: new HookFolders(runtime.hooksDirs, log),
    defaultCapabilities: runtime.defaultCapabilities,
    hostCapabilities: readHostCapabilities(),
    pidsLimit: runtime.pidsLimit || undefined,
    defaultEnv: runtime.defaultEnv,
    defaultSysctls: new DefaultSysctls(runtime.defaultSysctls, log),
    ulimits: runtime.defaultUlimits.flatMap((text) => parseUlimit(text) ?? []),
  };
}
