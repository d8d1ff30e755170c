import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';

import { isSameHostPort } from './host-ports.ts';
import type { PortMapping } from './sandbox-spec.ts';

const mapping = (hostPort: number, hostIp = '', protocol: PortMapping['protocol'] = 'tcp'): PortMapping => ({
  hostPort,
  hostIp,
  protocol,
  containerPort: 80,
});

suite('two mappings are for the same port of the host', () => {
  const same: [PortMapping, PortMapping, boolean][] = [
    [mapping(80), mapping(80), true],
    [mapping(80), mapping(81), false],
    [mapping(0), mapping(0), false],
    [mapping(80), mapping(80, '', 'udp'), false],
    [mapping(80), mapping(80, '10.0.0.1'), true],
    [mapping(80), mapping(80, 'fd00::1'), true],
    [mapping(80, '10.0.0.1'), mapping(80, '10.0.0.1'), true],
    [mapping(80, '10.0.0.1'), mapping(80, '10.0.0.2'), false],
    [mapping(80, '0.0.0.0'), mapping(80, '10.0.0.2'), true],
    [mapping(80, '0.0.0.0'), mapping(80, 'fd00::1'), false],
    [mapping(80, '::'), mapping(80, 'fd00::1'), true],
    [mapping(80, '::'), mapping(80, '10.0.0.2'), false],
  ];
  for (const [one, other, expected] of same) {
    const shown = ({ hostIp, hostPort, protocol }: PortMapping): string => `${hostIp}:${hostPort}/${protocol}`;
    test(`${shown(one)} and ${shown(other)}: ${expected}`, () => {
      assert.equal(isSameHostPort(one, other), expected);
      assert.equal(isSameHostPort(other, one), expected);
    });
  }
});
