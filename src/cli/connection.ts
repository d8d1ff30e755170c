import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';

import { findTop } from '../base/own-files.ts';
import { CliError } from './cli-error.ts';
import type { Caller, Method } from './session.ts';

/** In gRPC's words, or in those of the socket below. */
const HUNG_UP: readonly string[] = ['Connection dropped', 'read ECONNRESET'];

/** Enough for everything but pulls and waits, which name their own. */
const DEFAULT_TIMEOUT_MS = 60_000;

/** A connection to berthd's socket; it speaks all services on it. */
export class Connection implements Caller {
  readonly #client: Client;
  readonly #address: string;

  /** `address` is `unix:///path`; nothing is sent before the first call. */
  constructor(address: string) {
    this.#address = address;
    this.#client = new Client(address, credentials.createInsecure(), {
      'grpc.max_receive_message_length': -1,
      'grpc.enable_retries': 0,
    });
  }

  async call<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    timeoutMs = DEFAULT_TIMEOUT_MS,
    signal: AbortSignal = new AbortController().signal,
  ): Promise<Response> {
    const { promise, resolve, reject } = Promise.withResolvers<Response>();
    const call = this.#client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      new Metadata(),
      { deadline: Date.now() + timeoutMs },
      (err, response) => {
        if (err) reject(this.#explain(err));
        else if (response === undefined) reject(new CliError('empty answer'));
        else resolve(response);
      },
    );
    return await cancelledBy(signal, call, promise);
  }

  async readAll<Request, Response>(
    { path, requestSerialize, responseDeserialize }: Method<Request, Response>,
    request: Request,
    take: (response: Response) => Promise<void>,
    signal: AbortSignal,
  ): Promise<void> {
    const stream = this.#client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request);
    const read = async (): Promise<void> => {
      try {
        for await (const response of stream as AsyncIterable<Response>) await take(response);
      } catch (err) {
        throw isServiceError(err) ? this.#explain(err) : err;
      } finally {
        stream.cancel();
      }
    };
    await cancelledBy(signal, stream, read());
  }

  async readUntil<Request, Response>(
    { path, requestSerialize, responseDeserialize }: Method<Request, Response>,
    request: Request,
    wanted: (response: Response) => boolean,
    signal: AbortSignal,
  ): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const stream = this.#client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request);
    stream
      .on('data', (response: Response) => (wanted(response) ? stream.cancel() : undefined))
      .on('error', () => resolve())
      .on('end', () => resolve());
    await cancelledBy(signal, stream, promise);
  }

  close(): void {
    this.#client.close();
  }

  #explain(err: ServiceError): CliError {
    const path = this.#address.replace(/^unix:(\/\/)?/, '');
    // berthd itself answers Unavailable too, when a registry refuses it: only gRPC's own words tell of the socket.
    const isUnconnected = err.code === status.UNAVAILABLE && err.details.startsWith('No connection established');
    if (isUnconnected && err.details.includes('EACCES')) {
      return new CliError(`may not connect to ${path}`, 'run it as root: whoever may use the socket owns the node', {
        code: status.PERMISSION_DENIED,
      });
    }
    if (isUnconnected) {
      return new CliError(
        `no berthd answers on ${path}`,
        `${howToStart()}, or name its socket: --socket unix:///run/berth/berth.sock`,
      );
    }
    if (err.code === status.UNAVAILABLE && HUNG_UP.includes(err.details)) {
      return new CliError(
        'berthd ended, or hung up, before it had answered',
        'see its log (journalctl -u berthd); what it was asked for may be asked for again',
        { code: err.code },
      );
    }
    // What berthd resets when it ends; a call that this process ends itself is "Cancelled on client".
    if (err.code === status.CANCELLED && err.details === 'Call cancelled') {
      return new CliError('berthd was stopped before it had answered', 'start it again, and ask again', {
        code: err.code,
      });
    }
    const hint = err.code === status.UNIMPLEMENTED ? "is that socket berthd's, and of this version?" : undefined;
    return new CliError(err.details || status[err.code] || 'unknown error', hint, { code: err.code });
  }
}

function isServiceError(err: unknown): err is ServiceError {
  return err instanceof Error && 'code' in err && typeof err.code === 'number' && 'details' in err;
}

/** Waits for the end of a call, which an abort of the signal hastens. */
async function cancelledBy<T>(signal: AbortSignal, call: { cancel(): void }, end: Promise<T>): Promise<T> {
  const cancel = (): void => call.cancel();
  signal.addEventListener('abort', cancel, { once: true });
  if (signal.aborted) cancel();
  try {
    return await end;
  } finally {
    signal.removeEventListener('abort', cancel);
  }
}

/** As a service where systemd runs, which is where packages put it. */
function howToStart(): string {
  return existsSync('/run/systemd/system')
    ? 'systemctl start berthd, and journalctl -u berthd when it does not'
    : `start one (${join(findTop(), 'bin/berthd')})`;
}
