/** Shows Berth at work: its own network and folders, a demo image, a pod with a web server, and the page it serves. */

import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { buildBusyboxLayout } from '../../test/fakes/images.ts';
import { berth, isUp, logTail, startBerthd } from './berthd.ts';
import { findPort, findSubnet, noteHost } from './host.ts';
import { notePodLogs } from './leftovers.ts';
import { ADDRESSES, BRIDGE, CONFIG, ENDPOINT, IMAGE, LOG, NETWORK, NETWORKS, POD, ROOT, STATE } from './places.ts';
import { heading, message, step } from './say.ts';

const PAGE = 'Hello from a pod that Berth runs.\n';
const PORT_FILE = join(ROOT, 'host-port');
const FETCH_TIMEOUT_MS = 10_000;

interface DemoPod {
  readonly id: string;
  readonly containerId: string;
  readonly ip: string;
}

interface TimedStep {
  readonly pipeline: string;
  readonly name: string;
  readonly durationMs: number;
}

async function configure(): Promise<string> {
  const subnet = findSubnet();
  mkdirSync(NETWORKS, { recursive: true, mode: 0o700 });
  noteHost();
  writeFileSync(PORT_FILE, `${await findPort()}`);
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
    'format = "text"',
  ];
  // Last, because what has a configuration counts as configured.
  writeFileSync(CONFIG, `${lines.join('\n')}\n`);
  return `bridge ${BRIDGE} with ${subnet}, ${ROOT}, ${STATE}`;
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

/** The pod of an earlier `up`, if it still runs; what does not run of it is removed. */
async function findPod(): Promise<DemoPod | undefined> {
  const pods = JSON.parse(await berth('--json', 'pods')) as { id: string; ip: string; metadata?: { name: string } }[];
  const containers = JSON.parse(await berth('--json', 'ps')) as { id: string; podSandboxId: string }[];
  for (const { id, ip } of pods.filter(({ metadata }) => metadata?.name === POD)) {
    const container = containers.find(({ podSandboxId }) => podSandboxId === id);
    if (container) return { id, containerId: container.id, ip };
    await berth('rm', id);
  }
  return undefined;
}

async function runPod(): Promise<DemoPod> {
  const ports = `${hostPort()}:80`;
  const said = await berth('--json', 'run', '--name', POD, '--publish', ports, IMAGE);
  const { pod, container, ip } = JSON.parse(said) as { pod: string; container: string; ip: string };
  return { id: pod, containerId: container, ip };
}

function hostPort(): string {
  return readFileSync(PORT_FILE, 'utf8');
}

/** Fetches a page, again and again while the web server is still starting. Throws when it is not the demo's. */
async function fetchPage(url: string): Promise<string> {
  const giveUpAt = Date.now() + FETCH_TIMEOUT_MS;
  for (;;) {
    try {
      const page = await (await fetch(url, { signal: AbortSignal.timeout(2_000) })).text();
      if (page !== PAGE) throw new Error(`it serves ${JSON.stringify(page)}, not ${JSON.stringify(PAGE)}`);
      return page;
    } catch (err) {
      if (Date.now() > giveUpAt) throw new Error(`${url} cannot be fetched: ${message(err)}`, { cause: err });
      await delay(20);
    }
  }
}

async function showSteps(pod: DemoPod): Promise<void> {
  heading('Where the time of the pod went (berth steps)');
  const steps = JSON.parse(await berth('--json', 'steps', pod.id)) as TimedStep[];
  for (const [pipeline, own] of Map.groupBy(steps, (timed) => timed.pipeline)) {
    const sumMs = own.reduce((sum, { durationMs }) => sum + durationMs, 0);
    console.log(`  ${sumMs.toFixed(1).padStart(6)} ms  ${pipeline}`);
    for (const { name, durationMs } of own) console.log(`     ${durationMs.toFixed(1).padStart(6)} ms  ${name}`);
  }
}

function showCommands(pod: DemoPod): void {
  const commands: readonly (readonly [command: string, why: string])[] = [
    [`export CONTAINER_RUNTIME_ENDPOINT=${ENDPOINT}`, 'for berth and crictl alike'],
    [`curl http://${pod.ip}/`, "the page, at the pod's address"],
    [`curl http://127.0.0.1:${hostPort()}/`, 'and at a port of this host'],
    ['bin/berth pods', 'also: ps, images, status'],
    [`bin/berth logs ${POD}`, ''],
    [`bin/berth exec ${POD} -- ps`, ''],
    [`bin/berth run --rm ${IMAGE} -- hostname`, 'a pod of your own, removed when it ends'],
    ['crictl pods', 'where crictl is installed'],
    ['npm run down', 'takes all of it away'],
  ];
  heading('What to try next');
  for (const [command, why] of commands) {
    console.log(`  ${why === '' ? command : `${command.padEnd(70)} # ${why}`}`);
  }
  console.log(`\nThe log of berthd is ${LOG}.`);
}

async function bringUp(): Promise<void> {
  const isThere = await isUp();
  if (isThere) {
    console.log('The demo is up already.');
  } else {
    heading('Berth: a Kubernetes container runtime');
    if (existsSync(CONFIG)) console.log('A demo is there, but its berthd does not run: going on from what is there.');
    else await step('configure: a network and folders of its own', configure, (text) => text);
    await step('start berthd', startBerthd, () => ENDPOINT);
  }
  let pod = await findPod();
  if (!pod) {
    await step("make an image from Debian's busybox and load it", loadImage, (image) => image);
    pod = await step('run a pod with a web server', runPod, ({ ip }) => `at ${ip}`);
  }
  notePodLogs();
  for (const url of [`http://${pod.ip}/`, `http://127.0.0.1:${hostPort()}/`]) {
    await step(`fetch its page from ${url}`, () => fetchPage(url), JSON.stringify);
  }
  if (isThere) console.log(`\n${await berth('pods')}`.trimEnd());
  else await showSteps(pod);
  showCommands(pod);
}

try {
  await bringUp();
} catch (err) {
  console.error(`\nup: ${message(err)}\n\nThe end of ${LOG}:\n${logTail()}\n`);
  console.error('What was made is still there to look at. npm run down takes it away; npm run up goes on from there.');
  process.exitCode = 1;
}
