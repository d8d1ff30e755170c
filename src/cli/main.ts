import { Command, CommanderError, InvalidArgumentError } from 'commander';

import { readOwnVersion } from '../base/own-version.ts';
import { CliError } from './cli-error.ts';
import { checkConfig } from './commands/config.ts';
import { exec } from './commands/exec.ts';
import { loadImage, pullImage, removeImages } from './commands/image.ts';
import { showLogs } from './commands/logs.ts';
import { type RunOptions, removePods, run } from './commands/run.ts';
import { showContainers, showImages, showPods, showStatus, showSteps, showVersion } from './commands/show.ts';
import { Connection } from './connection.ts';
import { terminal } from './output.ts';
import type { Session } from './session.ts';

const DEFAULT_SOCKET = 'unix:///run/berth/berth.sock';

/** Builds the command line. `finish` gets the exit code of the command that ran. */
export function buildProgram(finish: (exitCode: number) => void): Command {
  const ownVersion = readOwnVersion();
  const program = new Command('berth')
    .description('Talks to berthd, the Kubernetes container runtime on this node.')
    .option('--socket <address>', "berthd's socket", process.env['CONTAINER_RUNTIME_ENDPOINT'] || DEFAULT_SOCKET)
    .option('--json', 'print JSON, for programs', false)
    .showHelpAfterError('(berth --help shows what there is)')
    .exitOverride();

  const withSession =
    <A extends unknown[]>(action: (session: Session, ...args: A) => Promise<unknown>) =>
    async (...args: A): Promise<void> => {
      const { socket, json } = program.opts<{ socket: string; json: boolean }>();
      const connection = new Connection(/^[a-z]+:/.test(socket) ? socket : `unix://${socket}`);
      try {
        const exitCode = await action({ connection, output: terminal, json }, ...args);
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
    .command('check')
    .description('show the configuration, and what is wrong with it or with this node')
    .option('--config <file>', 'the file, if it is not /etc/berth/berth.toml')
    .action(withSession((session, options: { config?: string }) => checkConfig(session, options)));
  program.command('pods').description('pods, newest first').action(withSession(showPods));
  program
    .command('ps')
    .description('running containers, newest first')
    .option('-a, --all', 'also those that do not run', false)
    .action(withSession((session, options: { all: boolean }) => showContainers(session, options)));
  program.command('images').description('images on this node').action(withSession(showImages));
  addImageCommands(program, withSession);
  addPodCommands(program, withSession);
  return program;
}

type WithSession = <A extends unknown[]>(
  action: (session: Session, ...args: A) => Promise<unknown>,
) => (...args: A) => Promise<void>;

function addImageCommands(program: Command, withSession: WithSession): void {
  const image = program.command('image').description('images: load, pull, remove');
  image
    .command('load <file>')
    .description('take in an OCI layout (folder or tar) or a `docker save` archive')
    .action(withSession(loadImage));
  image
    .command('pull <reference>')
    .description('pull an image from its registry')
    .option('--creds <user:password>', 'for a registry that wants to know who asks')
    .action(
      withSession((session, reference: string, options: { creds?: string }) =>
        pullImage(session, reference, options.creds),
      ),
    );
  image.command('rm <reference...>').description('remove images').action(withSession(removeImages));
}

function addPodCommands(program: Command, withSession: WithSession): void {
  const collect = (value: string, all: readonly string[] = []): string[] => [...all, value];
  program
    .command('run <image> [args...]')
    .description('run a pod with one container; what follows -- is for its program')
    .option('--name <name>', 'of the pod and its container')
    .option('-p, --publish <host:container>', 'make a port of the pod one of the host', collect)
    .option('-e, --env <name=value>', 'an environment variable', collect)
    .option('-v, --volume <host:container[:ro]>', 'a folder or file of the host', collect)
    .option('--host-network', "use the host's network", false)
    .option('--wait', 'show its output until it ends, and end with its exit code', false)
    .option('--rm', 'as --wait, and remove the pod afterwards', false)
    .action(
      withSession((session, name: string, args: string[], options: RunOptions) => run(session, name, args, options)),
    );
  program
    .command('exec <container> <command...>')
    .description('run a command in a container')
    .option('--timeout <seconds>', 'kill it after that time; 0 is never', wholeSeconds, 0)
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

if (import.meta.main) {
  // `berth pods | head` closes the pipe when it has seen enough.
  process.stdout.on('error', (err: NodeJS.ErrnoException) => process.exit(err.code === 'EPIPE' ? 0 : 1));
  try {
    await buildProgram((exitCode) => {
      process.exitCode = exitCode;
    }).parseAsync();
  } catch (err) {
    if (err instanceof CommanderError) {
      process.exitCode = err.exitCode;
    } else if (err instanceof CliError) {
      terminal.err(`berth: ${err.message}\n${err.hint === undefined ? '' : `  ${err.hint}\n`}`);
      process.exitCode = 1;
    } else {
      throw err;
    }
  }
}
