import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import fc from 'fast-check';

import { BerthError, isKind } from '../base/errors.ts';
import { type ArtifactFile, artifactFileId, artifactFiles } from './artifact-files.ts';
import type { Digest } from './digest.ts';
import { OCI_EMPTY } from './media-types.ts';

const TITLE = 'org.opencontainers.image.title';
const digest = (digit: string): Digest => `sha256:${digit.repeat(64)}` as Digest;
const layer = (annotations: Readonly<Record<string, string>>, digit = 'a', mediaType = 'text/plain') => ({
  mediaType,
  digest: digest(digit),
  size: 1,
  annotations,
});
const named = (...names: string[]): ArtifactFile[] =>
  artifactFiles(
    names.map((name) => layer({ [TITLE]: name })),
    'it',
  );

describe('files of an artifact', () => {
  it('have the names that their annotations say, or that of their digest', () => {
    const files = artifactFiles(
      [
        layer({ [TITLE]: './a//b.txt' }),
        layer({ 'org.cncf.model.filepath': 'model.safetensors' }),
        layer({ [TITLE]: '' }, 'b'),
        layer({}, 'c', OCI_EMPTY),
        layer({ [TITLE]: 'docs/', 'io.deis.oras.content.unpack': 'true' }),
      ],
      'it',
    );
    assert.deepEqual(
      files.map(({ name, isFolder }) => [name, isFolder]),
      [
        ['a/b.txt', false],
        ['model.safetensors', false],
        [`sha256-${'b'.repeat(64)}`, false],
        ['docs', true],
      ],
    );
  });

  const refused: [string, string[], RegExp][] = [
    ['a name that climbs', ['a/../../b'], /its file "a\/\.\.\/\.\.\/b" has "\.\."/],
    ['an absolute name', ['/etc/passwd'], /absolute/],
    ['the artifact itself', ['.'], /has no name/],
    ['a NUL byte', ['a\0b'], /NUL/],
    ['a part that is too long', ['ä'.repeat(128)], /longer than 255/],
    ['a name that is too long', ['a/'.repeat(600)], /longer than 1024/],
    ['two of one name', ['a/b', 'a//b'], /two files with the name "a\/b"/],
    ['one below another', ['a/b/c', 'x', 'a/b'], /in the place of each other: "a\/b" and "a\/b\/c"/],
    ['too many', Array.from({ length: 121 }, (_, index) => `f${index}`), /121 files, and 120 are the most/],
  ];
  for (const [what, names, words] of refused) {
    it(`refuse ${what}`, () => {
      assert.throws(
        () => named(...names),
        (err: unknown) => isKind(err, 'precondition') && words.test((err as Error).message),
      );
    });
  }

  it('never lead out, whatever they are called', () => {
    fc.assert(
      fc.property(fc.array(fc.string({ unit: 'binary' })), (parts) => {
        let name: string;
        try {
          name = named(parts.join('/'))[0]?.name ?? '';
        } catch (err) {
          if (err instanceof BerthError && err.kind === 'precondition') return;
          throw err;
        }
        for (const component of name.split('/')) assert.ok(!['', '.', '..'].includes(component), name);
      }),
    );
  });

  it('are the same where content, name and kind are', () => {
    const [one] = named('a');
    assert.ok(one);
    assert.equal(artifactFileId(one), artifactFileId({ ...one }));
    for (const other of [{ name: 'b' }, { digest: digest('b') }, { isFolder: true }])
      assert.notEqual(artifactFileId(one), artifactFileId({ ...one, ...other }));
  });
});
