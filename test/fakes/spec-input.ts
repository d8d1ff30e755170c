import type { ContainerSecurity, ContainerSpec } from '../../src/runtime/container-spec.ts';
import type { HostFacts } from '../../src/runtime/host-facts.ts';
import type { OciSeccomp } from '../../src/runtime/oci-seccomp.ts';
import type { SpecInput } from '../../src/runtime/spec-input.ts';

/** What a test changes of the plainest container there is. */
export interface SpecChanges {
  readonly spec?: Partial<ContainerSpec>;
  readonly security?: Partial<ContainerSecurity>;
  readonly host?: Partial<HostFacts>;
  readonly image?: SpecInput['image'];
  readonly user?: SpecInput['user'];
  readonly mounts?: SpecInput['mounts'];
  readonly seccomp?: OciSeccomp;
  readonly apparmorProfile?: string;
  readonly selinux?: SpecInput['selinux'];
  readonly pidsLimit?: number;
  readonly defaultEnv?: SpecInput['defaultEnv'];
  readonly ulimits?: SpecInput['ulimits'];
  readonly visibleAnnotations?: readonly string[];
  readonly namespaces?: Partial<SpecInput['sandbox']['namespaces']>;
  readonly userNamespace?: SpecInput['sandbox']['userNamespace'];
}

/** A whole input for buildSpec(), for tests. */
export function specInput(changes: SpecChanges): SpecInput {
  return {
    spec: { ...plainContainer, ...changes.spec, security: { ...plainContainer.security, ...changes.security } },
    sandbox: {
      id: 'sandbox-id',
      name: 'web',
      namespace: 'shop',
      uid: 'pod-uid',
      annotations: { 'pod.note': 'p', shared: 'pod' },
      userNamespace: changes.userNamespace,
      hostname: 'web-host',
      namespaces: {
        network: { path: '/ns/net' },
        ipc: { path: '/ns/ipc' },
        uts: { path: '/ns/uts' },
        pid: 'new',
        ...changes.namespaces,
      },
      files: { resolvConf: '/s/resolv.conf', hostname: '/s/hostname', hosts: '/s/hosts', shm: '/s/shm' },
    },
    image: changes.image ?? { entrypoint: ['/entry'], cmd: [], env: [], workingDir: '' },
    user: changes.user ?? { uid: 0, gid: 0, supplementalGroups: [0], home: '/root' },
    capabilities: {
      bounding: ['CAP_KILL'],
      effective: ['CAP_KILL'],
      permitted: ['CAP_KILL'],
      inheritable: [],
      ambient: [],
    },
    seccomp: changes.seccomp,
    apparmorProfile: changes.apparmorProfile,
    selinux: changes.selinux,
    devices: { nodes: [], rules: [{ allow: false, access: 'rwm' }] },
    mounts: changes.mounts ?? { mounts: [], rootfsPropagation: undefined },
    rootfs: '/rootfs',
    cgroupsPath: '/pods/berth-c',
    cgroupAnnotations: {},
    pidsLimit: changes.pidsLimit,
    defaultEnv: changes.defaultEnv ?? [],
    ulimits: changes.ulimits ?? [],
    visibleAnnotations: changes.visibleAnnotations ?? [],
    host: { ...plainHost, ...changes.host },
  };
}

const plainHost: HostFacts = {
  cgroupVersion: 2,
  swapAccounting: true,
  hugepageSizes: ['2MB'],
  kernelHugepageSizes: ['2MB', '1GB'],
  oomScoreAdjFloor: -1000,
  rlimitCeilings: new Map(),
  kernelHasRecursiveReadOnly: true,
  kernelMapsIds: true,
};

const plainContainer: ContainerSpec = {
  name: 'main',
  attempt: 0,
  image: { reference: 'sha256:abc', userSpecified: 'busybox', runtimeHandler: '', annotations: {} },
  command: [],
  args: [],
  workingDir: '',
  env: [],
  mounts: [],
  devices: [],
  cdiDevices: [],
  labels: {},
  annotations: { 'run.oci.handler': 'evil' },
  logPath: '',
  stdin: false,
  stdinOnce: false,
  tty: false,
  stopSignal: undefined,
  resources: { hugepageLimits: [], unified: {} },
  security: {
    capabilities: { add: [], drop: [], addAmbient: [] },
    privileged: false,
    namespaces: { network: 'pod', pid: 'container', ipc: 'pod', targetId: '', user: undefined },
    selinux: undefined,
    runAsUser: undefined,
    runAsGroup: undefined,
    runAsUsername: '',
    readonlyRootfs: false,
    supplementalGroups: [],
    supplementalGroupsPolicy: 'merge',
    noNewPrivs: false,
    maskedPaths: undefined,
    readonlyPaths: undefined,
    seccomp: undefined,
    apparmor: undefined,
  },
};
