import { invalid } from '../base/errors.ts';
import type { LinuxResources } from './container-spec.ts';
import type { HostFacts } from './host-facts.ts';

/**
 * Throws `invalid` for limits that this host cannot have: files of cgroup v2 where there is none, and huge pages of a
 * size that the kernel does not know. A size that it knows and cannot limit is none of these: the kubelet names all that
 * the machine has. `field` is the message's path.
 */
export function checkLimits(
  { hugepageLimits, unified }: LinuxResources,
  host: Pick<HostFacts, 'cgroupVersion' | 'kernelHugepageSizes'>,
  field: string,
): void {
  if (Object.keys(unified).length > 0 && host.cgroupVersion !== 2)
    throw invalid(`${field}.unified`, 'needs a host with cgroup v2');
  for (const [index, { pageSize, limitBytes }] of hugepageLimits.entries()) {
    // None of what is not there is what everybody has.
    if (limitBytes === 0 || host.kernelHugepageSizes.includes(pageSize)) continue;
    const known = host.kernelHugepageSizes.join(', ') || 'none';
    const problem = `${pageSize} is not a size of huge pages that this kernel has (${known})`;
    throw invalid(`${field}.hugepage_limits[${index}].page_size`, problem);
  }
}
