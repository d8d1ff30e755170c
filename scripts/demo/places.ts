/** Where the demo keeps its things: nothing of another runtime's, and nothing of a Berth that is installed. */

import { fileURLToPath } from 'node:url';

/** Everything of the demo bears this name. The demo's own test takes another, to leave a person's demo alone. */
const NAME = process.env['BERTH_DEMO'] ?? 'berth-demo';
// The kernel allows 15 characters for the name of the bridge.
if (!/^[a-z][a-z-]{0,13}$/.test(NAME)) {
  process.stderr.write(`BERTH_DEMO: ${NAME} is not a name: it may have up to 14 lower-case letters and hyphens\n`);
  process.exit(2);
}

export const ROOT = `/var/lib/${NAME}`;
export const STATE = `/run/${NAME}`;
export const SOCKET = `${STATE}/berth.sock`;
export const ENDPOINT = `unix://${SOCKET}`;
export const CONFIG = `${ROOT}/berth.toml`;
export const NETWORKS = `${ROOT}/net.d`;
/** Address reservations of the host-local plugin. */
export const ADDRESSES = `${ROOT}/addresses`;
export const LOG = `${ROOT}/berthd.log`;
export const BRIDGE = `${NAME}0`;
export const NETWORK = NAME;
export const IMAGE = 'berth.example/web:demo';
export const POD = 'web';
/** How the host was before: see host.ts. */
export const HOST_BEFORE = `${ROOT}/host-before.json`;
/** The log folders of the demo's pods: see leftovers.ts. */
export const POD_LOG_NOTES = `${ROOT}/pod-logs`;
/** Where `berth run` puts the logs of pods. */
export const POD_LOGS = '/var/log/berth';

const top = fileURLToPath(new URL('../..', import.meta.url));
export const BERTHD = `${top}bin/berthd`;
export const BERTH = `${top}bin/berth`;
