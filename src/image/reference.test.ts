import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import fc from 'fast-check';

import { BerthError } from '../base/errors.ts';
import { formatReference, isLoopbackHost, isShortName, parseReference, recordedName } from './reference.ts';

const HEX = 'a'.repeat(64);

describe('parseReference', () => {
  const good: [string, string][] = [
    ['busybox', 'docker.io/library/busybox:latest'],
    ['busybox:1.36', 'docker.io/library/busybox:1.36'],
    ['team/app', 'docker.io/team/app:latest'],
    ['docker.io/busybox', 'docker.io/library/busybox:latest'],
    ['index.docker.io/library/busybox', 'docker.io/library/busybox:latest'],
    ['localhost/app', 'localhost/app:latest'],
    ['localhost:5000/app', 'localhost:5000/app:latest'],
    ['127.0.0.1:5000/a/b/c:v1', '127.0.0.1:5000/a/b/c:v1'],
    ['[::1]:5000/app', '[::1]:5000/app:latest'],
    ['quay.io/a/b_c__d-e--f.g', 'quay.io/a/b_c__d-e--f.g:latest'],
    [`quay.io/a@sha256:${HEX}`, `quay.io/a@sha256:${HEX}`],
    [`quay.io/a:v1@sha256:${HEX}`, `quay.io/a:v1@sha256:${HEX}`],
    [`quay.io/a@sha512:${HEX}${HEX}`, `quay.io/a@sha512:${HEX}${HEX}`],
  ];
  for (const [text, expected] of good) {
    it(`reads ${text.slice(0, 60)}`, () => assert.equal(formatReference(parseReference(text)), expected));
  }

  const bad: [string, RegExp][] = [
    ['', /is empty/],
    ['Busybox', /lower case/],
    ['quay.io/Team/app', /lower case/],
    ['a b', /not a repository name component/],
    ['quay.io/', /no repository name/],
    ['quay.io//app', /not a repository name component/],
    ['../etc/passwd', /not a registry host/],
    ['quay.io/../x', /not a repository name component/],
    ['app:', /not a tag/],
    [`app:${'x'.repeat(129)}`, /not a tag/],
    ['app@sha256:abc', /digest/],
    [`app@md5:${HEX}`, /digest/],
    [HEX, /image id/],
    ['host:99999/app', /out of range/],
    ['-host.io/app', /not a registry host/],
    [`quay.io/${'a'.repeat(250)}`, /longer than 255/],
    ['a'.repeat(5000), /too long/],
    ['app\n', /not a repository name component/],
  ];
  for (const [text, problem] of bad) {
    it(`refuses ${JSON.stringify(text.slice(0, 40))}`, () => {
      assert.throws(
        () => parseReference(text),
        (err: unknown) => {
          assert.ok(err instanceof BerthError && err.kind === 'invalid');
          assert.match(err.message, /^image\.image: /);
          assert.match(err.message, problem);
          return true;
        },
      );
    });
  }

  it('gives the same for its own result, and only throws invalid', () => {
    const piece = fc.oneof(
      fc.stringMatching(/^[a-z0-9]{1,8}$/),
      fc.constantFrom('/', ':', '@', '.', '-', '_', 'A', 'localhost', ':5000', `sha256:${HEX}`, '[::1]', 'docker.io'),
      fc.string({ maxLength: 3 }),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 10 }), (pieces) => {
        const text = pieces.join('');
        try {
          const parsed = parseReference(text);
          assert.deepEqual(parseReference(formatReference(parsed)), parsed);
          assert.ok(!isShortName(formatReference(parsed)));
          assert.deepEqual(parseReference(recordedName(parsed)).path, parsed.path);
        } catch (err) {
          if (!(err instanceof BerthError && err.kind === 'invalid')) throw err;
        }
      }),
      { numRuns: 1000 },
    );
  });
});

describe('isLoopbackHost', () => {
  it('knows what only this machine answers for', () => {
    for (const host of ['localhost', 'localhost:5000', '127.0.0.1', '127.1.2.3:80', '[::1]:5000']) {
      assert.ok(isLoopbackHost(host), host);
    }
    for (const host of ['localhost.evil.org', '127.0.0.1.evil.org', '128.0.0.1', 'evil:127']) {
      assert.ok(!isLoopbackHost(host), host);
    }
  });
});
