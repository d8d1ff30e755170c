/** Requests that are right, as generated ones begin with; `@pod` and such stand for what is on the machine. */

import type { RequestWords } from '../fakes/cri-requests.ts';
import type { WireMessage } from '../fakes/cri-wire.ts';

/** Fields that name a pod or container. */
export const CONTAINER_IDS: readonly string[] = ['container_id', 'pod_sandbox_id'];

const NODE = 2n;
const OWN = 1n;

/** What a field of a name holds when nothing is wrong with it. */
export const requestWords: RequestWords = {
  ids: ['@pod', '@bare', '@stopped', '@running', '@exited', '@created'],
  part: (id, chars) => `${id}#${chars}`,
  scratch: '@scratch',
  odd: [
    ...['pipe', 'socket', 'zero', 'loop', 'dangling', 'profile.json', 'profile.json/x', 'data', 'data/'].map(
      (name) => `@scratch/${name}`,
    ),
    // Inside, log paths are relative.
    ...['pipe', 'socket', 'loop', 'dangling', 'profile.json/x'],
  ],
  sane: {
    name: ['fuzz', 'fuzz-@unique'],
    uid: ['uid-@unique'],
    namespace: ['test'],
    hostname: ['host-1'],
    log_directory: ['@scratch/logs', '@scratch'],
    servers: ['10.0.0.1'],
    searches: ['a.example'],
    options: ['ndots:5'],
    host_ip: ['127.0.0.1', ''],
    sysctls: ['net.ipv4.ip_forward', 'kernel.shm_rmid_forced'],
    value: ['1', 'a'],
    cgroup_parent: ['@cgroup', '@cgroup/inner'],
    target_id: ['@running'],
    level: ['s0:c1,c2'],
    localhost_ref: ['@scratch/profile.json', 'localhost/x'],
    seccomp_profile_path: ['unconfined', 'runtime/default'],
    apparmor_profile: ['unconfined', 'runtime/default'],
    cpuset_cpus: ['0', '0-1'],
    cpuset_mems: ['0'],
    page_size: ['2MB'],
    unified: ['memory.high', 'cpu.weight'],
    run_as_username: ['nobody', 'root'],
    runtime_handler: ['', 'runc', 'criu'],
    pod_sandbox_id: ['@pod', '@bare', '@stopped'],
    container_id: ['@running', '@exited', '@created'],
    container_ids: ['@running'],
    id: ['@running', '@pod'],
    image: ['example.com/busybox:test', '@image', '@scratch/container.tar', '@registry/team/app:v1', '127.0.0.1:1/a'],
    image_ref: ['@image'],
    command: ['sleep', 'true', 'sh'],
    args: ['1000'],
    cmd: ['true', 'echo', 'id'],
    working_dir: ['/', '/tmp', '/new/folder'],
    key: ['PATH', 'A'],
    container_path: ['/data', '/etc/hosts', '/proc', '/dev/x', '/dev', '/sys/x', '/tmp/../data', '/'],
    host_path: ['@scratch/data', '/dev/null', '@scratch/profile.json', '/dev', '@scratch/missing'],
    image_sub_path: ['', 'bin', 'etc/passwd', '../x'],
    mount_options: ['noexec', 'ro', 'nosuid'],
    permissions: ['rwm', 'r'],
    log_path: ['fuzz.log', 'inner/fuzz.log'],
    add_capabilities: ['NET_ADMIN', 'ALL'],
    drop_capabilities: ['ALL', 'CHOWN'],
    add_ambient_capabilities: ['NET_BIND_SERVICE'],
    masked_paths: ['/proc/kcore', '/missing'],
    readonly_paths: ['/proc/sys', '/missing'],
    CDI_devices: ['vendor.com/class=x'],
    location: ['@scratch/checkpoint.tar'],
    output_path: ['@scratch/out'],
    checkpoint_path: ['@scratch/checkpoint', '@scratch/data'],
    pod_cidr: ['10.0.0.0/16', '10.0.0.0/16,fd00::/64'],
  },
};

const bareResources: WireMessage = { cpu_shares: 512n, memory_limit_in_bytes: 64n << 20n, cpu_period: 100_000n };
const richResources: WireMessage = { ...bareResources, cpu_quota: 50_000n, oom_score_adj: 900n, cpuset_cpus: '0' };

const hostPod: WireMessage = {
  metadata: { name: 'fuzz', uid: 'uid-@unique', namespace: 'test', attempt: 0n },
  log_directory: '@scratch',
  linux: { cgroup_parent: '@cgroup', security_context: { namespace_options: { network: NODE, pid: OWN } } },
};
const richPod: WireMessage = {
  ...hostPod,
  hostname: 'host-1',
  dns_config: { servers: ['10.0.0.1'], searches: ['a.example'], options: ['ndots:5'] },
  port_mappings: [{ protocol: 0n, container_port: 80n }],
  labels: [['app', 'fuzz']],
  annotations: [['a.example/b', 'c']],
  linux: {
    cgroup_parent: '@cgroup',
    security_context: { namespace_options: { pid: 0n }, seccomp: { profile_type: 0n }, supplemental_groups: [5n] },
    sysctls: [['net.ipv4.ip_forward', '1']],
    overhead: bareResources,
    resources: richResources,
  },
};
const bareContainer: WireMessage = {
  metadata: { name: 'fuzz-@unique', attempt: 0n },
  image: { image: 'example.com/busybox:test' },
  command: ['sleep', '1000'],
  log_path: 'fuzz.log',
};
const richContainer: WireMessage = {
  ...bareContainer,
  args: ['1'],
  working_dir: '/tmp',
  envs: [{ key: 'A', value: Buffer.from('b') }],
  mounts: [{ container_path: '/data', host_path: '@scratch/data' }],
  devices: [{ container_path: '/dev/none', host_path: '/dev/null', permissions: 'rwm' }],
  labels: [['app', 'fuzz']],
  annotations: [['a.example/b', 'c']],
  linux: {
    resources: richResources,
    security_context: {
      capabilities: { add_capabilities: ['NET_ADMIN'], drop_capabilities: ['CHOWN'] },
      namespace_options: { pid: OWN },
      run_as_user: { value: 1000n },
      run_as_group: { value: 1000n },
      supplemental_groups: [2000n],
      seccomp: { profile_type: 0n },
      masked_paths: ['/proc/kcore'],
      readonly_paths: ['/proc/sys'],
    },
  },
};

const inPods: readonly WireMessage[] = [{ pod_sandbox_id: '@pod' }, { pod_sandbox_id: '@stopped' }];
const inContainers: readonly WireMessage[] = ['@running', '@exited', '@created'].map((id) => ({ container_id: id }));
const each = (bases: readonly WireMessage[], more: WireMessage): WireMessage[] =>
  bases.map((base) => ({ ...base, ...more }));
const image: WireMessage = { image: { image: 'example.com/busybox:test' } };
const pulled: WireMessage = { image: { image: '@registry/team/app:v1' } };

/** Right requests by the RPC's name; an RPC that is not here takes an empty one. */
export const rightRequests: Readonly<Record<string, readonly WireMessage[]>> = {
  RunPodSandbox: [{ config: hostPod }, { config: hostPod }, { config: richPod }],
  StopPodSandbox: inPods,
  RemovePodSandbox: inPods,
  PodSandboxStatus: each(inPods, { verbose: true }),
  ListPodSandbox: [{ filter: { id: '@pod', state: { state: 0n } } }],
  StreamPodSandboxes: [{ filter: { id: '@pod', state: { state: 0n } } }],
  CreateContainer: [
    { pod_sandbox_id: '@bare', config: bareContainer, sandbox_config: hostPod },
    { pod_sandbox_id: '@bare', config: richContainer },
    { pod_sandbox_id: '@pod', config: richContainer },
    { pod_sandbox_id: '@pod', config: { ...bareContainer, image: { image: '@scratch/container.tar' } } },
  ],
  StartContainer: inContainers,
  StopContainer: each(inContainers, { timeout: 1n }),
  RemoveContainer: inContainers,
  ListContainers: [{ filter: { pod_sandbox_id: '@pod', state: { state: 1n } } }],
  StreamContainers: [{ filter: { pod_sandbox_id: '@pod', state: { state: 1n } } }],
  ContainerStatus: each(inContainers, { verbose: true }),
  UpdateContainerResources: each(inContainers, { linux: richResources }),
  ReopenContainerLog: inContainers,
  ExecSync: each(inContainers, { cmd: ['echo', 'x'], timeout: 30n }),
  Exec: each(inContainers, { cmd: ['echo', 'x'], stdout: true }),
  Attach: each(inContainers, { stdout: true }),
  PortForward: each(inPods, { port: [80n] }),
  ContainerStats: inContainers,
  ListContainerStats: [{ filter: { pod_sandbox_id: '@pod' } }],
  StreamContainerStats: [{ filter: { pod_sandbox_id: '@pod' } }],
  PodSandboxStats: inPods,
  ListPodSandboxStats: [{ filter: { id: '@pod' } }],
  StreamPodSandboxStats: [{ filter: { id: '@pod' } }],
  UpdateRuntimeConfig: [{ runtime_config: { network_config: { pod_cidr: '10.0.0.0/16' } } }],
  CheckpointContainer: each([{ container_id: '@running' }, ...inContainers], {
    location: '@scratch/checkpoint.tar',
    timeout: 30n,
  }),
  CheckpointPod: each([{ pod_sandbox_id: '@pod' }, ...inPods], {
    output_path: '@scratch/out',
    container_ids: ['@running'],
  }),
  RestorePod: [
    {
      checkpoint_path: '@scratch/checkpoint',
      config: hostPod,
      runtime_handler: 'criu',
      container_configs: [{ ...bareContainer, metadata: { name: 'main' } }],
    },
  ],
  UpdatePodSandboxResources: each(inPods, { overhead: bareResources, resources: richResources }),
  ListImages: [{ filter: image }],
  StreamImages: [{ filter: image }],
  ImageStatus: [image, { image: { image: '@image' } }],
  PullImage: [
    { ...pulled, auth: { username: 'a', password: 'b' } },
    { ...pulled, auth: { registry_token: 'good' } },
    { ...pulled, auth: { identity_token: 'a' } },
  ],
  RemoveImage: [image, { image: { image: '@image' } }],
};
