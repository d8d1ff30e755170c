import {
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  type Stats,
  statSync,
  unlinkSync,
} from 'node:fs';
import { dirname, isAbsolute, join, normalize } from 'node:path';

import { invalid, wrap } from '../base/errors.ts';
import { makeFolders } from '../base/make-folders.ts';

/** Log collectors run in root's group, and read. */
export const LOG_FILE_MODE = 0o640;

/** What a client has named when a log cannot be made there, by errno. */
const PROBLEMS: ReadonlyMap<unknown, string> = new Map([
  ['EISDIR', 'is a folder'],
  ['ENOTDIR', 'leads through what is not a folder'],
  ['EEXIST', 'leads through what is not a folder'],
  ['ENOENT', 'is where nothing can be made'],
  ['ENXIO', 'is a pipe or socket'],
  ['ENAMETOOLONG', 'is too long'],
  ['ELOOP', 'has too many symbolic links in it'],
]);

/**
 * The absolute path of a container's log: the CRI's log_path below the sandbox's log_directory, `<id>.log` when the
 * client named none (as CRI-O does, so that its logs can be read at all), '' when the sandbox has no log directory.
 * Throws `invalid` for a relative directory, and for a path that is absolute or leads out of it.
 */
export function containerLogPath(logDirectory: string, logPath: string, containerId: string): string {
  if (logDirectory === '') {
    if (logPath !== '') throw invalid('config.log_path', 'needs a log_directory in the sandbox');
    return '';
  }
  if (!isAbsolute(logDirectory)) throw invalid('sandbox_config.log_directory', `${logDirectory} is not absolute`);
  checkCharacters('sandbox_config.log_directory', logDirectory);
  const relative = logPath === '' ? `${containerId}.log` : logPath;
  checkCharacters('config.log_path', relative);
  if (isAbsolute(relative))
    throw invalid('config.log_path', `${relative} is not relative to the sandbox's log directory`);
  const normal = normalize(relative);
  if (normal === '..' || normal.startsWith('../')) {
    throw invalid('config.log_path', `${relative} leads out of the sandbox's log directory`);
  }
  if (normal === '.' || normal.endsWith('/')) throw invalid('config.log_path', `${relative} names no file`);
  return join(logDirectory, normal);
}

/**
 * Makes the log's folders and an empty file, or keeps the file that is there: a restarted container goes on in it. A
 * symbolic link that leads nowhere is removed first; the monitor would otherwise create a file wherever it points
 * (kubernetes#44043). Throws `invalid` when the path is, or leads through, something that no log can be in.
 */
export function prepareLogFile(path: string): void {
  let isPipe = false;
  try {
    makeFolders(dirname(path), 0o700);
    removeDanglingLink(path);
    // Without waiting: a pipe that nobody reads would hold up the whole daemon here, and the monitor later.
    const flags = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NONBLOCK;
    const fd = openSync(path, flags, LOG_FILE_MODE);
    isPipe = fstatSync(fd).isFIFO();
    closeSync(fd);
    // Whatever umask the daemon has.
    if (!isPipe) chmodSync(path, LOG_FILE_MODE);
  } catch (err) {
    const problem = PROBLEMS.get(codeOf(err));
    if (problem !== undefined) throw invalid('config.log_path', `${path} ${problem}`);
    throw wrap(`prepare log file ${path}`, err);
  }
  if (isPipe) throw invalid('config.log_path', `${path} is a pipe`);
}

/**
 * Removes the log of a container whose creation failed: an empty file, as prepareLogFile() makes it. What has content
 * was there before, and no file of that kind is fine, and so is '' for no log.
 */
export function removeLogFile(path: string): void {
  const file = path === '' ? undefined : findFile(path);
  if (file?.isFile() && file.size === 0) unlinkSync(path);
}

function findFile(path: string): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch (err) {
    // Where no log could be made, none was.
    if (PROBLEMS.has(codeOf(err))) return undefined;
    throw err;
  }
}

// conmon cuts the path at a colon (its --log-path is DRIVER:PATH), and would log to a file of another name.
function checkCharacters(field: string, path: string): void {
  if (/[\0\n:]/.test(path))
    throw invalid(field, `${JSON.stringify(path)} has a colon, a line break or a NUL byte in it`);
}

function removeDanglingLink(path: string): void {
  const link = lstatSync(path, { throwIfNoEntry: false });
  if (link?.isSymbolicLink() && !statSync(path, { throwIfNoEntry: false })) unlinkSync(path);
}

function codeOf(err: unknown): unknown {
  return err instanceof Error && 'code' in err ? err.code : undefined;
}
