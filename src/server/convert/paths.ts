import { invalid } from '../../base/errors.ts';

/** path_resolution(7), limits.h: PATH_MAX without the NUL at the end, and NAME_MAX. */
const MAX_PATH_BYTES = 4095;
const MAX_NAME_BYTES = 255;

/** Takes an absolute path that a kernel can take. Throws `invalid` for any other text. */
export function requirePath(path: string, field: string): void {
  requireLength(path, field);
  if (!path.startsWith('/') || path.includes('\0'))
    throw invalid(field, `${JSON.stringify(path)} is not an absolute path`);
}

/** Throws `invalid` for a path, absolute or not, that is longer than any file's. */
export function requireLength(path: string, field: string): void {
  const bytes = Buffer.byteLength(path);
  if (bytes > MAX_PATH_BYTES) throw invalid(field, `has ${bytes} bytes; paths end at ${MAX_PATH_BYTES}`);
  const name = path.split('/').find((part) => Buffer.byteLength(part) > MAX_NAME_BYTES);
  if (name !== undefined)
    throw invalid(field, `has a name of ${Buffer.byteLength(name)} bytes in it; names end at ${MAX_NAME_BYTES}`);
}
