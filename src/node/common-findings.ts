import { existsSync } from 'node:fs';

import { describe } from '../base/errors.ts';
import { silentLogger } from '../base/log.ts';
import type { NetworkStatus } from '../cni/cni.ts';
import { Networks } from '../cni/networks.ts';
import { PluginBinaries } from '../cni/plugin-binaries.ts';
import { parseAddress } from '../config/check-value.ts';
import type { Config } from '../config/load-config.ts';
import { describeIgnored } from '../image/ignored-keys.ts';
import { PolicyFiles } from '../image/policy-files.ts';
import { Registries, registriesPlaces } from '../image/registries.ts';
import type { Processes } from '../proc/processes.ts';
import type { CdiDevices } from '../runtime/cdi/cdi-devices.ts';
import type { Cgroups } from '../runtime/cgroups/cgroups.ts';
import { readHierarchies } from '../runtime/cgroups/hierarchies.ts';
import type { HookFolders } from '../runtime/hooks/hook-folders.ts';
import type { HostFacts } from '../runtime/host-facts.ts';
import { containerFindings } from './container-findings.ts';
import type { Finding } from './finding.ts';
import { folderFindings } from './folder-findings.ts';
import { kernelFindings, readKernelFacts } from './kernel-findings.ts';
import { iptablesFindings } from './network-findings.ts';
import { monitorFindings } from './program-findings.ts';
import { sysctlFindings } from './sysctl-findings.ts';

/** What is looked at beside the configuration. */
export interface CommonParts {
  readonly processes: Pick<Processes, 'run'>;
  readonly cgroups: Pick<Cgroups, 'mode' | 'driver'>;
  readonly host: HostFacts;
  readonly cdi: CdiDevices;
  readonly hooks: HookFolders;
}

/** What is found on a node alike, whether a berthd runs on it or not. */
export async function commonFindings(config: Config, parts: CommonParts, signal: AbortSignal): Promise<Finding[]> {
  return [
    ...kernelFindings(readKernelFacts(readHierarchies())),
    ...sysctlFindings(),
    ...hostFindings(parts),
    ...(await monitorFindings(config.runtime.monitorPath, parts.processes, signal)),
    ...iptablesFindings((await readPodNetwork(config)).plugins),
    ...folderFindings(config),
    ...containerFindings(config),
    ...(await registryFindings(config)),
    ...(await policyFindings(config)),
    ...authFindings(config),
    ...streamFindings(config),
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

async function registryFindings({ image }: Config): Promise<Finding[]> {
  const registries = new Registries(registriesPlaces(image), silentLogger);
  const remedy = 'mend that line: man 5 containers-registries.conf; it is read again by itself';
  try {
    await registries.loadRules();
  } catch (err) {
    const subject = `image.registries_conf ${image.registriesConf}`;
    return [{ severity: 'error', subject, message: `no image can be pulled: ${describe(err)}`, remedy }];
  }
  const { problems, ignored } = await registries.checkHosts();
  return [
    ...problems.map(
      ({ file, problem }): Finding => ({
        severity: 'error',
        subject: file,
        message: `no image of that registry can be pulled: ${problem}`,
        remedy: 'mend that line; it is read again by itself',
      }),
    ),
    ...[...registries.rules.ignored, ...ignored].map(
      (key): Finding => ({
        severity: 'warning',
        subject: key.file,
        message: describeIgnored(key),
        remedy: 'docs/images.md tells which keys are followed; nothing is wrong when another tool needs this one',
      }),
    ),
  ];
}

async function policyFindings({ image }: Config): Promise<Finding[]> {
  const { signaturePolicy: file, signaturePolicyMayBeMissing: mayBeMissing, signaturePolicyDir: namespacesDir } = image;
  const problems = await new PolicyFiles({ file, mayBeMissing, namespacesDir }, silentLogger).check();
  return problems.map((found) => ({
    severity: 'error',
    subject: found.file,
    message: `no image is trusted: ${found.problem}`,
    remedy: 'man 5 containers-policy.json; it is read again by itself',
  }));
}

function authFindings({ image }: Config): Finding[] {
  if (image.authFile === '' || existsSync(image.authFile)) return [];
  return [
    {
      severity: 'warning',
      subject: `image.auth_file ${image.authFile}`,
      message: 'is not there: private images need the credentials of the kubelet',
      remedy: `skopeo login --authfile ${image.authFile} REGISTRY writes it`,
    },
  ];
}

// The kubelet, which passes streams on, is on this node, so that others have no need to connect.
function streamFindings({ stream }: Config): Finding[] {
  const host = parseAddress(stream.listen)?.host ?? '';
  if (stream.tlsCert !== '' || host === 'localhost' || host === '::1' || host.startsWith('127.')) return [];
  return [
    {
      severity: 'warning',
      subject: `stream.listen ${stream.listen}`,
      message: 'what people type into containers and read there goes over the network in the clear',
      remedy: 'listen on 127.0.0.1, or set stream.tls_cert and stream.tls_key',
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
