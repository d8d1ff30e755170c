import assert from 'node:assert/strict';
import { afterEach, describe as suite, test } from 'node:test';

import { eventually } from '../../harness/cri-lab.ts';
import type { CrictlLab } from './lab.ts';

const TRANSPORTS = ['spdy', 'websocket'] as const;
const READER = 'while read line; do echo "got $line"; done; echo end';

/** crictl with streams: exec, attach, port-forward; each over both transports. */
export function streamTests(lab: () => CrictlLab): void {
  for (const transport of TRANSPORTS) {
    suite(`streams over ${transport}`, () => {
      afterEach(() => lab().afterTest());
      const exec = (...args: string[]) => lab().say('exec', '--transport', transport, ...args);

      test('exec shows output and errors of a command, and passes its exit code on', async () => {
        const { container } = await lab().pod('web');
        const good = await exec(container, 'sh', '-c', 'echo out; echo err >&2; id -un');
        assert.deepEqual(good, { code: 0, stdout: 'out\nuser\n', stderr: 'err\n' });
        const bad = await exec(container, 'sh', '-c', 'exit 3');
        assert.notEqual(bad.code, 0);
        assert.match(bad.stderr, /exit code 3/);
        const none = await exec(container, 'no-such-program');
        assert.notEqual(none.code, 0);
        assert.match(none.stderr, /no-such-program/);
      });

      test('exec passes all that a command reads and writes', async () => {
        const { container } = await lab().pod('web');
        await using running = lab().start('exec', '--transport', transport, '-i', container, 'wc', '-c');
        running.type('x'.repeat(300_000));
        running.endInput();
        assert.equal(await running.end(), 0, running.stderr);
        assert.equal(running.stdout.trim(), '300000');
        const { stdout } = await exec(container, 'head', '-c', '3000000', '/dev/zero');
        assert.equal(stdout.length, 3_000_000);
      });

      test('exec on a terminal is a shell to talk with', async () => {
        const { container } = await lab().pod('web');
        const options = ['exec', '--transport', transport, '-it'];
        await using shell = lab().startOnTerminal(...options, container, 'sh');
        shell.type('tty; echo $((20 + 3)) one\n');
        await shell.shows(/\/dev\/pts\/\d+[\s\S]*23 one/);
        shell.type('exit 4\n');
        assert.notEqual(await shell.end(), 0);
      });

      test('attach talks to the first process, which goes on when the client goes', async () => {
        const { container } = await lab().pod('reader', { command: ['sh', '-c', READER], stdin: true });
        await using first = lab().start('attach', '--transport', transport, '-i', container);
        first.type('one\n');
        await first.shows(/got one/);
        await first[Symbol.asyncDispose]();
        await using second = lab().start('attach', '--transport', transport, '-i', container);
        second.type('two\n');
        await second.shows(/got two/);
        assert.doesNotMatch(second.stdout, /one/);
        await second[Symbol.asyncDispose]();
        assert.match(await lab().run('logs', container), /got one\ngot two/);
        assert.match(await lab().run('ps'), /Running +reader/);
      });

      test('attach to a terminal is the same shell each time', async () => {
        const { container } = await lab().pod('shell', { command: ['sh'], stdin: true, tty: true });
        const options = ['attach', '--transport', transport, '-it', container];
        await using first = lab().startOnTerminal(...options);
        first.type('number=40; tty; echo $((number + 2)) one\n');
        await first.shows(/\/dev\/(console|pts\/\d+)[\s\S]*42 one/);
        await first[Symbol.asyncDispose]();
        await using second = lab().startOnTerminal(...options);
        second.type('echo $((number + 3)) two\n');
        await second.shows(/43 two/);
      });

      test('port-forward reaches a server in the pod, several times', async () => {
        const { pod } = await lab().pod('web', { command: ['httpd', '-f', '-p', '8080', '-h', '/www'] });
        await using forward = lab().start('port-forward', '--transport', transport, pod, ':8080');
        const [, port] = await forward.shows(/Forwarding from 127\.0\.0\.1:(\d+) -> 8080/);
        const pages = await eventually('the server answers', () => fetchAll(`http://127.0.0.1:${port}/`, 10));
        assert.deepEqual(new Set(pages), new Set(['hello from berth\n']));
        await forward.interrupt();
      });
    });
  }

  suite('exec otherwise', () => {
    afterEach(() => lab().afterTest());

    test('exec finds containers by filters, and runs in all of them', async () => {
      const one = await lab().pod('one', { labels: { tier: 'front' } });
      await lab().pod('two', { labels: { tier: 'back' } });
      assert.equal(await lab().run('exec', '--name', 'one', '--quiet', 'echo', 'hello'), 'hello');
      assert.match(await lab().run('exec', '--label', 'tier=front', 'hostname'), new RegExp(one.pod.slice(0, 12)));
      const both = await lab().run('exec', '--parallel', '--quiet', '--name', '^(one|two)$', 'hostname');
      assert.equal(both.split('\n').length, 2);
    });

    test('exec --sync takes a time limit; exec says when a container does not run', async () => {
      const { container } = await lab().pod('web');
      assert.equal(await lab().run('exec', '--sync', container, 'echo', 'hello'), 'hello');
      assert.match(
        await lab().refused('exec', '--sync', container, 'sh', '-c', 'echo why >&2; exit 3'),
        /exited with 3: why/,
      );
      assert.match(
        await lab().refused('exec', '--sync', '--timeout', '1', container, 'sleep', '100'),
        /DeadlineExceeded/,
      );
      await lab().run('stop', '--timeout', '0', container);
      assert.match(await lab().refused('exec', container, 'true'), /running|exited/i);
      assert.match(await lab().refused('exec', 'none', 'true'), /none/);
      assert.match(await lab().refused('attach', container), /running|exited/i);
      assert.match(await lab().refused('port-forward', 'none', ':80'), /none/);
    });
  });
}

async function fetchAll(url: string, times: number): Promise<string[] | undefined> {
  try {
    return await Promise.all(Array.from({ length: times }, async () => await (await fetch(url)).text()));
  } catch {
    return undefined;
  }
}
