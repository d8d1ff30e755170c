/**
 * npm run package: makes berth_VERSION_ARCH.deb and berth-VERSION-linux-ARCH.tar.gz in dist/packages, which bring all
 * that Debian 12 and 13 lack. The checkout must be built. What is made depends on the checkout alone: a second run makes
 * the same bytes. --output FOLDER: another place; --version VERSION: another one than that of package.json, in Debian's
 * form.
 */

import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';

import { readPackage } from './bundle.ts';
import { renderBashCompletion, renderZshCompletion } from './completions.ts';
import { debianArchitecture, packDebian, renderControl } from './debian-package.ts';
import { placeDocument } from './documents.ts';
import { renderCopyright } from './licences.ts';
import { renderBerthdPage, renderBerthPage, renderConfigPage } from './man-pages.ts';
import { addProgram, NODE_MOUNT } from './program.ts';
import { Tree } from './tree.ts';

const TOP = fileURLToPath(new URL('..', import.meta.url));
const GIT_TIMEOUT_MS = 10_000;
const TAR_TIMEOUT_MS = 300_000;
const PROGRAM = 'usr/lib/berth';
const DOCUMENTS = 'usr/share/doc/berth';
/** Of the archive, where docs/install.md says to have it. */
const ARCHIVE_DOCUMENTS = '/opt/berth/share/doc/berth';
/** Pages and their pictures. */
const PAGE = /^[^/]+\.(?:md|svg)$/;
/** The modification time of all files, where neither SOURCE_DATE_EPOCH nor git tells one: 2026-01-01. */
const FALLBACK_EPOCH_SECONDS = 1_767_225_600;

/** What all that is made has in common. */
interface Making {
  readonly version: string;
  /** The time of every file, in seconds since 1970. */
  readonly epochSeconds: number;
}

/** Dates of files: what SOURCE_DATE_EPOCH says, else the time of the last commit. */
function readEpoch(): number {
  const given = process.env['SOURCE_DATE_EPOCH'];
  if (given !== undefined && /^\d+$/.test(given)) return Number(given);
  try {
    const args = ['-C', TOP, 'log', '-1', '--format=%ct'];
    return Number(execFileSync('git', args, { encoding: 'utf8', timeout: GIT_TIMEOUT_MS, stdio: 'pipe' }));
  } catch {
    return FALLBACK_EPOCH_SECONDS;
  }
}

function renderChangelog(version: string, epochSeconds: number): string {
  const date = new Date(epochSeconds * 1000).toUTCString().replace('GMT', '+0000');
  return `berth (${version}) unstable; urgency=medium\n\n  * Berth ${version}.\n\n -- The Berth authors <berth@localhost>  ${date}\n`;
}

/** What tells of Berth, below a folder of documents and one of manual pages. `folder` is the first on the node. */
function addDocuments(
  tree: Tree,
  { documents, manual, folder }: { readonly documents: string; readonly manual: string; readonly folder: string },
  { version, epochSeconds }: Making,
): void {
  tree.copyFolder(join(TOP, 'deploy'), `${documents}/examples`);
  tree.copyFolder(join(TOP, 'docs'), documents, PAGE);
  const pages = new Set(readdirSync(join(TOP, 'docs')).filter((name) => PAGE.test(name)));
  for (const path of ['README.md', 'deploy/README.md', ...[...pages].map((page) => `docs/${page}`)]) {
    if (!path.endsWith('.md')) continue;
    const place = path.replace(/^docs\//, '').replace(/^deploy\//, 'examples/');
    tree.file(`${documents}/${place}`, placeDocument(readFileSync(join(TOP, path), 'utf8'), path, { folder, pages }));
  }
  tree.file(`${documents}/changelog.gz`, gzip(renderChangelog(version, epochSeconds)));
  tree.file(`${manual}/man8/berthd.8.gz`, gzip(renderBerthdPage(version, epochSeconds)));
  tree.file(`${manual}/man1/berth.1.gz`, gzip(renderBerthPage(version, epochSeconds)));
  tree.file(`${manual}/man5/berth.toml.5.gz`, gzip(renderConfigPage(version, epochSeconds)));
}

/** Everything of the .deb but its control files. */
async function addSystemFiles(tree: Tree, making: Making): Promise<void> {
  const { packages } = await addProgram(tree, PROGRAM, { top: TOP, ...making });
  tree.link('usr/bin/berthd', '../lib/berth/bin/berthd');
  tree.link('usr/bin/berth', '../lib/berth/bin/berth');
  const deploy = join(TOP, 'deploy');
  tree.copy(join(deploy, 'berth.toml'), 'etc/berth/berth.toml');
  tree.folder('etc/berth/berth.toml.d');
  tree.folder('var/cache/berth');
  const mount = `/${PROGRAM}/${making.version}/${NODE_MOUNT}`;
  const unit = readFileSync(join(deploy, 'berthd.service'), 'utf8');
  tree.file('usr/lib/systemd/system/berthd.service', renderUnit(unit, mount));
  tree.file('usr/share/bash-completion/completions/berth', renderBashCompletion());
  tree.file('usr/share/zsh/vendor-completions/_berth', renderZshCompletion());
  tree.copy(join(TOP, 'packaging/debian/lintian-overrides'), 'usr/share/lintian/overrides/berth');
  tree.file(`${DOCUMENTS}/copyright`, renderCopyright(TOP, packages));
  addDocuments(tree, { documents: DOCUMENTS, manual: 'usr/share/man', folder: `/${DOCUMENTS}` }, making);
}

/**
 * The archive for other systems: one folder that runs wherever it is, with the same program in it as the .deb. Returns
 * its path.
 */
function packArchive(tree: Tree, packed: Tree, making: Making, output: string): string {
  const name = `berth-${making.version}-linux-${process.arch}`;
  tree.copyFolder(join(packed.top, PROGRAM), name);
  const mount = `${name}/${making.version}/${NODE_MOUNT}`;
  tree.folder(mount);
  const documents = `${name}/share/doc/berth`;
  tree.copy(join(packed.top, DOCUMENTS, 'copyright'), `${documents}/copyright`);
  addDocuments(tree, { documents, manual: `${name}/share/man`, folder: ARCHIVE_DOCUMENTS }, making);
  const unit = readFileSync(join(TOP, 'deploy/berthd.service'), 'utf8');
  const placed = unit.replaceAll('/opt/berth/docs/', `${ARCHIVE_DOCUMENTS}/`);
  tree.file(`${documents}/examples/berthd.service`, mountedUnit(placed, `/opt/${mount}`));
  tree.settle(making.epochSeconds);
  const tar = join(tree.top, 'archive.tar');
  const same = ['--sort=name', '--format=gnu', '--owner=0', '--group=0', '--numeric-owner'];
  execFileSync('tar', [...same, '-C', tree.top, '-cf', tar, name], { timeout: TAR_TIMEOUT_MS });
  execFileSync('gzip', ['-6n', tar], { timeout: TAR_TIMEOUT_MS });
  const archive = join(output, `${name}.tar.gz`);
  copyFileSync(`${tar}.gz`, archive);
  return archive;
}

/** The unit for a program whose Node is mounted there. */
function mountedUnit(unit: string, mount: string): string {
  return unit.replace(/^(RequiresMountsFor=).*$/m, `$1${mount}`);
}

/** The unit for the places of the package; deploy/berthd.service is for a checkout. Its first lines tell of that. */
function renderUnit(unit: string, mount: string): string {
  const placed = mountedUnit(unit, mount)
    .replaceAll('/opt/berth/bin/', '/usr/bin/')
    .replaceAll('/opt/berth/docs/', `/${DOCUMENTS}/`);
  const lines = placed.split('\n');
  return lines.slice(lines.indexOf('[Unit]')).join('\n');
}

/** Without a name or time in it, as gzip -9n. */
function gzip(text: string): Buffer {
  return gzipSync(text, { level: 9 });
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { version: { type: 'string' }, output: { type: 'string' } } });
  const version = values.version ?? readPackage(TOP).version;
  if (!/^\d[A-Za-z0-9.+~]*$/.test(version)) throw new Error(`not a version that Debian knows: ${version}`);
  const making = { version, epochSeconds: readEpoch() };
  const output = resolve(values.output ?? join(TOP, 'dist/packages'));
  mkdirSync(output, { recursive: true });
  const folder = mkdtempSync(join(tmpdir(), 'berth-package-'));
  try {
    const tree = new Tree(join(folder, 'deb'));
    await addSystemFiles(tree, making);
    const archive = packArchive(new Tree(join(folder, 'archive')), tree, making, output);
    const kib = tree.sizeKib();
    const deb = join(output, `berth_${version}_${debianArchitecture()}.deb`);
    packDebian(tree, renderControl(version, kib), join(TOP, 'packaging/debian'), making.epochSeconds, deb);
    console.log(`${deb}: ${megabytes(statSync(deb).size)} MB, ${megabytes(kib * 1024)} MB installed`);
    console.log(`${archive}: ${megabytes(statSync(archive).size)} MB`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

await main();
