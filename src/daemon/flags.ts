import { Command, CommanderError } from 'commander';

/** What berthd was started with. */
export interface Flags {
  readonly config?: string;
  readonly root?: string;
  readonly state?: string;
  readonly listen?: string;
  readonly logLevel?: string;
}

/** berthd's command line. */
export function flagsCommand(version: string): Command {
  return new Command('berthd')
    .description('Kubernetes container runtime: serves the CRI on a unix socket.')
    .version(version)
    .option('--config <file>', 'configuration (default: /etc/berth/berth.toml, if it is there)')
    .option('--root <folder>', 'what outlives a reboot (default: /var/lib/berth)')
    .option('--state <folder>', 'what must not outlive a reboot (default: /run/berth)')
    .option('--listen <address>', 'where clients connect (default: unix:///run/berth/berth.sock)')
    .option('--log-level <level>', 'debug, info, warn or error (default: info)')
    .allowExcessArguments(false)
    .exitOverride();
}

/** Parses berthd's command line; an exit code where that was all there was to do (--help, --version, a bad flag). */
export function parseFlags(argv: readonly string[], version: string): Flags | number {
  const program = flagsCommand(version);
  try {
    program.parse([...argv], { from: 'user' });
    return program.opts<Flags>();
  } catch (err) {
    if (err instanceof CommanderError) return err.exitCode;
    throw err;
  }
}
