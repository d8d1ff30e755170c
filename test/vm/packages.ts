/** The packages that are installed in the machine. */

/** Paths on the disk with the checkout, and the files that shall be there. */
export async function findPackages(_work: string): Promise<ReadonlyMap<string, string>> {
  return new Map();
}
