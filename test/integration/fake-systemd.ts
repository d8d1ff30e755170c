import { connect, type Socket } from 'node:net';

import {
  type DbusMessage,
  type DbusValue,
  decodeMessage,
  ERROR,
  encodeMessage,
  METHOD_CALL,
  METHOD_RETURN,
  SIGNAL,
} from '../../src/runtime/cgroups/dbus-codec.ts';

const MANAGER = 'org.freedesktop.systemd1.Manager';

/** An object in the place of systemd's manager on a bus: writes down what it is asked, and reports jobs as done. */
export class FakeSystemd {
  readonly calls: [member: string, body: readonly DbusValue[]][] = [];
  /** Methods that answer with an error, and its name. */
  readonly errors = new Map<string, string>();
  /** How jobs end; empty for jobs that never do. */
  jobResult = 'done';
  readonly #socket: Socket;
  readonly #ready = Promise.withResolvers<void>();
  readonly #waiting = new Map<string, () => void>();
  #received: Buffer = Buffer.alloc(0);
  #serial = 0;
  #jobs = 0;

  static async start(busSocket: string): Promise<FakeSystemd> {
    const fake = new FakeSystemd(connect(busSocket));
    await fake.#ready.promise;
    return fake;
  }

  constructor(socket: Socket) {
    this.#socket = socket;
    const uid = Buffer.from(String(process.getuid?.())).toString('hex');
    socket.write(`\0AUTH EXTERNAL ${uid}\r\n`);
    socket.once('data', () => {
      socket.write('BEGIN\r\n');
      this.#callBus('Hello', '', []);
      this.#callBus('RequestName', 'su', ['org.freedesktop.systemd1', 0]);
      socket.on('data', (chunk: Buffer) => this.#onData(chunk));
    });
  }

  /** Resolves when the method is called the next time. */
  async called(member: string): Promise<void> {
    await new Promise<void>((resolve) => this.#waiting.set(member, resolve));
  }

  close(): void {
    this.#socket.destroy();
  }

  #onData(chunk: Buffer): void {
    this.#received = Buffer.concat([this.#received, chunk]);
    for (let next = decodeMessage(this.#received); next; next = decodeMessage(this.#received)) {
      this.#received = this.#received.subarray(next.length);
      if (next.message.type === METHOD_RETURN && next.message.replySerial === 2) this.#ready.resolve();
      if (next.message.type === METHOD_CALL) this.#onCall(next.message);
    }
  }

  #onCall({ member = '', sender = '', serial, body }: DbusMessage): void {
    this.calls.push([member, body]);
    this.#waiting.get(member)?.();
    const answer = { destination: sender, replySerial: serial };
    const error = this.errors.get(member);
    if (error !== undefined) {
      this.#send({ type: ERROR, ...answer, errorName: error, signature: 's', body: ['no'] });
    } else if (member === 'StartTransientUnit' || member === 'StopUnit') {
      this.#runJob(String(body[0]), answer);
    } else {
      this.#send({ type: METHOD_RETURN, ...answer, body: [] });
    }
  }

  #runJob(unit: string, answer: { readonly destination: string; readonly replySerial: number }): void {
    const job = `/org/freedesktop/systemd1/job/${++this.#jobs}`;
    const removed = { type: SIGNAL, path: '/org/freedesktop/systemd1', interface: MANAGER, member: 'JobRemoved' };
    // Another job's end first, and the own one before the answer: both happen.
    this.#send({
      ...removed,
      signature: 'uoss',
      body: [9999, '/org/freedesktop/systemd1/job/9999', 'other.scope', 'failed'],
    });
    if (this.jobResult !== '') {
      this.#send({ ...removed, signature: 'uoss', body: [this.#jobs, job, unit, this.jobResult] });
    }
    this.#send({ type: METHOD_RETURN, ...answer, signature: 'o', body: [job] });
  }

  #callBus(member: string, signature: string, body: readonly DbusValue[]): void {
    const name = 'org.freedesktop.DBus';
    const path = '/org/freedesktop/DBus';
    this.#send({ type: METHOD_CALL, destination: name, path, interface: name, member, signature, body });
  }

  #send(message: Omit<DbusMessage, 'serial'>): void {
    this.#socket.write(encodeMessage({ ...message, serial: ++this.#serial }));
  }
}
