import assert from 'node:assert/strict';
import { test } from 'node:test';

import fc from 'fast-check';

import { RunPodSandboxRequest, RuntimeServiceService } from '../../proto/gen/cri/api.ts';
import { BadRequest, readingCarefully } from './request-bytes.ts';

const { runPodSandbox } = readingCarefully(RuntimeServiceService);

function read(bytes: Uint8Array): unknown {
  return runPodSandbox?.requestDeserialize(Buffer.from(bytes));
}

function problemOf(bytes: Uint8Array): string {
  const request = read(bytes);
  assert.ok(request instanceof BadRequest);
  assert.equal(request.error.kind, 'invalid');
  return request.error.message;
}

/** A request with these bytes instead of as many `@`. */
function withBytes(bytes: readonly number[], fields: Parameters<typeof RunPodSandboxRequest.create>[0]): Buffer {
  const right = Buffer.from(RunPodSandboxRequest.encode(RunPodSandboxRequest.create(fields)).finish());
  const at = right.indexOf('@'.repeat(bytes.length));
  assert.notEqual(at, -1);
  right.set(bytes, at);
  return right;
}

test('text of all kinds is read as it was sent', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'grapheme' }), (value, key) => {
      const request = RunPodSandboxRequest.create({
        config: { hostname: value, labels: { [`k${key}`]: value }, logDirectory: '\ufffd' },
      });
      assert.deepEqual(read(RunPodSandboxRequest.encode(request).finish()), request);
    }),
  );
});

test('text that is not UTF-8 is refused by the name of its field', () => {
  assert.match(problemOf(withBytes([0xff], { runtimeHandler: 'a@' })), /^runtime_handler: is not UTF-8$/);
  const config = { logDirectory: '/\ufffd/x', hostname: 'a@@' };
  assert.match(problemOf(withBytes([0xc3, 0x28], { config })), /^config\.hostname: /);
  assert.match(
    problemOf(withBytes([0xed, 0xa0, 0x80], { config: { dnsConfig: { searches: ['\ufffd', '@@@'] } } })),
    /^config\.dns_config\.searches\[1\]: /,
  );
  assert.match(problemOf(withBytes([0xff], { config: { labels: { 'a@': 'b' } } })), /^config\.labels\./);
});

test('bytes that are no message are the mistake of whoever sent them', () => {
  assert.match(problemOf(Buffer.from([0x0a, 0x05, 0x01])), /^request: /);
  assert.match(problemOf(Buffer.alloc(200_000, 0x0b)), /^request: /);
  fc.assert(
    fc.property(fc.uint8Array(), (bytes) => {
      const request = read(bytes);
      assert.ok(request instanceof BadRequest || RunPodSandboxRequest.encode(request as RunPodSandboxRequest).finish());
    }),
  );
});
