import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { imageKey, mirrorsOf, packagesIn } from './base-image.ts';

test("packages come from this machine's own mirrors, and from Debian's where it has none", () => {
  const targets = [
    'Docker\tDocker CE\thttps://mirror.example/docker',
    'Debian\tDebian\thttp://mirror.example/debian/',
    'Debian\tDebian\thttp://other.example/debian/',
    'Debian\tDebian-Security\thttp://mirror.example/debian-security/',
  ];
  const own = { main: 'http://mirror.example/debian', security: 'http://mirror.example/debian-security' };
  assert.deepEqual(mirrorsOf(targets.join('\n')), own);
  const debian = { main: 'http://deb.debian.org/debian', security: 'http://deb.debian.org/debian-security' };
  assert.deepEqual(mirrorsOf('Ubuntu\tUbuntu\thttp://mirror.example/ubuntu/\n'), debian);
  assert.deepEqual(mirrorsOf(''), debian);
});

test('the lists of packages are those that Berth itself installs from', () => {
  const script = readFileSync(new URL('../../scripts/debian-packages.sh', import.meta.url), 'utf8');
  const packages = packagesIn(script, ['RUN', 'TEST']);
  assert.ok(packages.includes('conmon') && packages.includes('docker-registry'));
  assert.throws(() => packagesIn(script, ['NONE']), /has no DEBIAN_NONE/);
});

test('another ingredient is another image, and words do not run into each other', () => {
  assert.equal(imageKey(['a', 'b']), imageKey(['a', 'b']));
  assert.notEqual(imageKey(['a', 'b']), imageKey(['ab', '']));
  assert.notEqual(imageKey(['a', 'b']), imageKey(['b', 'a']));
  assert.match(imageKey([]), /^[0-9a-f]{16}$/);
});
