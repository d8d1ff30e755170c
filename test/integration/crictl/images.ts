import assert from 'node:assert/strict';
import { afterEach, describe as suite, test } from 'node:test';

import type { CrictlLab } from './lab.ts';

interface Images {
  readonly images: { id: string; repoTags: string[]; repoDigests: string[]; size: string; pinned: boolean }[];
}

/** crictl about images: pull, images, inspecti, imagefsinfo, rmi. */
export function imageTests(lab: () => CrictlLab): void {
  suite('images', () => {
    afterEach(async () => {
      await lab().run('pull', lab().image);
    });

    test('images come as a table, as JSON and YAML, with digests, in full, or as ids', async () => {
      const { image } = lab();
      const repository = image.replace(/:1$/, '');
      const { images } = await lab().json<Images>('images');
      const [own] = images;
      assert.equal(images.length, 1);
      assert.ok(own);
      assert.deepEqual(own.repoTags, [image]);
      assert.match(own.repoDigests[0] ?? '', /^[\d.]+:\d+\/team\/box@sha256:[0-9a-f]{64}$/);
      assert.ok(Number(own.size) > 100_000);
      const short = own.id.slice('sha256:'.length, 'sha256:'.length + 13);
      assert.match(
        await lab().run('images'),
        new RegExp(`^IMAGE +TAG +IMAGE ID +SIZE\n${repository} +1 +${short} +\\S+B`),
      );
      assert.match(await lab().run('images', '--digests', '--no-trunc'), new RegExp(`sha256:[0-9a-f]{64} +${own.id}`));
      assert.match(await lab().run('images', '--pinned'), / false$/m);
      assert.match(await lab().run('images', '-o', 'yaml'), /repoTags:\n +- .*box:1/);
      assert.match(await lab().run('images', '-v'), new RegExp(`RepoTags: ${image}`));
      assert.equal(await lab().run('images', '-q'), own.id);
      assert.equal(await lab().run('images', '-q', image), own.id);
      assert.equal(await lab().run('images', '-q', 'example.com/other'), '');
      assert.equal(await lab().run('images', '-q', '-f', 'reference=.*/box'), own.id);
      assert.equal(await lab().run('images', '-q', '-f', 'dangling=true'), '');
    });

    test('an image with two tags is one image; removed by one tag, it is gone', async () => {
      const { image, otherTag } = lab();
      assert.match(await lab().run('pull', otherTag), /^Image is up to date for sha256:[0-9a-f]{64}$/);
      const { images } = await lab().json<Images>('images');
      assert.deepEqual(
        images.map(({ repoTags }) => repoTags.toSorted()),
        [[image, otherTag]],
      );
      assert.equal((await lab().run('images')).split('\n').length, 3);
      await lab().run('rmi', otherTag);
      assert.equal(await lab().run('images', '-q'), '');
    });

    test('inspecti shows an image by tag, digest, id and the beginning of its id', async () => {
      const { images } = await lab().json<Images>('images');
      const [{ id = '', repoDigests = [] } = {}] = images;
      for (const name of [lab().image, repoDigests[0] ?? '', id, id.slice('sha256:'.length, 20)]) {
        const { status, info } = await lab().json<{
          status: { id: string; username: string };
          info: { config: { labels: Record<string, string> } };
        }>('inspecti', name);
        assert.equal(status.id, id, name);
        assert.equal(status.username, 'user');
        assert.equal(info.config.labels['team'], 'web');
      }
      assert.match(
        await lab().run('inspecti', '-o', 'table', lab().image),
        new RegExp(`^ID: ${id}\nTag: ${lab().image}`),
      );
      assert.equal(await lab().run('inspecti', '-o', 'go-template', '--template', '{{.status.id}}', lab().image), id);
      assert.match(await lab().refused('inspecti', 'example.com/none:1'), /no such image/);
    });

    test('pull says what is wrong, and takes a digest', async () => {
      const [digest = ''] = (await lab().json<Images>('images')).images[0]?.repoDigests ?? [];
      assert.match(await lab().run('pull', digest), /up to date/);
      assert.match(await lab().refused('pull', `${lab().registry.host}/team/none:1`), /NotFound.*team\/none/);
      assert.match(await lab().refused('pull', 'example.com/UPPER:1'), /InvalidArgument|invalid/);
    });

    test('imagefsinfo tells how much room images and containers take', async () => {
      interface Usage {
        readonly fsId: { mountpoint: string };
        readonly usedBytes: { value: string };
        readonly inodesUsed: { value: string };
      }
      const { status } = await lab().json<{
        status: { imageFilesystems: Usage[]; containerFilesystems: Usage[] };
      }>('imagefsinfo');
      assert.ok(Number(status.imageFilesystems[0]?.usedBytes.value) > 100_000);
      assert.ok(Number(status.imageFilesystems[0]?.inodesUsed.value) > 100);
      assert.match(status.containerFilesystems[0]?.fsId.mountpoint ?? '', /^\//);
      assert.match(await lab().run('imagefsinfo', '-o', 'table'), /Image Filesystem/);
    });

    test('rmi --prune keeps what containers use, --all takes all', async () => {
      const { pod } = await lab().pod('user-of-image');
      await lab().run('rmi', '--prune');
      assert.notEqual(await lab().run('images', '-q'), '');
      assert.match(await lab().refused('rmi', lab().image), /in use/);
      await lab().run('rmp', '--force', pod);
      await lab().run('rmi', '--all');
      assert.equal(await lab().run('images', '-q'), '');
      assert.match(await lab().refused('rmi', lab().image), /no such image/);
    });
  });
}
