/**
 * Real images for tests: an OCI layout made from Debian's dynamic busybox and its libraries, a real docker-registry on
 * a free loopback port, and skopeo to push the one into the other. Needs the Debian packages busybox, docker-registry
 * and skopeo (see `missingTools`).
 */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { gzipSync, zstdCompressSync } from 'node:zlib';

const run = promisify(execFile);

/** What is in an image's config, in the spelling of the OCI image spec. */
export interface FixtureConfig {
  readonly User?: string;
  readonly Env?: readonly string[];
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly WorkingDir?: string;
  readonly StopSignal?: string;
  readonly Labels?: Readonly<Record<string, string>>;
  readonly Volumes?: Readonly<Record<string, Record<string, never>>>;
  readonly ExposedPorts?: Readonly<Record<string, Record<string, never>>>;
}

type Compression = 'none' | 'gzip' | 'zstd';

/** How the layer below all others shall be made. */
interface BaseOptions {
  /** True to begin with nothing instead of with busybox. */
  readonly empty?: boolean;
  /** More files for the first layer: path without a leading slash, content. */
  readonly files?: Readonly<Record<string, string>>;
  /** Adds to the root filesystem of the first layer what is more than a few texts. */
  populate?(rootfs: string): Promise<void>;
  readonly compression?: Compression | undefined;
}

/** How a layout shall be made; everything but the tag has a default. */
export interface LayoutOptions extends BaseOptions {
  /** Name of the image inside the layout (`org.opencontainers.image.ref.name`). */
  readonly tag: string;
  /** Laid over the default config (PATH, `sh`). */
  readonly config?: FixtureConfig;
  /** More layers on top: each is a set of files. A name such as `etc/.wh.gone` is a whiteout. */
  readonly layers?: readonly Readonly<Record<string, string>>[];
}

/** Digests of what `buildBusyboxLayout` made. */
export interface BuiltLayout {
  readonly dir: string;
  readonly tag: string;
  readonly manifestDigest: string;
  readonly configDigest: string;
  readonly diffIds: readonly string[];
  readonly layerDigests: readonly string[];
}

/** The Debian programs that these fixtures need and that are not installed. Empty: all there. */
export function missingTools(): string[] {
  return ['/usr/bin/busybox', '/usr/bin/docker-registry', '/usr/bin/skopeo', '/usr/bin/tar'].filter(
    (path) => !existsSync(path),
  );
}

/** The architecture of this machine in the words of an image index. */
export const hostArchitecture: string = process.arch === 'x64' ? 'amd64' : process.arch;

/**
 * Makes an OCI layout in `dir` (created if missing; a second tag may be added to an existing layout) with one image:
 * busybox with all its applets in /bin, its libraries, /etc/passwd and group (root, nobody, `user` = 1000 in group
 * `extra` = 2000), /tmp, /www/index.html. Ownership is root's, times are fixed, so the same input gives the same
 * digests.
 */
export async function buildBusyboxLayout(dir: string, options: LayoutOptions): Promise<BuiltLayout> {
  const layers = [await makeBaseLayer(options)];
  for (const files of options.layers ?? []) layers.push(await makeFileLayer(files, options.compression));
  return await writeLayout(dir, options, layers);
}

/** A layer as an image has it. */
export interface FixtureLayer {
  readonly diffId: string;
  readonly mediaType: string;
  readonly blob: Buffer;
}

/** The layer below all others: busybox, or nothing, and what the options add. It may serve several images. */
export async function makeBaseLayer({ empty, files, populate, compression }: BaseOptions): Promise<FixtureLayer> {
  return await makeLayer(compression, async (folder) => {
    if (!empty) await makeBusyboxRootfs(folder);
    await writeFiles(folder, files ?? {});
    await populate?.(folder);
  });
}

/** A layer of some texts. */
export async function makeFileLayer(
  files: Readonly<Record<string, string>>,
  compression?: Compression,
): Promise<FixtureLayer> {
  return await makeLayer(compression, (folder) => writeFiles(folder, files));
}

async function makeLayer(
  compression: Compression = 'gzip',
  fill: (folder: string) => Promise<void>,
): Promise<FixtureLayer> {
  const folder = await mkdtemp(join(tmpdir(), 'berth-fixture-'));
  try {
    await chmod(folder, 0o755);
    await fill(folder);
    const tar = await tarFolder(folder);
    const suffix = { none: '', gzip: '+gzip', zstd: '+zstd' }[compression];
    const mediaType = `application/vnd.oci.image.layer.v1.tar${suffix}`;
    return { diffId: digestOf(tar), mediaType, blob: compressed(tar, compression) };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Writes an image of these layers into an OCI layout; the same input gives the same digests. */
export async function writeLayout(
  dir: string,
  options: Pick<LayoutOptions, 'tag' | 'config'>,
  layers: readonly FixtureLayer[],
): Promise<BuiltLayout> {
  await mkdir(join(dir, 'blobs/sha256'), { recursive: true });
  const diffIds = layers.map(({ diffId }) => diffId);
  const config = Buffer.from(
    JSON.stringify({
      architecture: hostArchitecture,
      os: 'linux',
      created: '2024-01-01T00:00:00Z',
      config: {
        Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],
        Cmd: ['sh'],
        ...options.config,
      },
      rootfs: { type: 'layers', diff_ids: diffIds },
      history: layers.map(() => ({ created: '2024-01-01T00:00:00Z', created_by: 'berth test fixture' })),
    }),
  );
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: descriptor('application/vnd.oci.image.config.v1+json', config),
      layers: layers.map(({ mediaType, blob }) => descriptor(mediaType, blob)),
    }),
  );
  for (const blob of [...layers.map(({ blob }) => blob), config, manifest]) {
    await writeFile(join(dir, 'blobs/sha256', digestOf(blob).slice('sha256:'.length)), blob);
  }
  await addToIndex(dir, options.tag, manifest);
  await writeFile(join(dir, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
  return {
    dir,
    tag: options.tag,
    manifestDigest: digestOf(manifest),
    configDigest: digestOf(config),
    diffIds,
    layerDigests: layers.map(({ blob }) => digestOf(blob)),
  };
}

async function addToIndex(dir: string, tag: string, manifest: Buffer): Promise<void> {
  const file = join(dir, 'index.json');
  const before = existsSync(file) ? await readFile(file, 'utf8') : '{"manifests":[]}';
  const { manifests } = JSON.parse(before) as { manifests: { annotations?: Record<string, string> }[] };
  const others = manifests.filter((entry) => entry.annotations?.['org.opencontainers.image.ref.name'] !== tag);
  const entry = {
    ...descriptor('application/vnd.oci.image.manifest.v1+json', manifest),
    annotations: { 'org.opencontainers.image.ref.name': tag },
  };
  await writeFile(file, JSON.stringify({ schemaVersion: 2, manifests: [...others, entry] }));
}

function descriptor(mediaType: string, blob: Buffer): { mediaType: string; digest: string; size: number } {
  return { mediaType, digest: digestOf(blob), size: blob.length };
}

/** The sha256 digest of some bytes, as `sha256:<hex>`. */
export function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

function compressed(tar: Buffer, compression: Compression): Buffer {
  if (compression === 'gzip') return gzipSync(tar, { level: 1 });
  return compression === 'zstd' ? zstdCompressSync(tar) : tar;
}

/** Fills `root` with busybox, its libraries and the few files that a container expects. */
export async function makeBusyboxRootfs(root: string): Promise<void> {
  const folders = [
    'bin',
    'dev',
    'etc',
    'home/user',
    'proc',
    'root',
    'run',
    'sys',
    'tmp',
    'usr/bin',
    'usr/sbin',
    'sbin',
  ];
  for (const folder of [...folders, 'var/log', 'www']) await mkdir(join(root, folder), { recursive: true });
  await chmod(join(root, 'tmp'), 0o1777);
  await chmod(join(root, 'root'), 0o700);
  await copyFile('/usr/bin/busybox', join(root, 'bin/busybox'));
  await chmod(join(root, 'bin/busybox'), 0o755);
  await copyLibraries(root, '/usr/bin/busybox');
  const { stdout } = await run('/usr/bin/busybox', ['--list']);
  for (const applet of stdout.split('\n').filter((name) => name !== '' && name !== 'busybox')) {
    await symlink('busybox', join(root, 'bin', applet));
  }
  await symlink('/bin/busybox', join(root, 'usr/bin/env'));
  await writeFiles(root, {
    'etc/passwd':
      'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n',
    'etc/group': 'root:x:0:\nuser:x:1000:\nextra:x:2000:user\nnogroup:x:65534:\n',
    'www/index.html': 'hello from berth\n',
  });
}

/** Puts a program of this machine into a root filesystem's /bin, with all libraries that it is linked with. */
export async function addProgram(root: string, program: string): Promise<void> {
  await copyFile(program, join(root, 'bin', basename(program)));
  await chmod(join(root, 'bin', basename(program)), 0o755);
  await copyLibraries(root, program);
}

async function copyLibraries(root: string, program: string): Promise<void> {
  for (const library of await librariesOf(program)) {
    await mkdir(join(root, dirname(library)), { recursive: true });
    await copyFile(library, join(root, library));
    await chmod(join(root, library), 0o755);
  }
}

async function librariesOf(program: string): Promise<string[]> {
  const { stdout } = await run('ldd', [program]);
  return [...stdout.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map((match) => match[1] ?? '').filter((path) => path !== '');
}

async function writeFiles(root: string, files: Readonly<Record<string, string>>): Promise<void> {
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), content, { mode: 0o644 });
  }
}

async function tarFolder(folder: string): Promise<Buffer> {
  const args = ['--sort=name', '--mtime=@1700000000', '--owner=0', '--group=0', '--numeric-owner', '--format=pax'];
  const pax = '--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime';
  const { stdout } = await run('tar', [...args, pax, '-C', folder, '-cf', '-', '.'], {
    encoding: 'buffer',
    maxBuffer: 512 * 1024 * 1024,
  });
  return stdout;
}

/** A running docker-registry. */
export interface TestRegistry extends AsyncDisposable {
  /** `127.0.0.1:<port>`. */
  readonly host: string;
  readonly url: string;
  /** Set when the registry was started with `auth`. */
  readonly username: string;
  readonly password: string;
  /** Stops it and deletes what it stored. */
  close(): Promise<void>;
}

// The bcrypt hash of "berth-test", so that no htpasswd program is needed.
const HTPASSWD = 'berth:$2b$05$AtibumEgk3GdJSrU44NuQO7d7zM4073Fo.5X7E4nsDKTXGvexb3hi\n';

/**
 * Starts Debian's docker-registry over plain HTTP, on a free loopback port if `listen` does not name another; with
 * `auth` it wants a password.
 */
export async function startRegistry(options: { auth?: boolean; listen?: string } = {}): Promise<TestRegistry> {
  const dir = await mkdtemp(join(tmpdir(), 'berth-registry-'));
  const lines = [
    'version: 0.1',
    'log: {level: info}',
    `storage: {filesystem: {rootdirectory: ${dir}/data}, delete: {enabled: true}}`,
    `http: {addr: "${options.listen ?? '127.0.0.1:0'}"}`,
  ];
  if (options.auth) {
    await writeFile(join(dir, 'htpasswd'), HTPASSWD);
    lines.push(`auth: {htpasswd: {realm: berth, path: ${dir}/htpasswd}}`);
  }
  await writeFile(join(dir, 'config.yml'), `${lines.join('\n')}\n`);
  const child = spawn('/usr/bin/docker-registry', ['serve', join(dir, 'config.yml')], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const close = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exited;
    await rm(dir, { recursive: true, force: true });
  };
  try {
    const host = await listeningAddress(child);
    const [username, password] = options.auth ? ['berth', 'berth-test'] : ['', ''];
    return { host, url: `http://${host}`, username, password, close, [Symbol.asyncDispose]: close };
  } catch (err) {
    await close();
    throw err;
  }
}

/** Reads the registry's log until it says where it listens; goes on draining the pipe afterwards. */
function listeningAddress(child: ChildProcess): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  if (!child.stderr) throw new Error('the registry has no stderr');
  const seen: string[] = [];
  createInterface({ input: child.stderr }).on('line', (line) => {
    if (seen.length < 20) seen.push(line);
    const match = /listening on ([\d.]+:\d+)/.exec(line);
    if (match?.[1]) resolve(match[1]);
  });
  child.once('error', reject);
  child.once('exit', (code) => reject(new Error(`docker-registry ended with ${code}: ${seen.join('\n')}`)));
  return promise;
}

/** Pushes `tag` of an OCI layout as `repository:tag` with skopeo. Returns the reference to pull it by. */
export async function pushLayout(
  layout: Pick<BuiltLayout, 'dir' | 'tag'>,
  registry: Pick<TestRegistry, 'host' | 'username' | 'password'>,
  target: string,
  options: { format?: 'oci' | 'v2s2' } = {},
): Promise<string> {
  const reference = `${registry.host}/${target}`;
  const credentials = registry.username === '' ? [] : ['--dest-creds', `${registry.username}:${registry.password}`];
  const format = options.format ? ['--format', options.format] : [];
  const args = ['--insecure-policy', 'copy', '--dest-tls-verify=false', ...credentials, ...format];
  await run('/usr/bin/skopeo', [...args, `oci:${layout.dir}:${layout.tag}`, `docker://${reference}`]);
  return reference;
}
