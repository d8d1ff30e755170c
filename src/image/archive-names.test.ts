import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import fc from 'fast-check';

import { isKind } from '../base/errors.ts';
import { type NamesInArchive, nameFromAnnotation, nameImages } from './archive-names.ts';
import { formatReference } from './reference.ts';

const named = (path: string, images: readonly NamesInArchive[], wanted = ''): string[][] =>
  nameImages(path, images, wanted).map((references) => references.map(formatReference));
const tag = (...tags: string[]): NamesInArchive => ({ references: [], tags });
const names = (...references: string[]): NamesInArchive => ({ references, tags: [] });

describe('nameFromAnnotation', () => {
  it('takes a word for a tag, anything more for a name', () => {
    for (const word of ['v1', 'latest', '1.0_x', 'busybox']) assert.deepEqual(nameFromAnnotation(word), tag(word));
    for (const name of ['busybox:1', 'reg.io/x', 'a/b:c', `x@sha256:${'0'.repeat(64)}`])
      assert.deepEqual(nameFromAnnotation(name), names(name));
  });
});

describe('nameImages', () => {
  it('has no file to call by what came by a pipe', () => {
    assert.deepEqual(named('/proc/12/fd/20', [tag('v1')]), [['localhost/image:v1']]);
  });

  it('keeps whole names, and calls mere tags after the file', () => {
    assert.deepEqual(named('/x/web', [names('app:v1'), tag('v1', 'v2'), tag()]), [
      ['docker.io/library/app:v1'],
      ['localhost/web:v1', 'localhost/web:v2'],
      [],
    ]);
  });

  it('makes a repository name of any file name', () => {
    for (const [path, name] of [
      ['/x/web.tar', 'web'],
      ['/x/web-1.2.tar.gz', 'web-1.2'],
      ['/x/Web App (1).TGZ', 'web-app-1'],
      ['/x/.hidden', 'hidden'],
      ['/x/..', 'image'],
      ['/x/ümlaut__x', 'mlaut-x'],
    ] as const)
      assert.deepEqual(named(path, [tag('t')]), [[`localhost/${name}:t`]], path);
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 300 }), (file) => {
        assert.match(named(`/x/${file.replaceAll('/', '')}`, [tag('t')])[0]?.[0] ?? '', /^localhost\/.+:t$/);
      }),
    );
  });

  it('puts another name in place of those in the archive, with their tags unless it has one', () => {
    const images = [names('app:v1', 'app:v2'), tag('v3')];
    assert.deepEqual(named('/x', images, 'reg.io/web'), [['reg.io/web:v1', 'reg.io/web:v2'], ['reg.io/web:v3']]);
    assert.deepEqual(named('/x', [names('app:v1', 'app:v2')], 'web:new'), [['docker.io/library/web:new']]);
    assert.deepEqual(named('/x', [tag()], 'web'), [['docker.io/library/web:latest']]);
    assert.deepEqual(named('/x', [names('a:v1', 'b:v1')], 'localhost:5000/web'), [['localhost:5000/web:v1']]);
  });

  it('refuses names that are none, or that several images would get', () => {
    for (const [images, wanted, words] of [
      [[tag('v1')], 'A', /^name: "A" is not an image reference/],
      [[tag('v1')], `web@sha256:${'0'.repeat(64)}`, /^name: .*must not have a digest/],
      [[tag('v1'), tag('v2')], 'web:v1', /^name: the file has 2 images, and several would be called web:v1/],
      [[tag('v1'), names('x:v1')], 'web', /^name: the file has 2 images/],
      [[tag('a b')], '', /^path: "localhost\/file:a b" is not an image reference/],
      [[names('A:1')], '', /^path: "A:1" is not/],
    ] as const)
      assert.throws(
        () => named('/x/file', images, wanted),
        (err) => isKind(err, 'invalid') && words.test(String(err).replace('BerthError: ', '')),
        wanted,
      );
  });
});
