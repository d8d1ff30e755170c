/** Shows Berth at work: its own network and folders, a demo image, a pod with a web server, and the page it serves. */

import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { buildBusyboxLayout } from '../../test/fakes/images.ts';
import { berth, isUp, logTail, startBerthd } from './berthd.ts';
import {
  ADDRESSES,
  BRIDGE,
  CONFIG,
  ENDPOINT,
  FORWARDING,
  FORWARDING_BEFORE,
  IMAGE,
  LOG,
  NETWORK,
  NETWORKS,
  POD,
  ROOT,
  STATE,
} from './places.ts';
import { heading, step } from './say.ts';

const PAGE = 'Hello from a pod that Berth runs.\n';

/** The first of some ranges that no route of this machine touches. */
function freeSubnet(): string {
  const routes = execFileSync('ip', ['-4', 'route', 'show', 'table', 'all'], { encoding: 'utf8' });
  const free = ['10.244.77', '10.213.77', '172.31.77', '192.168.213'].find((prefix) => !routes.includes(`${prefix}.`));
  if (free === undefined) throw new Error('every range that the demo knows is in use on this machine');
  return `${free}.0/24`;
}

function writeConfiguration(): string {
  // Pods of an earlier demo may still run on it.
  if (existsSync(CONFIG)) return 'as it was';
  const subnet = freeSubnet();
  mkdirSync(NETWORKS, { recursive: true, mode: 0o700 });
  if (!existsSync(FORWARDING_BEFORE)) writeFileSync(FORWARDING_BEFORE, readFileSync(FORWARDING, 'utf8'));
  const bridge = {
    type: 'bridge',
    bridge: BRIDGE,
    isGateway: true,
    ipMasq: true,
    ipam: { type: 'host-local', dataDir: ADDRESSES, ranges: [[{ subnet }]], routes: [{ dst: '0.0.0.0/0' }] },
  };
  const portmap = { type: 'portmap', capabilities: { portMappings: true } };
  const list = { cniVersion: '1.0.0', name: NETWORK, plugins: [bridge, portmap] };
  writeFileSync(join(NETWORKS, '10-demo.conflist'), `${JSON.stringify(list, undefined, 2)}\n`);
  const lines = [
    `root = "${ROOT}"`,
    `state = "${STATE}"`,
    `listen = "${ENDPOINT}"`,
    '[cni]',
    `conf_dir = "${NETWORKS}"`,
    '[log]',
    'format = "json"',
  ];
  writeFileSync(CONFIG, `${lines.join('\n')}\n`);
  return subnet;
}

async function loadImage(): Promise<string> {
  const layout = join(ROOT, 'layout');
  try {
    await buildBusyboxLayout(layout, {
      tag: IMAGE,
      files: { 'www/index.html': PAGE },
      config: { Cmd: ['httpd', '-f', '-v', '-h', '/www', '-p', '80'] },
    });
    await berth('image', 'load', layout);
  } finally {
    rmSync(layout, { recursive: true, force: true });
  }
  return IMAGE;
}

async function fetchPage(ip: string): Promise<string> {
  const giveUpAt = Date.now() + 10_000;
  for (;;) {
    try {
      return await (await fetch(`http://${ip}/`, { signal: AbortSignal.timeout(2_000) })).text();
    } catch (err) {
      if (Date.now() > giveUpAt) throw err;
      await new Promise(setImmediate);
    }
  }
}

async function runDemo(): Promise<void> {
  heading('Berth: a Kubernetes container runtime');
  await step(
    'configure: own network, own folders',
    writeConfiguration,
    (subnet) => `bridge ${BRIDGE}, ${subnet}, ${ROOT}, ${STATE}`,
  );
  await step('start berthd', startBerthd, () => ENDPOINT);
  await step("make an image from Debian's busybox and load it", loadImage, (image) => image);
  const adopted = JSON.parse(await berth('--json', 'pods')) as { ip: string }[];
  if (adopted.length > 0) {
    console.log(`\n${await berth('pods')}`);
    showState(adopted[0]?.ip ?? '');
    return;
  }
  const pod = await step(
    'run a pod with a web server',
    async () =>
      JSON.parse(await berth('--json', 'run', '--name', POD, IMAGE)) as { pod: string; container: string; ip: string },
    ({ ip }) => `at ${ip}`,
  );
  const page = await step(
    'fetch its page from the host',
    () => fetchPage(pod.ip),
    (text) => JSON.stringify(text),
  );
  if (page !== PAGE) throw new Error(`the page is ${JSON.stringify(page)}, not ${JSON.stringify(PAGE)}`);
  heading('Where the time of the pod went');
  for (const id of [pod.pod, pod.container]) {
    const steps = JSON.parse(await berth('--json', 'steps', id)) as {
      pipeline: string;
      name: string;
      durationMs: number;
    }[];
    for (const { pipeline, name, durationMs } of steps) {
      console.log(`  ${durationMs.toFixed(1).padStart(6)} ms  ${pipeline.padEnd(16)} ${name}`);
    }
  }
  showState(pod.ip);
}

function showState(ip: string): void {
  heading('What to try next');
  console.log(`  export CONTAINER_RUNTIME_ENDPOINT=${ENDPOINT}   # for berth and crictl alike
  curl http://${ip || '<ip of the pod>'}/
  bin/berth pods
  bin/berth ps
  bin/berth logs ${POD}
  bin/berth exec ${POD} -- ps
  bin/berth run --rm ${IMAGE} -- sh -c 'id; ip addr'   # a pod of your own
  crictl pods      # where crictl is installed
  npm run down     # takes all of it away
The log of berthd is ${LOG}.`);
}

try {
  if (await isUp()) {
    console.log('The demo is up already.\n');
    console.log(await berth('pods'));
    const pods = JSON.parse(await berth('--json', 'pods')) as { ip: string }[];
    showState(pods[0]?.ip ?? '');
  } else {
    await runDemo();
  }
} catch (err) {
  console.error(`\nup: ${err instanceof Error ? err.message : String(err)}`);
  console.error(`\nThe end of ${LOG}:\n${logTail()}\n\nnpm run down takes away what was made.`);
  process.exitCode = 1;
}
