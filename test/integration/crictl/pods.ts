import assert from 'node:assert/strict';
import { afterEach, describe as suite, test } from 'node:test';

import type { CrictlLab } from './lab.ts';

/** crictl about pods: runp, pods, inspectp, stopp, rmp. */
export function podTests(lab: () => CrictlLab): void {
  suite('pods', () => {
    afterEach(() => lab().afterTest());

    test('pods come as a table, as JSON and YAML, in full, or as ids', async () => {
      const pod = await lab().run('runp', lab().podFile('web', { labels: { tier: 'front' } }));
      assert.match(pod, /^[0-9a-f]{64}$/);
      const short = pod.slice(0, 13);
      const table = await lab().run('pods');
      assert.match(table, /^POD ID +CREATED +STATE +NAME +NAMESPACE +ATTEMPT +RUNTIME/);
      assert.match(table, new RegExp(`\n${short} +\\S.* Ready +web +people +1 +\\(default\\)`));
      const { items } = await lab().json<{ items: { id: string; state: string; labels: object }[] }>('pods');
      assert.deepEqual(
        items.map(({ id, state, labels }) => ({ id, state, labels })),
        [{ id: pod, state: 'SANDBOX_READY', labels: { tier: 'front' } }],
      );
      assert.match(await lab().run('pods', '-o', 'yaml'), /state: SANDBOX_READY/);
      assert.match(await lab().run('pods', '-v'), new RegExp(`ID: ${pod}\nName: web\nUID: uid-web\n`));
      assert.equal(await lab().run('pods', '-q'), pod);
    });

    test('filters find pods by id, name, namespace, label, state and age', async () => {
      const front = await lab().run('runp', lab().podFile('front', { labels: { tier: 'front', zone: 'a' } }));
      const back = await lab().run('runp', lab().podFile('back', { labels: { tier: 'back', zone: 'a' } }));
      await lab().run('stopp', back);
      const ids = async (...filters: string[]): Promise<string[]> => {
        const said = await lab().run('pods', '-q', ...filters);
        return said.split('\n').filter(Boolean).sort();
      };
      assert.deepEqual(await ids('--id', front), [front]);
      assert.deepEqual(await ids('--id', front.slice(0, 12)), [front]);
      assert.deepEqual(await ids('--name', '^ba'), [back]);
      assert.deepEqual(await ids('--namespace', 'peo'), [back, front].sort());
      assert.deepEqual(await ids('--namespace', 'other'), []);
      assert.deepEqual(await ids('--label', 'tier=front'), [front]);
      assert.deepEqual(await ids('--label', 'zone=a', '--label', 'tier=back'), [back]);
      assert.deepEqual(await ids('--state', 'ready'), [front]);
      assert.deepEqual(await ids('--state', 'notready'), [back]);
      assert.deepEqual(await ids('--state', 'ready', '--label', 'tier=back'), []);
      assert.deepEqual(await ids('--latest'), [back]);
      assert.deepEqual(await ids('--last', '2'), [back, front].sort());
    });

    test('inspectp shows address, labels and what is inside', async () => {
      const pod = await lab().run('runp', lab().podFile('web', { labels: { tier: 'front' }, hostname: 'web-1' }));
      const { status, info } = await lab().json<{
        status: { id: string; state: string; network: { ip: string }; metadata: object };
        info: { pid: number };
      }>('inspectp', pod);
      assert.equal(status.state, 'SANDBOX_READY');
      assert.deepEqual(status.metadata, { attempt: 1, name: 'web', namespace: 'people', uid: 'uid-web' });
      assert.ok(lab().berthd.network.owns(status.network.ip));
      assert.ok(info.pid > 1);
      assert.match(await lab().run('inspectp', '-o', 'table', pod), new RegExp(`IP Addresses: ${status.network.ip}`));
      assert.equal(
        await lab().run('inspectp', '-o', 'go-template', '--template', '{{.status.network.ip}}', pod),
        status.network.ip,
      );
      assert.match(await lab().run('inspectp', '--name', 'web', '-o', 'yaml'), new RegExp(`id: ${pod}`));
      assert.match(await lab().refused('inspectp', 'none'), /no such/);
    });

    test('stopp and rmp do nothing to what is gone; a pod that runs is removed only by force', async () => {
      const pod = await lab().run('runp', lab().podFile('web'));
      assert.match(await lab().refused('rmp', pod), /running|ready/i);
      assert.equal(await lab().run('stopp', pod), `Stopped sandbox ${pod}`);
      assert.equal(await lab().run('stopp', pod), `Stopped sandbox ${pod}`);
      assert.match(await lab().run('pods'), / NotReady +web /);
      assert.equal(await lab().run('rmp', pod), `Removed sandbox ${pod}`);
      assert.equal(await lab().run('pods', '-q'), '');
      assert.equal(await lab().run('stopp', pod), `Stopped sandbox ${pod}`);
      const [one, two] = [await lab().run('runp', lab().podFile('one')), await lab().run('runp', lab().podFile('two'))];
      const said = await lab().run('rmp', '--force', '--all');
      for (const id of [one, two]) assert.match(said, new RegExp(`Removed sandbox ${id}`));
    });

    test('runp says what is wrong with a pod, and takes the name of a handler', async () => {
      assert.match(await lab().refused('runp', lab().podFile('none', { metadata: { name: '' } })), /metadata/);
      assert.match(await lab().refused('runp', '--runtime', 'no-such', lab().podFile('web')), /no-such/);
      const { runtimeHandlers } = await lab().json<{ runtimeHandlers: { name?: string }[] }>('info');
      const handler = runtimeHandlers.map(({ name = '' }) => name).find((name) => name !== '') ?? '';
      await lab().run('runp', '--runtime', handler, lab().podFile('web'));
      assert.match(await lab().run('pods'), new RegExp(` +1 +${handler}$`, 'm'));
    });
  });
}
