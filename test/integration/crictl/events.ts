import assert from 'node:assert/strict';
import { afterEach, describe as suite, test } from 'node:test';

import { eventually } from '../../harness/cri-lab.ts';
import type { CrictlLab } from './lab.ts';

/** crictl about what happens to pods: events, checkpoint. */
export function eventTests(lab: () => CrictlLab): void {
  suite('events and checkpoints', () => {
    afterEach(() => lab().afterTest());

    test('events tells when containers come and go', async () => {
      await using events = lab().start('events');
      // It says nothing before the first event: a pod is made until it has heard of one.
      await eventually('crictl listens', async () => {
        await lab().run('rmp', '--force', await lab().run('runp', lab().podFile('first')));
        return /CONTAINER_/.test(events.stdout) ? true : undefined;
      });
      const { pod, container } = await lab().pod('web');
      await lab().run('stop', '--timeout', '0', container);
      await lab().run('rm', container);
      await lab().run('rmp', '--force', pod);
      for (const kind of ['CREATED', 'STARTED', 'STOPPED', 'DELETED']) {
        for (const id of [container, pod]) {
          const one = `"containerEventType": *"CONTAINER_${kind}_EVENT"`;
          const other = `"containerId": *"${id}"`;
          await events.shows(new RegExp(`${one}[^{}]*${other}|${other}[^{}]*${one}`));
        }
      }
      await events.interrupt();
    });

    test('checkpoint writes an archive, or says what is missing', async () => {
      const { container } = await lab().pod('web');
      const file = `${lab().work}/checkpoint.tar`;
      const { code, stderr } = await lab().say('checkpoint', '--export', file, container);
      if (code !== 0) assert.match(stderr, /FailedPrecondition.*(criu|CRIU|checkpoint)/);
      assert.match(await lab().run('ps'), /Running +web/);
      assert.match(await lab().refused('checkpoint', '--export', file, 'none'), /none/);
    });
  });
}
