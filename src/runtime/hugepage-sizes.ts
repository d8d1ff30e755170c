import { readdirSync } from 'node:fs';

const HUGEPAGES = '/sys/kernel/mm/hugepages';

/** The sizes of huge pages that this kernel has, as the cgroup files spell them (mm/hugetlb_cgroup.c): `2MB`. */
export function readHugepageSizes(): string[] {
  let names: string[];
  try {
    names = readdirSync(HUGEPAGES);
  } catch {
    return [];
  }
  return names.flatMap((name) => {
    const kib = Number(/^hugepages-(\d+)kB$/.exec(name)?.[1] ?? 0);
    if (kib === 0) return [];
    if (kib >= 1024 * 1024) return `${kib / 1024 / 1024}GB`;
    return kib >= 1024 ? `${kib / 1024}MB` : `${kib}KB`;
  });
}
