import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { specInput } from '../../test/fakes/spec-input.ts';
import { processJson, specJson } from './oci-json.ts';
import type { OciProcess, OciSpec } from './oci-spec.ts';
import { buildSpec } from './spec.ts';

describe('the text of a specification', () => {
  it('is plain JSON', () => {
    const spec = buildSpec(specInput({}));
    assert.equal(specJson(spec), JSON.stringify(spec));
  });

  it('has no limit as the number that the kernel knows, also when it was read and is written again', () => {
    const input = specInput({ ulimits: [{ type: 'RLIMIT_CORE', soft: 7, hard: Number.POSITIVE_INFINITY }] });
    const text = specJson(buildSpec(input));
    const written = /\{"type":"RLIMIT_CORE","soft":7,"hard":18446744073709551615\}/;
    assert.match(text, written);
    const read = JSON.parse(text) as OciSpec;
    assert.match(specJson(read), written);
    const process: OciProcess = read.process;
    assert.match(processJson(process), written);
  });
});
