import { status } from '@grpc/grpc-js';

import { CliError, reworded } from '../cli-error.ts';

const HINT = 'berth images shows what is there';

/** The error for an image that is not on the node. */
export function notHere(reference: string): CliError {
  return new CliError(`image ${reference} is not here`, HINT);
}

/** What a call answers; where it says that there is no such image, its CliError tells too how to see which there are. */
export async function orNotHere<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (err) {
    if (!(err instanceof CliError) || err.code !== status.NOT_FOUND) throw err;
    throw reworded(err, err.message, HINT);
  }
}
