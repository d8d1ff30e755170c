import { status } from '@grpc/grpc-js';

import { CliError, reworded } from '../cli-error.ts';

const HINT = 'berth images shows what is there';

/** The error for an image that is not on the node. */
export function notHere(reference: string): CliError {
  return new CliError(`image ${reference} is not here`, HINT);
}

/**
 * What a call about an image answers. Where it says that there is no such image, its CliError tells too how to see which
 * there are; of a text that names none, without the field of the request, which the person has not seen.
 */
export async function orNotHere<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (err) {
    if (!(err instanceof CliError)) throw err;
    if (err.code === status.NOT_FOUND) throw reworded(err, err.message, HINT);
    const [, problem] = /^image(?:\.image)?: (.*)$/s.exec(err.message) ?? [];
    if (err.code !== status.INVALID_ARGUMENT || problem === undefined) throw err;
    throw reworded(err, problem === 'is empty' ? 'the name of the image is empty' : problem);
  }
}
