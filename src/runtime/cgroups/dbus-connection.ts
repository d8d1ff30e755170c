import { connect, type Socket } from 'node:net';

import { BerthError } from '../../base/errors.ts';
import {
  type DbusMessage,
  type DbusValue,
  decodeMessage,
  ERROR,
  encodeMessage,
  METHOD_CALL,
  METHOD_RETURN,
  SIGNAL,
} from './dbus-codec.ts';

/** Which method of whom to call, with what. */
export interface DbusCall {
  readonly destination: string;
  readonly path: string;
  readonly interface: string;
  readonly member: string;
  readonly signature?: string;
  readonly body?: readonly DbusValue[];
}

/** The peer answered with an error. */
export class DbusError extends BerthError {
  override readonly name = 'DbusError';
  /** Such as `org.freedesktop.systemd1.NoSuchUnit`. */
  readonly errorName: string;

  constructor(member: string, errorName: string, text: string) {
    super(kindOfName(errorName), `${member}: ${text === '' ? errorName : `${text} (${errorName})`}`);
    this.errorName = errorName;
  }
}

const BUS = { destination: 'org.freedesktop.DBus', path: '/org/freedesktop/DBus', interface: 'org.freedesktop.DBus' };
const MAX_HANDSHAKE_BYTES = 16_384;

/**
 * A connection to a D-Bus message bus on a unix socket. Open it with openDbus(). When it ends, all calls in flight
 * fail as `unavailable`; it doesn't come back, its owner opens another. It keeps no process alive.
 */
export class DbusConnection {
  readonly #socket: Socket;
  readonly #calls = new Map<number, { readonly member: string; settle: PromiseWithResolvers<readonly DbusValue[]> }>();
  readonly #listeners = new Set<(message: DbusMessage) => void>();
  readonly #endListeners = new Set<(reason: BerthError) => void>();
  #received: Buffer = Buffer.alloc(0);
  #serial = 0;
  #failure: BerthError | undefined;

  constructor(socket: Socket, received: Buffer) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#onData(chunk));
    socket.on('error', (err) =>
      this.#fail(new BerthError('unavailable', 'the connection to D-Bus broke', { cause: err })),
    );
    socket.on('close', () => this.#fail(new BerthError('unavailable', 'D-Bus closed the connection')));
    socket.unref();
    this.#onData(received);
  }

  get isOpen(): boolean {
    return this.#failure === undefined;
  }

  /** Calls a method and returns its answer's values. Throws `DbusError` for an error answer, the signal's reason on abort. */
  async call(call: DbusCall, signal: AbortSignal): Promise<readonly DbusValue[]> {
    signal.throwIfAborted();
    if (this.#failure) throw this.#failure;
    const serial = ++this.#serial;
    const settle = Promise.withResolvers<readonly DbusValue[]>();
    const onAbort = (): void => settle.reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    this.#calls.set(serial, { member: call.member, settle });
    // While an answer is awaited the socket keeps the process alive, as any other work in flight does.
    this.#socket.ref();
    try {
      this.#socket.write(encodeMessage({ type: METHOD_CALL, serial, body: [], ...call }));
      return await settle.promise;
    } finally {
      signal.removeEventListener('abort', onAbort);
      this.#calls.delete(serial);
      if (this.#calls.size === 0) this.#socket.unref();
    }
  }

  /** Hears all signals that the bus sends here, until the returned function is called. */
  onSignal(listener: (message: DbusMessage) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Hears why the connection ended, until the returned function is called; at once when it has. */
  onEnd(listener: (reason: BerthError) => void): () => void {
    if (this.#failure) listener(this.#failure);
    this.#endListeners.add(listener);
    return () => this.#endListeners.delete(listener);
  }

  /** Asks the bus for signals (D-Bus specification, "Match rules"). */
  async match(rule: string, signal: AbortSignal): Promise<void> {
    await this.call({ ...BUS, member: 'AddMatch', signature: 's', body: [rule] }, signal);
  }

  close(reason = new BerthError('unavailable', 'the connection to D-Bus was closed')): void {
    this.#fail(reason);
  }

  #onData(chunk: Buffer): void {
    this.#received = Buffer.concat([this.#received, chunk]);
    try {
      for (let next = decodeMessage(this.#received); next; next = decodeMessage(this.#received)) {
        this.#received = this.#received.subarray(next.length);
        this.#onMessage(next.message);
      }
    } catch (err) {
      this.#fail(
        err instanceof BerthError ? err : new BerthError('internal', 'a D-Bus listener failed', { cause: err }),
      );
    }
  }

  #onMessage(message: DbusMessage): void {
    if (message.type === SIGNAL) {
      for (const listener of this.#listeners) listener(message);
      return;
    }
    const waiting = this.#calls.get(message.replySerial ?? 0);
    if (!waiting) return;
    if (message.type === METHOD_RETURN) waiting.settle.resolve(message.body);
    if (message.type === ERROR) {
      const [text] = message.body;
      waiting.settle.reject(
        new DbusError(waiting.member, message.errorName ?? '', typeof text === 'string' ? text : ''),
      );
    }
  }

  #fail(reason: BerthError): void {
    if (this.#failure) return;
    this.#failure = reason;
    this.#socket.destroy();
    for (const { settle } of this.#calls.values()) settle.reject(reason);
    for (const listener of this.#endListeners) listener(reason);
  }
}

/** Connects to the bus at a unix socket, as the user that runs this process. Throws `unavailable` when there is none. */
export async function openDbus(socketPath: string, signal: AbortSignal): Promise<DbusConnection> {
  signal.throwIfAborted();
  const socket = connect(socketPath);
  try {
    const received = await handshake(socket, signal);
    const connection = new DbusConnection(socket, received);
    await connection.call({ ...BUS, member: 'Hello' }, signal);
    return connection;
  } catch (err) {
    socket.destroy();
    if (signal.aborted) throw signal.reason;
    throw unavailable(`connect to D-Bus at ${socketPath}`, err);
  }
}

/** The SASL dialogue with EXTERNAL: the bus takes our user from the socket. Resolves with bytes that came after it. */
async function handshake(socket: Socket, signal: AbortSignal): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  let received: Buffer = Buffer.alloc(0);
  const onData = (chunk: Buffer): void => {
    received = Buffer.concat([received, chunk]);
    const end = received.indexOf('\r\n');
    const line = received.toString('latin1', 0, Math.max(end, 0));
    if (line.startsWith('OK ')) resolve(received.subarray(end + 2));
    else if (end >= 0) reject(new BerthError('permission', `the bus refused the login: ${line.slice(0, 200)}`));
    else if (received.length > MAX_HANDSHAKE_BYTES)
      reject(new BerthError('unavailable', 'the bus does not speak D-Bus'));
  };
  const onClose = (): void => reject(new BerthError('unavailable', 'the bus closed the connection'));
  const onAbort = (): void => reject(signal.reason);
  socket.on('data', onData).on('error', reject).on('close', onClose);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    const uid = Buffer.from(String(process.getuid?.() ?? 0)).toString('hex');
    socket.write(`\0AUTH EXTERNAL ${uid}\r\n`);
    const rest = await promise;
    socket.write('BEGIN\r\n');
    return rest;
  } finally {
    socket.off('data', onData).off('error', reject).off('close', onClose);
    signal.removeEventListener('abort', onAbort);
  }
}

function unavailable(message: string, cause: unknown): BerthError {
  return new BerthError('unavailable', message, { cause });
}

function kindOfName(
  errorName: string,
): 'notFound' | 'permission' | 'alreadyExists' | 'invalid' | 'unavailable' | 'internal' {
  if (/\.(NoSuchUnit|UnknownObject)$/.test(errorName)) return 'notFound';
  if (/\.(AccessDenied|InteractiveAuthorizationRequired)$/.test(errorName)) return 'permission';
  if (/\.(UnitExists)$/.test(errorName)) return 'alreadyExists';
  if (/\.(InvalidArgs)$/.test(errorName)) return 'invalid';
  if (/\.(ServiceUnknown|NoReply|Disconnected|NameHasNoOwner)$/.test(errorName)) return 'unavailable';
  return 'internal';
}
