import type { Command, Option } from 'commander';

import { buildProgram } from '../src/cli/program.ts';
import { toToml } from '../src/config/check-value.ts';
import { HANDLER_KEYS, type KeySpec, TABLES, TOP_KEYS } from '../src/config/schema.ts';
import { flagsCommand } from '../src/daemon/flags.ts';
import { ManPage } from './roff.ts';

const FILES: readonly (readonly [path: string, meaning: string])[] = [
  ['/etc/berth/berth.toml, /etc/berth/berth.toml.d/*.toml', 'the configuration: berth.toml(5)'],
  ['/var/lib/berth', 'what outlives a reboot: images, writable layers of containers, the database'],
  ['/run/berth', 'what does not: bundles, namespaces, exit codes, and the socket, berth.sock'],
  ['/var/cache/berth', 'compiled code; it may be removed at any time'],
];

/** The command line of berth with nothing behind it, and what it prints. */
export function describeCli(): { readonly program: Command; readonly printed: () => string } {
  let text = '';
  const nothing = (): never => {
    throw new Error('only to be described');
  };
  const program = buildProgram({
    output: {
      out: (more: string) => {
        text += more;
      },
      err: nothing,
      outBytes: nothing,
      columns: 100,
    },
    env: {},
    connect: nothing,
    watchInterrupts: nothing,
    checkNode: nothing,
    planOnNode: nothing,
    examineNode: nothing,
    saysErrors: false,
    finish: nothing,
  });
  const printed = (): string => {
    const all = text;
    text = '';
    return all;
  };
  return { program, printed };
}

/** berthd(8), from its flags. */
export function renderBerthdPage(version: string, epochSeconds: number): string {
  const command = flagsCommand(version);
  const page = new ManPage('berthd', 8, `berth ${version}`, epochSeconds);
  page.section('NAME').text('berthd - Kubernetes container runtime');
  page.section('SYNOPSIS').text(`berthd ${command.usage()}`);
  page.section('DESCRIPTION').text(command.description());
  page.text(
    'Pods go on when it is stopped, killed or upgraded; the next berthd takes them over. Run by systemd, it tells when ' +
      'it is ready (sd_notify(3)).',
  );
  page.section('OPTIONS');
  addOptions(page, command);
  page.section('SIGNALS');
  page.term('SIGHUP', 'reads the configuration again; a broken one changes nothing, and the log says why');
  page.term('SIGTERM, SIGINT', 'stops berthd; pods go on');
  page.section('FILES');
  for (const [path, meaning] of FILES) page.term(path, meaning);
  page.section('SEE ALSO').text('berth(1), berth.toml(5), crictl(1), conmon(8), runc(8), crun(1)');
  return page.toString();
}

/** berth(1), from its commands. */
export function renderBerthPage(version: string, epochSeconds: number): string {
  const { program, printed } = describeCli();
  const page = new ManPage('berth', 1, `berth ${version}`, epochSeconds);
  page.section('NAME').text('berth - looks at the pods and images of a node, and mends what is wrong');
  page.section('SYNOPSIS').text(`berth ${program.usage()}`);
  page.section('DESCRIPTION').text(program.description());
  page.section('OPTIONS');
  addOptions(page, program);
  page.section('COMMANDS');
  for (const command of program.commands) addCommand(page, command, 'berth', printed);
  page.section('ENVIRONMENT').term('CONTAINER_RUNTIME_ENDPOINT', 'the socket, where --socket does not name one');
  page.section('FILES');
  for (const [path, meaning] of FILES) page.term(path, meaning);
  page.section('SEE ALSO').text('berthd(8), berth.toml(5), crictl(1)');
  return page.toString();
}

/** berth.toml(5), from the schema of the configuration. */
export function renderConfigPage(version: string, epochSeconds: number): string {
  const page = new ManPage('berth.toml', 5, `berth ${version}`, epochSeconds);
  page.section('NAME').text('berth.toml - configuration of berthd');
  page.section('DESCRIPTION');
  page.text(
    'TOML. Files in berth.toml.d beside it, *.toml, are read after it in lexical order, and count more. A key that is ' +
      'not known is an error that names the nearest one that is. berth config check shows what is in force, and what ' +
      'is wrong. Each key is shown with its default.',
  );
  page.section('KEYS');
  addKeys(page, TOP_KEYS);
  for (const [table, keys] of Object.entries(TABLES)) addKeys(page.heading(`[${table}]`), keys);
  addKeys(page.heading('[runtime.handlers.NAME]'), HANDLER_KEYS);
  page.section('FILES');
  for (const [path, meaning] of FILES) page.term(path, meaning);
  page.section('SEE ALSO').text('berthd(8), berth(1)');
  return page.toString();
}

function addKeys(page: ManPage, keys: Readonly<Record<string, KeySpec>>): void {
  for (const [key, { help, defaultValue }] of Object.entries(keys)) page.term(`${key} = ${toToml(defaultValue)}`, help);
}

function addCommand(page: ManPage, command: Command, path: string, printed: () => string): void {
  const own = `${path} ${command.name()}`;
  if (command.commands.length === 0) {
    page.heading(`${own} ${command.usage()}`).text(command.description());
    addOptions(page, command);
    // What is told after the options is known only to whoever prints it.
    printed();
    command.outputHelp();
    const more = printed().slice(command.helpInformation().length).trim();
    if (more !== '') page.text(more);
  }
  for (const inner of command.commands) addCommand(page, inner, own, printed);
}

function addOptions(page: ManPage, command: Command): void {
  for (const option of visibleOptions(command)) {
    const { flags, description, defaultValue }: Pick<Option, 'flags' | 'description'> & { defaultValue?: unknown } =
      option;
    const hasDefault = typeof defaultValue === 'number' || (typeof defaultValue === 'string' && defaultValue !== '');
    page.term(flags, hasDefault ? `${description} (default: ${defaultValue})` : description);
  }
}

/** The options of a command that its help shows. */
export function visibleOptions(command: Command): readonly Option[] {
  return command.options.filter(({ hidden }) => !hidden);
}
