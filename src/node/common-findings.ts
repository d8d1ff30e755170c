import { existsSync, readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';

import { describe } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import { documentPath } from '../base/own-files.ts';
import type { NetworkStatus } from '../cni/cni.ts';
import { Networks } from '../cni/networks.ts';
import { PluginBinaries } from '../cni/plugin-binaries.ts';
import { parseAddress } from '../config/check-value.ts';
import type { Config } from '../config/load-config.ts';
import { AuthFile } from '../image/auth-file.ts';
import { describeIgnored } from '../image/ignored-keys.ts';
import { PolicyFiles } from '../image/policy-files.ts';
import { Registries, registriesPlaces } from '../image/registries.ts';
import type { Processes } from '../proc/processes.ts';
import type { CdiDevices } from '../runtime/cdi/cdi-devices.ts';
import type { Cgroups } from '../runtime/cgroups/cgroups.ts';
import { readHierarchies } from '../runtime/cgroups/hierarchies.ts';
import { SYSTEM_BUS } from '../runtime/cgroups/systemd-manager.ts';
import type { HookFolders } from '../runtime/hooks/hook-folders.ts';
import type { HostFacts } from '../runtime/host-facts.ts';
import { configFile, containerFindings } from './container-findings.ts';
import { exposureFindings } from './exposure-findings.ts';
import type { Finding } from './finding.ts';
import { folderFindings } from './folder-findings.ts';
import { kernelFindings, readKernelFacts } from './kernel-findings.ts';
import { iptablesFindings, templateFindings } from './network-findings.ts';
import { monitorFindings } from './program-findings.ts';
import { sysctlFindings } from './sysctl-findings.ts';

/** What is looked at beside the configuration. */
export interface CommonParts {
  readonly processes: Pick<Processes, 'run'>;
  readonly cgroups: Pick<Cgroups, 'mode' | 'driver'>;
  readonly host: HostFacts;
  readonly cdi: CdiDevices;
  readonly hooks: HookFolders;
  /** True for a berthd that goes by what registries.conf said before. */
  readonly holdsOlderRegistries?: boolean;
  /** Of such a berthd, the policies and files of hosts in whose place holds what they said before. */
  readonly olderFiles?: ReadonlySet<string>;
}

type OlderFiles = CommonParts['olderFiles'];

const UNTIL_THEN = 'what it said before holds, until berthd is started again; then';

/** What is found on a node alike, whether a berthd runs on it or not. */
export async function commonFindings(config: Config, parts: CommonParts, signal: AbortSignal): Promise<Finding[]> {
  return [
    ...kernelFindings(readKernelFacts(readHierarchies())),
    ...sysctlFindings(),
    ...hostFindings(parts),
    ...busFindings(parts.cgroups.driver),
    ...(await monitorFindings(config.runtime.monitorPath, parts.processes, signal)),
    ...iptablesFindings((await readPodNetwork(config)).plugins),
    ...(await templateFindings(config.cni.confTemplate)),
    ...folderFindings(config),
    ...containerFindings(config),
    ...(await registryFindings(config, parts.holdsOlderRegistries === true, parts.olderFiles)),
    ...(await policyFindings(config, parts.olderFiles)),
    ...(await authFindings(config)),
    ...exposureFindings(config),
    ...addressFindings(config),
    ...pauseFindings(config),
    ...(await leftOutFindings(parts)),
  ];
}

/** The network for pods as the files have it, without asking its plugins. */
export async function readPodNetwork({
  cni,
}: Config): Promise<{ readonly status: NetworkStatus; readonly plugins: readonly string[] }> {
  const networks = new Networks({
    confDir: cni.confDir,
    defaultNetwork: cni.defaultNetwork || undefined,
    binaries: new PluginBinaries(cni.binDirs),
    log: silentLogger,
    settleMs: 0,
  });
  try {
    await networks.start();
    const network = networks.find();
    return {
      status: { ready: network !== undefined, reason: '', message: networks.problem || networks.skipped },
      plugins: network?.plugins.map(({ type }) => type) ?? [],
    };
  } finally {
    await networks.close();
  }
}

function hostFindings({ host, cgroups }: CommonParts): Finding[] {
  const found: Finding[] = [
    { severity: 'info', subject: 'cgroups', message: `${cgroups.mode}, made by ${cgroups.driver}`, remedy: '' },
  ];
  if (host.oomScoreAdjFloor > -1000)
    found.push({
      severity: 'warning',
      subject: 'CAP_SYS_RESOURCE',
      message: `root lacks it: containers get no oom_score_adj below ${host.oomScoreAdjFloor}`,
      remedy: 'run berthd with it, unless this is a test machine',
    });
  return found;
}

/** The system bus is where systemd is asked for cgroups, by berthd and by crun. `socket` is another place of it. */
export function busFindings(driver: Cgroups['driver'], socket = SYSTEM_BUS): Finding[] {
  if (driver !== 'systemd' || existsSync(socket)) return [];
  return [
    {
      severity: 'error',
      subject: 'D-Bus',
      message: `${socket} is not there: systemd cannot be asked for cgroups, and no pod can be made`,
      remedy: 'apt-get install dbus; systemctl start dbus.socket',
    },
  ];
}

/** How bad it is that a file cannot be used, which depends on whether what it said before goes on to hold. */
function unlessOlder(older: OlderFiles, file: string, message: string): Pick<Finding, 'severity' | 'message'> {
  if (older?.has(file)) return { severity: 'warning', message: `${UNTIL_THEN} ${message}` };
  return { severity: 'error', message };
}

async function registryFindings({ image }: Config, holdsOlder: boolean, older: OlderFiles): Promise<Finding[]> {
  const registries = new Registries(registriesPlaces(image), silentLogger);
  const remedy = 'mend that line: man 5 containers-registries.conf; it is read again by itself';
  try {
    await registries.loadRules();
  } catch (err) {
    const subject = `image.registries_conf ${image.registriesConf}`;
    const problem = describe(err);
    if (holdsOlder) {
      return [{ severity: 'warning', subject, message: `${UNTIL_THEN} no image can be pulled: ${problem}`, remedy }];
    }
    return [{ severity: 'error', subject, message: `no image can be pulled: ${problem}`, remedy }];
  }
  const { problems, ignored } = await registries.checkHosts();
  return [
    ...problems.map(
      ({ file, problem }): Finding => ({
        ...unlessOlder(older, file, `no image of that registry can be pulled: ${problem}`),
        subject: file,
        remedy: 'mend that line; it is read again by itself',
      }),
    ),
    ...[...registries.rules.ignored, ...ignored].map(
      (key): Finding => ({
        severity: 'warning',
        subject: key.file,
        message: describeIgnored(key),
        remedy: `${documentPath('images.md')} tells which keys are followed; nothing is wrong when another tool needs this one`,
      }),
    ),
  ];
}

async function policyFindings({ image }: Config, older: OlderFiles): Promise<Finding[]> {
  const { signaturePolicy: file, signaturePolicyMayBeMissing: mayBeMissing, signaturePolicyDir: namespacesDir } = image;
  const { problems, missingKeys } = await new PolicyFiles({ file, mayBeMissing, namespacesDir }, silentLogger).check();
  const nameOf = (path: string): string => (path === file ? `image.signature_policy ${path}` : path);
  return [
    ...problems.map(
      (found): Finding => ({
        ...unlessOlder(older, found.file, `no image is trusted: ${found.problem}`),
        subject: nameOf(found.file),
        remedy: 'man 5 containers-policy.json; it is read again by itself',
      }),
    ),
    ...missingKeys.map(
      ({ file: path, key }): Finding => ({
        severity: 'error',
        subject: nameOf(path),
        message: `the key ${key} cannot be read: images that must be signed with it cannot be pulled or used`,
        remedy: `put the public key there; it is read each time`,
      }),
    ),
  ];
}

async function authFindings({ image }: Config): Promise<Finding[]> {
  const { authFile } = image;
  if (authFile === '') return [];
  const subject = `image.auth_file ${authFile}`;
  if (!existsSync(authFile)) {
    const message = 'is not there: private images need the credentials of the kubelet';
    return [
      { severity: 'warning', subject, message, remedy: `skopeo login --authfile ${authFile} REGISTRY writes it` },
    ];
  }
  try {
    await new AuthFile(authFile).check();
    return [];
  } catch (err) {
    const message = `no image can be pulled unless the kubelet brings credentials: ${describe(err)}`;
    const remedy = `man 5 containers-auth.json; skopeo login --authfile ${authFile} REGISTRY writes it; it is read at each pull`;
    return [{ severity: 'error', subject, message, remedy }];
  }
}

/** Addresses that berthd is to listen on, and this host does not have. Names and ports only a try could tell of. */
function addressFindings({ metrics, stream, sources }: Config): Finding[] {
  const own = new Set(
    Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address.toLowerCase())),
  );
  return [
    ['metrics.listen', metrics.listen],
    ['stream.listen', stream.listen],
  ].flatMap(([key = '', value = '']): Finding[] => {
    const host = parseAddress(value)?.host.toLowerCase() ?? '';
    const isAny = host === '0.0.0.0' || host === '::' || (isIP(host) === 4 && host.startsWith('127.'));
    if (isIP(host) === 0 || isAny || own.has(host) || bindsElsewhere(isIP(host))) return [];
    return [
      {
        severity: 'error',
        subject: `${key} ${value}`,
        message: `no interface of this host has the address ${host}: berthd cannot start`,
        remedy: `ip -br address shows those that there are; correct it in ${configFile(sources)}`,
      },
    ];
  });
}

/** The kernel can be told to let programs listen on addresses that are still to come (ip-sysctl of its documentation). */
function bindsElsewhere(family: number): boolean {
  try {
    return readFileSync(`/proc/sys/net/ipv${family}/ip_nonlocal_bind`, 'utf8').trim() === '1';
  } catch {
    return false;
  }
}

function pauseFindings({ image, sources }: Config): Finding[] {
  if (image.pauseImage === '') return [];
  return [
    {
      severity: 'warning',
      subject: `image.pause_image ${image.pauseImage}`,
      message: 'has no effect: the program that holds the namespaces of pods is built in, and needs no image',
      remedy: `take it out of ${configFile(sources)}; an image that must stay on the node belongs into image.pinned_images`,
    },
  ];
}

async function leftOutFindings({ cdi, hooks }: CommonParts): Promise<Finding[]> {
  const problems = [...(await cdi.problems()), ...(await hooks.problems())];
  return problems.map(({ path, problem }) => ({
    severity: 'warning',
    subject: path,
    message: problem,
    remedy: 'it is left out until it is mended or removed',
  }));
}
