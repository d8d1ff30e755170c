import type { Command } from 'commander';

import { describeCli, visibleOptions } from './man-pages.ts';

/** What may follow one command. */
interface Words {
  /** The commands before it, such as `image pull`; empty for berth itself. */
  readonly path: string;
  readonly words: readonly string[];
}

function collect(command: Command, path: string): Words[] {
  const names = command.commands.map((inner) => inner.name());
  const options = visibleOptions(command).flatMap(({ short, long }) =>
    [short, long].filter((flag) => flag !== undefined),
  );
  const inner = command.commands.flatMap((one) => collect(one, `${path} ${one.name()}`.trim()));
  return [{ path, words: [...names, ...options, '--help'] }, ...inner];
}

/** Completion of berth's commands and options for bash. */
export function renderBashCompletion(): string {
  const all = collect(describeCli().program, '');
  const cases = all.map(({ path, words }) => `    '${path}') words='${words.join(' ')}' ;;`);
  return `# Completion of berth(1) for bash.
_berth() {
  local path='' word words=''
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in -*) ;; *) case " ${pathsOf(all)} " in *" \${path:+$path,}$word "*) path="\${path:+$path,}$word" ;; esac ;; esac
  done
  case "\${path//,/ }" in
${cases.join('\n')}
  esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}")
}
complete -o default -F _berth berth
`;
}

/** The same for zsh. */
export function renderZshCompletion(): string {
  const all = collect(describeCli().program, '');
  const cases = all.map(({ path, words }) => `    '${path}') all=(${words.join(' ')}) ;;`);
  return `#compdef berth
# Completion of berth(1) for zsh.
_berth() {
  local reached='' word
  local -a all
  for word in "\${(@)words[2,CURRENT-1]}"; do
    [[ $word = -* ]] && continue
    [[ " ${pathsOf(all)} " = *" \${reached:+$reached,}$word "* ]] && reached="\${reached:+$reached,}$word"
  done
  case "\${reached//,/ }" in
${cases.join('\n')}
  esac
  compadd -a all || _files
}
_berth "$@"
`;
}

/** All commands, each with those before it, parted by commas. */
function pathsOf(all: readonly Words[]): string {
  return all
    .filter(({ path }) => path !== '')
    .map(({ path }) => path.replaceAll(' ', ','))
    .join(' ');
}
