import { readFileSync } from 'node:fs';

/** Names that are remembered; a machine has fewer devices. */
const MAX_NAMES = 1024;

/** The names of block devices, as /dev has them. */
export class BlockDevices {
  readonly #names = new Map<string, string>();

  /** `/dev/sda` for 8:0; the numbers for a device that has no name. */
  nameOf(major: number, minor: number): string {
    const numbers = `${major}:${minor}`;
    const known = this.#names.get(numbers);
    if (known !== undefined) return known;
    const name = readName(numbers) ?? numbers;
    if (this.#names.size >= MAX_NAMES) this.#names.clear();
    this.#names.set(numbers, name);
    return name;
  }
}

/** From the device's uevent file (Documentation/ABI/testing/sysfs-uevent). */
function readName(numbers: string): string | undefined {
  try {
    const name = /^DEVNAME=(.+)$/m.exec(readFileSync(`/sys/dev/block/${numbers}/uevent`, 'utf8'))?.[1];
    return name === undefined ? undefined : `/dev/${name}`;
  } catch {
    return undefined;
  }
}
