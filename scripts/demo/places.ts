/** Where the demo keeps its things: nothing of another runtime's, and nothing of a Berth that is installed. */

import { fileURLToPath } from 'node:url';

export const ROOT = '/var/lib/berth-demo';
export const STATE = '/run/berth-demo';
export const SOCKET = `${STATE}/berth.sock`;
export const ENDPOINT = `unix://${SOCKET}`;
export const CONFIG = `${ROOT}/berth.toml`;
export const NETWORKS = `${ROOT}/net.d`;
/** Address reservations of the host-local plugin. */
export const ADDRESSES = `${ROOT}/addresses`;
export const LOG = `${ROOT}/berthd.log`;
export const BRIDGE = 'berth-demo0';
export const NETWORK = 'berth-demo';
export const IMAGE = 'berth.example/web:demo';
export const POD = 'web';
/** Whether the host forwarded packets before; the bridge plugin turns it on. */
export const FORWARDING_BEFORE = `${ROOT}/ip_forward.before`;
export const FORWARDING = '/proc/sys/net/ipv4/ip_forward';

const top = fileURLToPath(new URL('../..', import.meta.url));
export const BERTHD = `${top}bin/berthd`;
export const BERTH = `${top}bin/berth`;
