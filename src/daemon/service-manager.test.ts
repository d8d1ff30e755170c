import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { Logger } from '../base/log.ts';
import { silentLogger } from '../base/log.ts';
import { Heartbeat, heartbeatTimes } from './heartbeat.ts';
import { ServiceManager, takeServiceSettings } from './service-manager.ts';

function listening(): { readonly service: ServiceManager; readonly heard: string[] } {
  const heard: string[] = [];
  const settings = { socket: '/run/systemd/notify', watchdogMs: 30 };
  return { service: new ServiceManager(settings, silentLogger, (state) => void heard.push(state)), heard };
}

for (const [what, env, watchdogMs] of [
  ['no watchdog', {}, undefined],
  ['one for this process', { WATCHDOG_USEC: '90000000', WATCHDOG_PID: '42' }, 90_000],
  ['one for whoever reads it', { WATCHDOG_USEC: '500' }, 0.5],
  ['one for another process', { WATCHDOG_USEC: '90000000', WATCHDOG_PID: '43' }, undefined],
  ['no time at all', { WATCHDOG_USEC: '0', WATCHDOG_PID: '42' }, undefined],
  ['nonsense', { WATCHDOG_USEC: '1e6' }, undefined],
] as const) {
  test(`the environment of systemd: ${what}; nothing of it is left to other programs`, () => {
    const given: Record<string, string | undefined> = { NOTIFY_SOCKET: '@notify', PATH: '/bin', ...env };
    assert.deepEqual(takeServiceSettings(given, 42), { socket: '@notify', watchdogMs });
    assert.deepEqual(given, { PATH: '/bin' });
  });
}

test('a start, a reload, a sign of life and a stop are told in systemd words', async () => {
  const { service, heard } = listening();
  service.starting('takes over 3 pods');
  service.ready('serves');
  await service.reload(() => undefined);
  service.alive('serves, 1 pod');
  service.stopping();
  const [reloading = ''] = heard.splice(2, 1);
  assert.match(reloading, /^RELOADING=1\nMONOTONIC_USEC=[1-9]\d+$/);
  assert.deepEqual(heard, [
    'STATUS=takes over 3 pods',
    'READY=1\nSTATUS=serves',
    'READY=1\nSTATUS=serves',
    'WATCHDOG=1\nSTATUS=serves, 1 pod',
    'STOPPING=1\nSTATUS=stops; pods go on',
  ]);
});

test('a reload that fails is in the status until one succeeds, on one line', async () => {
  const { service, heard } = listening();
  service.ready('serves');
  const fail = (): never => {
    throw new Error('berth.toml:3: no\nREADY=1');
  };
  await assert.rejects(service.reload(fail), /no/);
  service.alive('serves');
  await service.reload(() => undefined);
  const note = 'serves; configuration not reloaded: berth.toml:3: no\\u000aREADY=1';
  assert.deepEqual(
    heard.filter((state) => !state.startsWith('RELOADING')),
    ['READY=1\nSTATUS=serves', `READY=1\nSTATUS=${note}`, `WATCHDOG=1\nSTATUS=${note}`, 'READY=1\nSTATUS=serves'],
  );
});

test('a reload during the start does not say that berthd is ready', async () => {
  const { service, heard } = listening();
  await service.reload(() => undefined);
  assert.deepEqual(heard, []);
});

test('a service manager that is gone is a warning', () => {
  const warnings: string[] = [];
  const log: Logger = { ...silentLogger, warn: (_fields, message) => void warnings.push(message) };
  const settings = { socket: '/no/such/socket', watchdogMs: undefined };
  new ServiceManager(settings, log).ready('serves');
  assert.deepEqual(warnings, ['service manager could not be told']);
});

test('systemd hears of life after each check that was answered, and of none that was not', async () => {
  const [alive, errors]: [string[], unknown[]] = [[], []];
  const enough = Promise.withResolvers<void>();
  let checks = 0;
  const heartbeat = new Heartbeat({
    service: {
      watchdogMs: 30,
      alive: (status) => {
        alive.push(status);
        if (alive.length === 3) enough.resolve();
      },
    },
    // The second one hangs until its time is over, the third one fails.
    check: async (signal) => {
      checks += 1;
      if (checks === 2) await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
      if (checks === 3) throw new Error('no answer');
    },
    status: () => String(checks),
    log: { ...silentLogger, error: (fields) => void errors.push(fields['err']) },
  });
  // Its own timers keep no process alive.
  const keepAlive = setInterval(() => {}, 1000);
  heartbeat.start();
  await enough.promise;
  await heartbeat.close();
  clearInterval(keepAlive);
  assert.deepEqual(alive, ['1', '4', '5']);
  assert.deepEqual(errors, ['berthd asks itself: no answer within 7.5 ms', 'no answer']);
});

test('one check that hangs is not the end: there is time for another, whole, before the watchdog’s is over', () => {
  const { everyMs, deadlineMs, againMs } = heartbeatTimes(90_000);
  assert.equal(everyMs, 30_000);
  assert.ok(everyMs + deadlineMs + againMs + deadlineMs < 90_000);
});
