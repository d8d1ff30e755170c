import { Command, InvalidArgumentError } from 'commander';

import { readOwnVersion } from '../base/own-version.ts';
import { checkConfig } from './commands/config.ts';
import { type DoctorOptions, examine } from './commands/doctor.ts';
import { exec } from './commands/exec.ts';
import {
  inspectImage,
  type LoadOptions,
  loadImage,
  type PruneOptions,
  pruneImages,
  pullImage,
  removeImages,
  showPulls,
} from './commands/image.ts';
import {
  checkImages,
  mountImage,
  type SaveOptions,
  saveImages,
  showHistory,
  unmountImage,
} from './commands/image-content.ts';
import { showLogs } from './commands/logs.ts';
import { checkImage } from './commands/plan.ts';
import { removePods } from './commands/rm.ts';
import { run } from './commands/run.ts';
import type { RunOptions } from './commands/run-request.ts';
import { showContainers, showImages, showPods, showStatus, showSteps, showVersion } from './commands/show.ts';
import type { ByteOutput } from './output.ts';
import type { Caller, Session } from './session.ts';
import { socketAddress } from './socket-address.ts';

const DEFAULT_SOCKET = 'unix:///run/berth/berth.sock';

/** Connects to the socket at an address; nothing is sent before the first call. */
export type Connect = (address: string) => Caller & { close(): void };

/** What the commands are built from. */
export interface ProgramParts {
  readonly output: ByteOutput;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly connect: Connect;
  readonly watchInterrupts: Session['watchInterrupts'];
  readonly checkNode: Session['checkNode'];
  readonly planOnNode: Session['planOnNode'];
  readonly examineNode: Session['examineNode'];
  /** False: mistakes in the arguments are only thrown, not told. */
  readonly saysErrors: boolean;
  /** Gets the exit code of the command that ran. */
  readonly finish: (exitCode: number) => void;
}

type WithSession = <A extends unknown[]>(
  action: (session: Session, ...args: A) => Promise<unknown>,
) => (...args: A) => Promise<void>;

/** Builds the command line. */
export function buildProgram(parts: ProgramParts): Command {
  const { output, env, connect, watchInterrupts, checkNode, planOnNode, examineNode, saysErrors, finish } = parts;
  const ownVersion = readOwnVersion();
  const program = new Command('berth')
    .description('Talks to berthd, the Kubernetes container runtime on this node.')
    .version(`berth ${ownVersion}`, '-V, --version', 'print the version of this program')
    .option('--socket <address>', "berthd's socket", env['CONTAINER_RUNTIME_ENDPOINT'] || DEFAULT_SOCKET)
    .option('--json', 'print JSON, for programs; errors too', false)
    .configureOutput({
      writeOut: (text) => output.out(text),
      writeErr: (text) => (saysErrors ? output.err(text) : undefined),
    })
    .exitOverride();

  const withSession: WithSession =
    (action) =>
    async (...args) => {
      const { socket, json } = program.opts<{ socket: string; json: boolean }>();
      const connection = connect(socketAddress(socket));
      try {
        const session = { connection, output, json, watchInterrupts, checkNode, planOnNode, examineNode };
        const exitCode = await action(session, ...args);
        finish(typeof exitCode === 'number' ? exitCode : 0);
      } finally {
        connection.close();
      }
    };

  program
    .command('version')
    .description('versions of this program and of berthd')
    .action(withSession((session) => showVersion(session, ownVersion)));
  program.command('status').description('can pods run here, and if not, why').action(withSession(showStatus));
  program
    .command('config')
    .description('the configuration')
    .command('check [image]')
    .description('show the configuration, and what is wrong with it or with this node; or how an image would be pulled')
    .option('--config <file>', 'the file, if it is not /etc/berth/berth.toml')
    .option('--namespace <namespace>', 'with an image: whose policy counts', '')
    .action(
      withSession((session, image: string | undefined, options: { config?: string; namespace: string }) =>
        image === undefined ? checkConfig(session, options) : checkImage(session, image, options),
      ),
    );
  program
    .command('doctor')
    .description(
      'look over this node and what berthd keeps on it; exit code 0: nothing is wrong, 1: errors, 2: only warnings',
    )
    .option('--fix', 'mend what is safe', false)
    .option('--config <file>', 'where no berthd runs: the file, if it is not /etc/berth/berth.toml')
    .action(withSession((session, options: DoctorOptions) => examine(session, options)));
  program
    .command('pods')
    .description('pods, newest first')
    .option(
      '--check',
      'ask the network plugins whether the pods still have what they were given; exit code 1 if not',
      false,
    )
    .action(withSession((session, options: { check: boolean }) => showPods(session, options)));
  program
    .command('ps')
    .description('running containers, newest first')
    .option('-a, --all', 'also those that do not run', false)
    .action(withSession((session, options: { all: boolean }) => showContainers(session, options)));
  program.command('images').description('images on this node').action(withSession(showImages));
  program
    .command('pulls')
    .description('pulls that run, layer by layer, also those of the kubelet')
    .action(withSession(showPulls));
  addImageCommands(program, withSession);
  addPodCommands(program, withSession);
  addHelp(program);
  return program;
}

/** `berth help COMMAND`, of any depth, and mistakes that lead to the help of the command that was meant. */
function addHelp(program: Command): void {
  program
    .helpCommand(false)
    .command('help [command...]')
    .description('display help for command')
    .action((names: string[]) => {
      let found = program;
      for (const name of names) {
        const inner = found.commands.find((command) => command.name() === name);
        if (!inner) program.error(`error: unknown command '${names.join(' ')}'`);
        found = inner;
      }
      found.outputHelp();
    });
  const point = (command: Command, path: string): void => {
    command.showHelpAfterError(`(${path} --help shows what there is)`);
    for (const inner of command.commands) point(inner, `${path} ${inner.name()}`);
  };
  point(program, 'berth');
}

function addImageCommands(program: Command, withSession: WithSession): void {
  const image = program.command('image').description('images: list, pull, load, save, look into, check, remove');
  image
    .command('load <file>')
    .description(
      'take in the images of an OCI layout (folder or tar) or of a `docker save` archive; - is standard input',
    )
    .option('--name <name>', 'call the image so, in place of what the file says; without a tag it keeps its own')
    .addHelpText('after', LOAD_HELP)
    .action(withSession((session, file: string, options: LoadOptions) => loadImage(session, file, options)));
  image
    .command('pull <reference>')
    .description('pull an image from its registry')
    .option('--creds <user:password>', 'for a registry that wants to know who asks')
    .action(
      withSession((session, reference: string, options: { creds?: string }) =>
        pullImage(session, reference, options.creds),
      ),
    );
  image.command('ls').description('images on this node, as `berth images` shows them').action(withSession(showImages));
  image
    .command('save <reference...>')
    .description('write images to an archive: an OCI layout and a `docker save` archive in one')
    .option('-o, --output <file>', 'where to, if not to standard output; it appears when it is whole')
    .addHelpText('after', SAVE_HELP)
    .action(
      withSession((session, references: string[], options: SaveOptions) => saveImages(session, references, options)),
    );
  image
    .command('inspect <reference>')
    .description('all that is known of an image, as JSON')
    .action(withSession(inspectImage));
  image
    .command('history <reference>')
    .description('how an image was built, newest step first')
    .action(withSession(showHistory));
  image
    .command('mount [reference] [folder]')
    .description(
      'mount an image read-only, at an empty folder or at one that is made; without an image, show the mounts',
    )
    .addHelpText('after', MOUNT_HELP)
    .action(
      withSession((session, reference: string | undefined, folder: string | undefined) =>
        mountImage(session, reference, folder),
      ),
    );
  image
    .command('unmount <reference-or-folder>')
    .description('take away the mount at a folder, or all those of an image')
    .action(withSession(unmountImage));
  image
    .command('check [reference...]')
    .description('read images on disk, and compare them with what was pulled; exit code 1 when one is damaged')
    .action(withSession(checkImages));
  image
    .command('prune')
    .description('remove what takes space and belongs to nothing: layers, unfinished folders, blobs of failed pulls')
    .option('--dry-run', 'only show what that is, and why', false)
    .option('--all', 'also images that no container uses, unless they are pinned', false)
    .action(withSession((session, options: PruneOptions) => pruneImages(session, options)));
  image
    .command('rm <reference...>')
    .description('remove images; by whichever name or id, an image goes with all of its names')
    .action(withSession(removeImages));
}

const SAVE_HELP = `
Images keep their ids: configurations and layers are byte by byte what was pulled. Layers are not compressed, so that
manifests, and with them the digests in name@sha256:..., are new ones. An image that is named by a tag has only that one
in the archive, one that is named by its id has all of its tags.`;

const MOUNT_HELP = `
The image cannot be removed while it is mounted. The mount stays when berthd is started again, and ends with
berth image unmount or the next boot. Set-user-id bits and devices have no effect in it.`;

const LOAD_HELP = `
Names: a docker save archive brings whole names. In an OCI layout the annotation io.containerd.image.name is one, and
org.opencontainers.image.ref.name may be one (example.com/web:v1, web:v1) or a tag (v1). A tag alone is no name: the
image is then called localhost/FILE:TAG, after the folder or the file without its .tar. What has no name at all can be
used by its id, or be given one with --name.`;

function addPodCommands(program: Command, withSession: WithSession): void {
  const collect = (value: string, all: readonly string[] = []): string[] => [...all, value];
  program
    .command('run <image> [args...]')
    .description('run a pod with one container; what follows -- is for its program')
    .option('--name <name>', 'of the pod and its container')
    .option('-p, --publish <host:container>', 'make a port of the pod one of the host', collect)
    .option('-e, --env <name=value>', 'an environment variable', collect)
    .option('-v, --volume <host:container[:ro]>', 'a folder or file of the host', collect)
    .option('--runtime <handler>', 'a runtime handler other than the default, such as crun')
    .option('--host-network', "use the host's network", false)
    .option('--wait', 'show its output until it ends, and end with its exit code', false)
    .option('--rm', 'as --wait, and remove the pod afterwards', false)
    .action(
      withSession((session, name: string, args: string[], options: RunOptions) => run(session, name, args, options)),
    );
  program
    .command('exec <container> <command...>')
    .description('run a command in a container; exit code 127 when there is no such command, 126 when it cannot run')
    .addHelpText(
      'after',
      '\nThe command has no input and no terminal; for these there is crictl exec -it CONTAINER COMMAND.',
    )
    .option('--timeout <seconds>', 'kill it after that time, with exit code 124; 0 is never', wholeSeconds, 0)
    .action(
      withSession((session, container: string, command: string[], options: { timeout: number }) =>
        exec(session, container, command, options.timeout),
      ),
    );
  program
    .command('logs <container>')
    .description('what a container has written')
    .option('-f, --follow', 'go on until it ends', false)
    .option('-t, --timestamps', 'with the time of each line', false)
    .action(
      withSession((session, container: string, options: { follow: boolean; timestamps: boolean }) =>
        showLogs(session, container, options),
      ),
    );
  program.command('rm <pod...>').description('stop and remove pods').action(withSession(removePods));
  program
    .command('steps <pod-or-container>')
    .description('where its time went, step by step')
    .action(withSession(showSteps));
}

function wholeSeconds(text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw new InvalidArgumentError('it is not a number of seconds');
  return Number(text);
}
