import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import fc from 'fast-check';

import { BerthError } from '../base/errors.ts';
import { parsePolicy, type Requirement, requirementsFor, type SignedIdentity, scopesOf } from './policy.ts';
import { parseReference } from './reference.ts';
import { checkPayload } from './signed-payload.ts';

const DIGEST = `sha256:${'a'.repeat(64)}`;

const parse = (policy: object): ReturnType<typeof parsePolicy> => parsePolicy(JSON.stringify(policy), '/p.json');

function ruleOf(policy: object, name: string): [string, readonly Requirement[]] {
  const { scope, requirements } = requirementsFor(parse(policy), parseReference(name));
  return [scope, requirements];
}

const accept = [{ type: 'insecureAcceptAnything' }];
const reject = [{ type: 'reject' }];

describe('policy.json', () => {
  it('takes the narrowest scope', () => {
    const policy = {
      default: reject,
      transports: {
        docker: {
          'docker.io/library/busybox:v1': reject,
          'docker.io/library': accept,
          'a.example.com:5000': accept,
          '*.example.com': accept,
          '*.com': reject,
        },
        'docker-daemon': { '': accept },
      },
    };
    const scope = (name: string): string => ruleOf(policy, name)[0];
    assert.equal(scope('busybox:v1'), 'transports.docker."docker.io/library/busybox:v1"');
    assert.equal(scope('busybox:v2'), 'transports.docker."docker.io/library"');
    assert.equal(scope(`busybox:v1@${DIGEST}`), 'transports.docker."docker.io/library"');
    assert.equal(scope('docker.io/librarybooks/x'), 'default');
    assert.equal(scope('a.example.com:5000/x/y'), 'transports.docker."a.example.com:5000"');
    assert.equal(scope('b.a.example.com/x'), 'transports.docker."*.example.com"');
    assert.equal(scope('example.com/x'), 'transports.docker."*.com"');
    assert.equal(scope('quay.io/x'), 'default');
    const whole = { ...policy, transports: { docker: { '': accept } } };
    assert.deepEqual(ruleOf(whole, 'quay.io/x'), ['transports.docker', accept]);
    assert.deepEqual(scopesOf(parseReference('a.b.org/x/y:1')), [
      'a.b.org/x/y:1',
      'a.b.org/x/y',
      'a.b.org/x',
      'a.b.org',
      '*.b.org',
      '*.org',
      '',
    ]);
  });

  it('refuses what it does not understand, and what says nothing', () => {
    for (const policy of [
      {},
      { default: [] },
      { default: accept, unknown: 1 },
      { default: [{ type: 'insecureAcceptAnything', more: 1 }] },
      { default: [{ type: 'else' }] },
      { default: [{ type: 'signedBy', keyType: 'GPGKeys' }] },
      { default: [{ type: 'signedBy', keyType: 'GPGKeys', keyPath: '/a', keyData: 'b' }] },
      { default: [{ type: 'sigstoreSigned', keyPath: '/a', keyPaths: ['/b'] }] },
      { default: [{ type: 'sigstoreSigned', keyPath: '/a', signedIdentity: { type: 'x' } }] },
    ]) {
      assert.throws(() => parse(policy), /^BerthError: \/p\.json: /, JSON.stringify(policy));
    }
    assert.throws(() => parsePolicy('', '/p.json'), /not JSON/);
    fc.assert(
      fc.property(fc.json(), (json) => {
        try {
          parsePolicy(json, 'p');
        } catch (err) {
          assert.ok(err instanceof BerthError);
        }
      }),
    );
  });

  it('keeps what it cannot verify as a requirement that nothing fulfils', () => {
    const keys = { keyType: 'X509Certificates', keyPath: '/a' };
    const all = [
      { type: 'signedBy', ...keys },
      { type: 'sigstoreSigned', fulcio: { caPath: '/a' } },
      { type: 'signedBaseLayer', baseLayerIdentity: {} },
    ];
    assert.deepEqual(
      parse({ default: all }).default.map(({ type }) => type),
      ['unsupported', 'unsupported', 'unsupported'],
    );
  });
});

describe('signedIdentity', () => {
  const allows = (identity: SignedIdentity, signed: string, asked: string): boolean => {
    const wanted = { manifests: [DIGEST], reference: parseReference(asked), identity };
    try {
      checkPayload({ manifestDigest: DIGEST, dockerReference: signed }, wanted);
      return true;
    } catch {
      return false;
    }
  };

  it('compares names as the manual says', () => {
    const byDigest = `a.org/x@${DIGEST}`;
    const table: [SignedIdentity, string, string, boolean][] = [
      [{ type: 'matchExact' }, 'a.org/x:1', 'a.org/x:1', true],
      [{ type: 'matchExact' }, 'a.org/x:1', 'a.org/x:2', false],
      [{ type: 'matchExact' }, 'a.org/x', 'a.org/x:latest', false],
      [{ type: 'matchRepoDigestOrExact' }, 'a.org/x:1', 'a.org/x:2', false],
      [{ type: 'matchRepoDigestOrExact' }, 'a.org/x:1', byDigest, true],
      [{ type: 'matchRepoDigestOrExact' }, 'a.org/y:1', byDigest, false],
      [{ type: 'matchRepoDigestOrExact' }, 'busybox:1', 'docker.io/library/busybox:1', true],
      [{ type: 'matchRepository' }, 'a.org/x', 'a.org/x:2', true],
      [{ type: 'matchRepository' }, 'a.org/xx', 'a.org/x:2', false],
      [{ type: 'matchRepository' }, '', 'a.org/x:2', false],
      [{ type: 'exactReference', dockerReference: 'b.org/x:1' }, 'b.org/x:1', 'a.org/y:3', true],
      [{ type: 'exactReference', dockerReference: 'b.org/x:1' }, 'b.org/x:2', 'b.org/x:2', false],
      [{ type: 'exactRepository', dockerRepository: 'b.org/x' }, 'b.org/x:2', 'a.org/y:3', true],
      [{ type: 'exactRepository', dockerRepository: 'b.org/x' }, 'b.org/y:2', 'b.org/y:2', false],
      [{ type: 'remapIdentity', prefix: 'a.org', signedPrefix: 'b.org/z' }, 'b.org/z/x:1', 'a.org/x:1', true],
      [{ type: 'remapIdentity', prefix: 'a.org', signedPrefix: 'b.org/z' }, 'a.org/x:1', 'a.org/x:1', false],
      [{ type: 'remapIdentity', prefix: 'a.or', signedPrefix: 'b.org/z' }, 'a.org/x:1', 'a.org/x:1', true],
    ];
    for (const [identity, signed, asked, expected] of table) {
      assert.equal(allows(identity, signed, asked), expected, JSON.stringify([identity, signed, asked]));
    }
  });
});
