/** Output for a person: a line per step, with a mark and its time. */

const isTerminal = process.stdout.isTTY === true && !process.env['NO_COLOR'];

function paint(code: number, text: string): string {
  return isTerminal ? `\u001b[${code}m${text}\u001b[0m` : text;
}

/** Does one step and says how it went. `detail` may add a word about the result. */
export async function step<T>(
  what: string,
  work: () => Promise<T> | T,
  detail: (result: T) => string = () => '',
): Promise<T> {
  const startedMs = performance.now();
  try {
    const result = await work();
    const ms = `${(performance.now() - startedMs).toFixed(0)} ms`.padStart(8);
    const more = detail(result);
    console.log(`${paint(32, '✓')} ${paint(2, ms)}  ${what}${more === '' ? '' : paint(2, `: ${more}`)}`);
    return result;
  } catch (err) {
    console.log(`${paint(31, '✗')}           ${what}`);
    throw err;
  }
}

/** As `step`, but a failure is only told, for what can be done in another way too. False when it failed. */
export async function attempt(what: string, work: () => Promise<string>): Promise<boolean> {
  try {
    await step(what, work, (text) => text);
    return true;
  } catch (err) {
    console.log(`            ${message(err).replaceAll('\n', '\n            ')}`);
    return false;
  }
}

/** A heading with an empty line above. */
export function heading(text: string): void {
  console.log(`\n${paint(1, text)}`);
}

/** An error in words. */
export function message(err: unknown): string {
  return err instanceof Error ? err.message : String(err);
}
