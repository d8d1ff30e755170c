import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { placeDocument } from '../../packaging/documents.ts';

const shelf = { folder: '/usr/share/doc/berth', pages: new Set(['install.md', 'kind.md', 'dashboard.svg']) };
const place = (text: string, path = 'docs/kind.md'): string => placeDocument(text, path, shelf);

test('links lead to what lies beside the document, and the rest is text', () => {
  assert.equal(
    place('[a](install.md#x) [b](../deploy/kind/ctr) [c](../README.md)'),
    '[a](install.md#x) [b](examples/kind/ctr) [c](README.md)',
  );
  assert.equal(
    place('[the map](../ARCHITECTURE.md), [web](https://example.com/x)'),
    'the map, [web](https://example.com/x)',
  );
  assert.equal(
    place('[k](docs/kind.md) [d](deploy/README.md) [l](LICENSE)', 'README.md'),
    '[k](kind.md) [d](examples/README.md) l',
  );
  assert.equal(
    place('[k](../docs/kind.md) [c](cni)`*.conflist`', 'deploy/README.md'),
    '[k](../kind.md) [c](cni)`*.conflist`',
  );
});

test('commands name examples by their whole path', () => {
  assert.equal(
    place('    install -m 644 deploy/crictl.yaml /etc/crictl.yaml\n`kubelet --config=deploy/kubelet/config.yaml`'),
    '    install -m 644 /usr/share/doc/berth/examples/crictl.yaml /etc/crictl.yaml\n' +
      '`kubelet --config=/usr/share/doc/berth/examples/kubelet/config.yaml`',
  );
});

test('no document of this checkout leads elsewhere when it is placed', () => {
  const top = fileURLToPath(new URL('../..', import.meta.url));
  const pages = new Set(globSync('*.{md,svg}', { cwd: join(top, 'docs') }));
  const sourceOf = (placed: string): string => {
    if (placed === 'README.md') return placed;
    return placed.startsWith('examples') ? placed.replace('examples', 'deploy') : `docs/${placed}`;
  };
  for (const path of [
    'README.md',
    'deploy/README.md',
    ...[...pages].filter((page) => page.endsWith('.md')).map((page) => `docs/${page}`),
  ]) {
    const placed = placeDocument(readFileSync(join(top, path), 'utf8'), path, { ...shelf, pages });
    const here = path === 'deploy/README.md' ? 'examples' : '';
    for (const [, target = ''] of placed.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^(?:[a-z]+:|#)/.test(target)) continue;
      const file = sourceOf(join(here, target.replace(/#.*/, '')));
      assert.ok(existsSync(join(top, file)), `${path}: ${target} would be ${file} in ${dirname(top)}`);
    }
    assert.doesNotMatch(placed, /(?:^|\s)deploy\/\w/, path);
  }
});
