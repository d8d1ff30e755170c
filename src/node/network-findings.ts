import { describe } from '../base/errors.ts';
import { samplePath } from '../base/own-files.ts';
import type { NetworkStatus } from '../cni/cni.ts';
import { checkTemplate } from '../cni/pod-ranges.ts';
import { findProgram } from '../runtime/handlers.ts';
import type { Finding } from './finding.ts';

/** What keeps pods from getting a network. */
export function networkFindings(confDir: string, { ready, message }: NetworkStatus): Finding[] {
  const subject = `cni.conf_dir ${confDir}`;
  if (!ready) {
    const consequence = `${message}; until then only pods on the host's network run`;
    return [{ severity: 'error', subject, message: consequence, remedy: networkRemedy(confDir, message) }];
  }
  if (message === '') return [];
  return [{ severity: 'warning', subject, message, remedy: `mend these files, or take them out of ${confDir}` }];
}

function networkRemedy(confDir: string, message: string): string {
  if (/needs the plugin/.test(message)) {
    return 'apt-get install containernetworking-plugins, and have its folder in cni.bin_dirs';
  }
  if (/cni\.default_network/.test(message)) {
    return `name a network of ${confDir} in cni.default_network, or leave it empty for the first one`;
  }
  return `mkdir -p ${confDir} && cp ${samplePath('cni/10-berth.conflist')} ${confDir}/`;
}

/** Plugins that call iptables, and its absence. `types` are those of the network for pods. */
export function iptablesFindings(types: readonly string[]): Finding[] {
  const callers = types.filter((type) => ['bridge', 'ptp', 'portmap', 'firewall'].includes(type));
  if (callers.length === 0) return [];
  try {
    findProgram('iptables');
    return [];
  } catch (err) {
    return [
      {
        severity: 'warning',
        subject: 'iptables',
        message: `${describe(err)}: the CNI plugins ${callers.join(', ')} need it for masquerading and host ports`,
        remedy: 'apt-get install iptables',
      },
    ];
  }
}

/** A template from which no network for pods can be made; '' is none. */
export async function templateFindings(template: string): Promise<Finding[]> {
  if (template === '') return [];
  try {
    await checkTemplate(template);
    return [];
  } catch (err) {
    const [subject = '', ...rest] = describe(err).split(': ');
    return [
      {
        severity: 'error',
        subject,
        message: `no network is made of the ranges for pods: ${rest.join(': ')}`,
        remedy: `${samplePath('cni/pods.conflist.template')} is one that works; it is read again with the next ranges`,
      },
    ];
  }
}
