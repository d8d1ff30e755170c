import { existsSync, mkdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { readLinks } from './machine-state.ts';

/** A bridge's name and its addresses that no other test on this machine uses meanwhile. */
export interface TestNetwork {
  readonly bridge: string;
  /** As CIDR. */
  readonly subnet: string;
  /** True for an address of the subnet. */
  owns(ip: string): boolean;
  /** Lets others have it. The bridge must be gone. */
  free(): void;
}

const CLAIMS = '/run/berth-test-networks';

/** Takes the first network that is free; one whose owner died without freeing it counts as free. */
export function takeNetwork(): TestNetwork {
  for (let number = 1; number < 255; number++) {
    const claim = join(CLAIMS, String(number));
    const bridge = `berthtest${number}`;
    if (readLinks().includes(bridge) || !takeClaim(claim)) continue;
    const prefix = `10.212.${number}.`;
    return {
      bridge,
      subnet: `${prefix}0/24`,
      owns: (ip) => ip.startsWith(prefix),
      free: () => freeClaim(claim),
    };
  }
  throw new Error(`all test networks are taken: see ${CLAIMS}`);
}

/** A CNI configuration list with a bridge of that network, which keeps its addresses in `addresses`, and with host ports. */
export function bridgeList({ bridge, subnet }: TestNetwork, addresses: string): object {
  const plugin = {
    type: 'bridge',
    bridge,
    isGateway: true,
    ipMasq: true,
    ipam: {
      type: 'host-local',
      dataDir: addresses,
      ranges: [[{ subnet }]],
      routes: [{ dst: '0.0.0.0/0' }],
    },
  };
  const portmap = { type: 'portmap', capabilities: { portMappings: true } };
  return { cniVersion: '1.0.0', name: 'berth-test', plugins: [plugin, portmap] };
}

function takeClaim(claim: string): boolean {
  try {
    if (!existsSync(`/proc/${readFileSync(claim, 'utf8')}`)) rmSync(claim);
  } catch {
    // Nobody has it.
  }
  try {
    mkdirSync(CLAIMS, { recursive: true });
    writeFileSync(claim, String(process.pid), { flag: 'wx' });
    return true;
  } catch {
    return false;
  }
}

function freeClaim(claim: string): void {
  rmSync(claim);
  try {
    rmdirSync(CLAIMS);
  } catch {
    // Others are in it.
  }
}
