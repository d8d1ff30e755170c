import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import { isKind } from '../../base/errors.ts';
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
import { SystemdManager } from './systemd-manager.ts';

const none = new AbortController().signal;
const JOB = '/org/freedesktop/systemd1/job/7';
const UNIT = '/org/freedesktop/systemd1/unit/a';
const SYSTEMD = ':1.0';
type Answer = readonly [signature: string, body: readonly DbusValue[]];

/** A bus that is systemd as well. */
class FakeBus {
  readonly calls: string[] = [];
  connections = 0;
  /** Answers by the method's name, or by the property's for Get; empty where there is none. */
  readonly answers = new Map<string, (peer: Socket) => Answer | undefined>([
    ['StartTransientUnit', () => ['o', [JOB]]],
    ['StopUnit', () => ['o', [JOB]]],
    ['GetUnit', () => ['o', [UNIT]]],
    ['GetNameOwner', () => ['s', [SYSTEMD]]],
  ]);
  readonly #server: Server;
  readonly #peers = new Set<Socket>();
  #serial = 0;

  constructor() {
    this.#server = createServer((peer) => this.#serve(peer));
  }

  async listen(path: string): Promise<void> {
    this.#server.listen(path);
    await once(this.#server, 'listening');
  }

  close(): void {
    this.#server.close();
    for (const peer of this.#peers) peer.destroy();
  }

  signal(peer: Socket, sender: string, member: string, signature: string, body: readonly DbusValue[]): void {
    const source = member === 'JobRemoved' ? 'org.freedesktop.systemd1.Manager' : sender;
    this.#send(peer, { type: SIGNAL, path: '/', interface: source, member, sender, signature, body });
  }

  #serve(peer: Socket): void {
    this.connections++;
    this.#peers.add(peer);
    let received: Buffer = Buffer.alloc(0);
    let isLoggedIn = false;
    peer.on('error', () => undefined);
    peer.on('data', (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      if (!isLoggedIn) {
        const begin = received.indexOf('BEGIN\r\n');
        if (begin < 0) {
          peer.write('OK 0123456789abcdef0123456789abcdef\r\n');
          return;
        }
        isLoggedIn = true;
        received = received.subarray(begin + 'BEGIN\r\n'.length);
      }
      for (let next = decodeMessage(received); next; next = decodeMessage(received)) {
        received = received.subarray(next.length);
        if (next.message.type === METHOD_CALL) this.#onCall(peer, next.message);
      }
    });
  }

  #onCall(peer: Socket, { member = '', serial, body }: DbusMessage): void {
    const name = member === 'Get' ? String(body[1]) : member;
    this.calls.push(name);
    const reply = { replySerial: serial };
    const answer = this.answers.get(name);
    const values: Answer | undefined = answer ? answer(peer) : ['', []];
    if (peer.destroyed) return;
    if (values) this.#send(peer, { type: METHOD_RETURN, ...reply, signature: values[0], body: values[1] });
    else {
      const errorName = 'org.freedesktop.systemd1.NoSuchUnit';
      this.#send(peer, { type: ERROR, ...reply, errorName, signature: 's', body: ['no'] });
    }
  }

  #send(peer: Socket, message: Omit<DbusMessage, 'serial'>): void {
    peer.write(encodeMessage({ ...message, serial: ++this.#serial }));
  }
}

let folder: string;
let bus: FakeBus;
let manager: SystemdManager;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'berth-bus-'));
  bus = new FakeBus();
  await bus.listen(join(folder, 'bus'));
  manager = new SystemdManager(join(folder, 'bus'));
});

afterEach(() => {
  manager.close();
  bus.close();
  rmSync(folder, { recursive: true });
});

/** The unit's properties on the bus, one after the other; the last stays. */
function stateIs(name: 'Job' | 'ActiveState', ...states: readonly DbusValue[]): void {
  const left = [...states];
  bus.answers.set(name, () => {
    const value = (left.length > 1 ? left.shift() : left[0]) ?? '';
    return ['v', [{ signature: name === 'Job' ? '(uo)' : 's', value: name === 'Job' ? [value, '/'] : value }]];
  });
}

function connectionBreaksAt(member: string): void {
  bus.answers.set(member, (peer) => {
    peer.destroy();
    return undefined;
  });
}

test('callers at the same time share one connection, the first and each that follows on one that broke', async () => {
  const all = ['a.scope', 'b.scope', 'c.scope'];
  await Promise.all(all.map(async (unit) => await manager.attachProcesses(unit, [1], none)));
  assert.equal(bus.connections, 1);
  connectionBreaksAt('AttachProcessesToUnit');
  await assert.rejects(manager.attachProcesses('a.scope', [1], none), (err) => isKind(err, 'unavailable'));
  bus.answers.delete('AttachProcessesToUnit');
  await Promise.all(all.map(async (unit) => await manager.attachProcesses(unit, [1], none)));
  assert.equal(bus.connections, 2);
  assert.equal(bus.calls.filter((name) => name === 'Subscribe').length, 2);
});

test('a start whose connection is lost is looked for on the next, until its job is over', async () => {
  connectionBreaksAt('StartTransientUnit');
  stateIs('Job', 7, 7, 0);
  stateIs('ActiveState', 'active');
  await manager.startUnit('a.scope', [], none);
  assert.equal(bus.connections, 2);
  assert.equal(bus.calls.filter((name) => name === 'StartTransientUnit').length, 1, 'asked once');
  assert.equal(bus.calls.filter((name) => name === 'Job').length, 3);
});

test('a start that systemd never heard of, or that failed, is unavailable at once', async () => {
  connectionBreaksAt('StartTransientUnit');
  bus.answers.set('GetUnit', () => undefined);
  const isLost = (err: unknown): boolean => isKind(err, 'unavailable') && /start a.scope: lost/.test(String(err));
  await assert.rejects(manager.startUnit('a.scope', [], none), isLost);
  bus.answers.set('GetUnit', () => ['o', [UNIT]]);
  stateIs('Job', 0);
  stateIs('ActiveState', 'failed');
  await assert.rejects(manager.startUnit('a.scope', [], none), isLost);
});

test('a stop whose connection is lost is done when the unit is gone', async () => {
  connectionBreaksAt('StopUnit');
  stateIs('Job', 7, 0);
  stateIs('ActiveState', 'inactive');
  await manager.stopUnit('a.scope', none);
  assert.ok(bus.calls.includes('ResetFailedUnit'));
  stateIs('ActiveState', 'active');
  await assert.rejects(manager.stopUnit('a.scope', none), (err) => isKind(err, 'unavailable'));
});

test('a systemd that leaves the bus says no job: the unit is looked at once it is back', async () => {
  const owner = ['org.freedesktop.systemd1', SYSTEMD, ''];
  bus.answers.set('StartTransientUnit', (peer) => {
    // After the answer, as the job is being waited for.
    setImmediate(() => bus.signal(peer, 'org.freedesktop.DBus', 'NameOwnerChanged', 'sss', owner));
    return ['o', [JOB]];
  });
  stateIs('Job', 0);
  stateIs('ActiveState', 'active');
  await manager.startUnit('a.scope', [], none);
  assert.equal(bus.connections, 2);
});

test('only systemd says how a job ended, whoever else says so', async () => {
  const asked = Promise.withResolvers<Socket>();
  const say = (peer: Socket, sender: string, result: string): void =>
    bus.signal(peer, sender, 'JobRemoved', 'uoss', [7, JOB, 'a.scope', result]);
  bus.answers.set('StartTransientUnit', (peer) => {
    say(peer, ':1.66', 'done');
    asked.resolve(peer);
    return ['o', [JOB]];
  });
  const starting = manager.startUnit('a.scope', [], none);
  const failing = assert.rejects(starting, /the job's result is failed/);
  const peer = await asked.promise;
  // What was said before this answer has been heard.
  await manager.attachProcesses('b.scope', [1], none);
  say(peer, SYSTEMD, 'failed');
  await failing;
});

test('a job that its owner gives up with the connection is not looked for', async () => {
  const asked = Promise.withResolvers<void>();
  bus.answers.set('StartTransientUnit', () => {
    asked.resolve();
    return ['o', [JOB]];
  });
  const starting = manager.startUnit('a.scope', [], none);
  await asked.promise;
  manager.close();
  await assert.rejects(starting, /was closed/);
  assert.equal(bus.connections, 1);
});
