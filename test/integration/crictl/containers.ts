import assert from 'node:assert/strict';
import { existsSync, readFileSync, renameSync } from 'node:fs';
import { afterEach, describe as suite, test } from 'node:test';

import { eventually } from '../../harness/cri-lab.ts';
import type { CrictlLab } from './lab.ts';

interface Inspected {
  readonly status: {
    readonly state: string;
    readonly exitCode: number;
    readonly logPath: string;
    readonly image: { readonly image: string };
    readonly resources?: { readonly linux: { readonly memoryLimitInBytes: string; readonly cpuShares: string } };
  };
  readonly info: { readonly pid: number; readonly runtimeSpec: { readonly process: { readonly args: string[] } } };
}

/** crictl about containers: create, start, run, ps, inspect, update, logs, stop, rm, checkpoint. */
export function containerTests(lab: () => CrictlLab): void {
  const inspect = (id: string): Promise<Inspected> => lab().json<Inspected>('inspect', id);
  const ended = (id: string): Promise<Inspected> =>
    eventually(`container ${id} ends`, async () => {
      const inspected = await inspect(id);
      return inspected.status.state === 'CONTAINER_EXITED' ? inspected : undefined;
    });

  suite('containers', () => {
    afterEach(() => lab().afterTest());

    test('a container is created, started, listed, stopped and removed', async () => {
      const pod = await lab().run('runp', lab().podFile('web'));
      const id = await lab().run('create', pod, lab().containerFile('web'), lab().podFile('web'));
      assert.match(id, /^[0-9a-f]{64}$/);
      assert.equal(await lab().run('ps', '-q'), '');
      assert.match(await lab().run('ps', '-a'), / Created +web +0 /);
      assert.equal(await lab().run('start', id), id);
      const table = await lab().run('ps');
      assert.match(table, /^CONTAINER +IMAGE +CREATED +STATE +NAME +ATTEMPT +POD ID +POD +NAMESPACE/);
      assert.match(table, new RegExp(`\n${id.slice(0, 13)} +\\S+ .* Running +web +0 +${pod.slice(0, 13)}`));
      assert.match(await lab().run('ps', '-o', 'yaml'), /state: CONTAINER_RUNNING/);
      assert.match(await lab().run('ps', '-v'), new RegExp(`ID: ${id}\nPodID: ${pod}\n`));
      assert.match(await lab().refused('start', id), /running/);
      assert.match(await lab().refused('rm', id), /running|cannot/i);
      assert.equal(await lab().run('stop', '--timeout', '0', id), id);
      assert.match(await lab().run('ps', '--state', 'exited'), / Exited +web /);
      assert.equal((await inspect(id)).status.exitCode, 137);
      assert.equal(await lab().run('rm', id), id);
      assert.equal(await lab().run('ps', '-aq'), '');
      assert.match(await lab().refused('inspect', id), /no such container/);
    });

    test('run makes pod and container at once, and pulls the image', async () => {
      await lab().run('rmi', '--all');
      const id = await lab().run('run', '--with-pull', lab().containerFile('web'), lab().podFile('web'));
      const { status, info } = await inspect(id);
      assert.equal(status.state, 'CONTAINER_RUNNING');
      assert.deepEqual(info.runtimeSpec.process.args, ['sleep', '1000']);
      assert.ok(existsSync(`/proc/${info.pid}`));
      assert.match(await lab().run('rm', '--force', id), new RegExp(`${id}$`));
      assert.ok(!existsSync(`/proc/${info.pid}`));
    });

    test('filters find containers by id, pod, name, image, label, state and age', async () => {
      const one = await lab().pod('one', { labels: { tier: 'front' } });
      const two = await lab().pod('two', { labels: { tier: 'back' } });
      await lab().run('stop', '--timeout', '0', two.container);
      const ids = async (...filters: string[]): Promise<string[]> => {
        const said = await lab().run('ps', '-aq', ...filters);
        return said.split('\n').filter(Boolean).sort();
      };
      const both = [one.container, two.container].sort();
      assert.deepEqual(await ids(), both);
      assert.deepEqual(await ids('--id', one.container.slice(0, 12)), [one.container]);
      assert.deepEqual(await ids('--pod', two.pod), [two.container]);
      assert.deepEqual(await ids('--name', '^on'), [one.container]);
      assert.deepEqual(await ids('--image', lab().image), both);
      assert.deepEqual(await ids('--image', 'sha256:0000'), []);
      assert.deepEqual(await ids('--label', 'tier=back'), [two.container]);
      assert.deepEqual(await ids('--state', 'running'), [one.container]);
      assert.deepEqual(await ids('--state', 'exited'), [two.container]);
      assert.deepEqual(await ids('--latest'), [two.container]);
      assert.deepEqual(await ids('--last', '2'), both);
    });

    test('inspect tells state, command, user and mounts', async () => {
      const { container } = await lab().pod('web', {
        envs: [{ key: 'GREETING', value: 'hello' }],
        command: ['sleep', '99'],
      });
      const { status, info } = await inspect(container);
      assert.equal(status.image.image, lab().image);
      assert.deepEqual(info.runtimeSpec.process.args, ['sleep', '99']);
      assert.match(
        await lab().run('inspect', '-o', 'table', container),
        /^ID: [0-9a-f]{64}\nName: web\nState: CONTAINER_RUNNING/,
      );
      assert.match(await lab().run('inspect', '-o', 'yaml', container), /state: CONTAINER_RUNNING/);
      const template = '{{.status.state}} {{.info.pid}}';
      assert.equal(
        await lab().run('inspect', '-o', 'go-template', '--template', template, container),
        `CONTAINER_RUNNING ${info.pid}`,
      );
    });

    test('update changes limits, and inspect shows them', async () => {
      const { container } = await lab().pod('web');
      assert.equal(await lab().run('update', '--memory', '67108864', '--cpu-share', '512', container), container);
      const { resources } = (await inspect(container)).status;
      assert.equal(resources?.linux.memoryLimitInBytes, '67108864');
      assert.equal(resources?.linux.cpuShares, '512');
      assert.match(await lab().refused('update', '--memory', '1024', container), /memory/);
      assert.equal((await inspect(container)).status.resources?.linux.memoryLimitInBytes, '67108864');
    });

    test('logs show what was written, by stream, age and number, also while it grows', async () => {
      const script = 'echo one; echo two >&2; echo three; read line';
      const { container } = await lab().pod('writer', { command: ['sh', '-c', script], stdin: true });
      await eventually('all is written', async () =>
        /three/.test(await lab().run('logs', container)) ? true : undefined,
      );
      const all = await lab().say('logs', container);
      assert.equal(all.stdout, 'one\nthree\n');
      assert.equal(all.stderr, 'two\n');
      // Which of the two streams is last in the log is chance.
      const tail = await lab().say('logs', '--tail', '1', container);
      assert.match(`${tail.stdout}${tail.stderr}`, /^(two|three)\n$/);
      assert.equal(await lab().run('logs', '--stream', 'stdout', container), 'one\nthree');
      const dated = await lab().say('logs', '--timestamps', '--stream', 'stderr', container);
      assert.match(dated.stderr, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\S+ two\n$/);
      assert.equal(await lab().run('logs', '--since', '1h', '--stream', 'stderr', container), '');
      assert.equal(await lab().run('logs', '--limit-bytes', '3', container), 'one');
      await using following = lab().start('logs', '--follow', container);
      await following.shows(/three/);
      const { logPath } = (await inspect(container)).status;
      await lab().run('logs', '--reopen', container);
      assert.ok(existsSync(logPath));
      await lab().run('stop', '--timeout', '0', container);
      assert.equal(await following.end(), 0);
    });

    test('a log goes on in a new file after it was renamed and reopened', async () => {
      const script = 'n=0; while :; do n=$((n + 1)); echo line $n; sleep 0.05; done';
      const { container } = await lab().pod('rotated', { command: ['sh', '-c', script] });
      const { logPath } = (await inspect(container)).status;
      renameSync(logPath, `${logPath}.1`);
      await lab().run('logs', '--reopen', container);
      await eventually('the new log has lines', () =>
        readFileSync(logPath, 'utf8').includes('line') ? true : undefined,
      );
      const lines = `${readFileSync(`${logPath}.1`, 'utf8')}${readFileSync(logPath, 'utf8')}`.trimEnd().split('\n');
      for (const [index, line] of lines.entries()) assert.match(line, new RegExp(`F line ${index + 1}$`));
    });

    test('stop gives a program its time, and several containers can be stopped at once', async () => {
      const script = 'trap "exit 7" TERM; while :; do sleep 0.05; done';
      const { pod, container } = await lab().pod('polite', { command: ['sh', '-c', script] });
      const file = lab().containerFile('other', { command: ['sh', '-c', script] });
      const other = await lab().run('create', pod, file, lab().podFile('polite'));
      await lab().run('start', other);
      await lab().run('stop', '--timeout', '30', container, other);
      for (const id of [container, other]) assert.equal((await ended(id)).status.exitCode, 7);
      await lab().run('rm', '--all');
      assert.equal(await lab().run('ps', '-aq'), '');
    });

    test('create says what is wrong', async () => {
      const pod = await lab().run('runp', lab().podFile('web'));
      const create = (more: object, ...options: string[]): Promise<string> =>
        lab().refused('create', ...options, pod, lab().containerFile('bad', more), lab().podFile('web'));
      assert.match(await create({ metadata: { name: '' } }), /metadata/);
      assert.match(await create({ image: { image: 'example.com/none:1' } }, '--no-pull'), /example\.com\/none/);
      assert.match(await create({ mounts: [{ container_path: 'data', host_path: '/tmp' }] }), /data/);
      const file = lab().containerFile('web');
      assert.match(await lab().refused('create', 'none', file, lab().podFile('web')), /none/);
      assert.equal(await lab().run('ps', '-aq'), '');
    });
  });
}
