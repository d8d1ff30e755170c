import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { isKind } from '../base/errors.ts';
import { optionsFit, overlayOptions } from './overlay-options.ts';

describe('overlayOptions', () => {
  it('escapes what ends a layer or an option', () => {
    const upper = { upperDir: '/u,1', workDir: '/w:2' };
    const text = overlayOptions({ lowers: ['/a:b', '/c\\d'], upper, flags: ['index=off'] });
    assert.equal(text, 'lowerdir=/a\\:b:/c\\\\d,upperdir=/u\\,1,workdir=/w\\:2,index=off');
    assert.equal(overlayOptions({ lowers: ['/a', '/b'], flags: [] }), 'lowerdir=/a:/b');
  });

  it('fits into a page, or says so', () => {
    const fill = (length: number) => ({ lowers: ['x'.repeat(length - 'lowerdir='.length)], flags: [] });
    assert.equal(overlayOptions(fill(4095)).length, 4095);
    assert.ok(!optionsFit(fill(4096)));
    assert.throws(
      () => overlayOptions(fill(4096)),
      (err) => isKind(err, 'precondition'),
    );
  });
});
