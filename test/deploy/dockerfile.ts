/** An instruction of a Dockerfile: its name, and all that follows. */
export type Instruction = readonly [name: string, rest: string];

/** The instructions of a Dockerfile, with continued lines joined. Throws for a line that is none. */
export function instructionsOf(dockerfile: string): Instruction[] {
  const joined = dockerfile
    .split('\n')
    .filter((line) => !/^\s*(#|$)/.test(line))
    .join('\n')
    .replaceAll('\\\n', ' ');
  return joined.split('\n').map((line) => {
    const [, name, rest] = /^([A-Z]+)\s+(.*)$/.exec(line) ?? [];
    if (name === undefined || rest === undefined) throw new Error(`no instruction: ${line}`);
    return [name, rest];
  });
}
