/** One key of berth.toml: what it is for, and what it may be. */
export interface KeySpec {
  readonly kind: Kind;
  readonly defaultValue: TomlValue;
  /** One or two sentences for the operator; they become the comments of deploy/berth.toml. */
  readonly help: string;
  /** Whether a running berthd takes over a new value, or the next one does. */
  readonly reload: 'live' | 'restart';
}

/** What a value must look like. */
export type Kind =
  | { readonly type: 'text' }
  | { readonly type: 'path'; readonly mayBeEmpty: boolean }
  | { readonly type: 'program' }
  | { readonly type: 'word'; readonly words: readonly string[] }
  | { readonly type: 'name'; readonly mayBeEmpty: boolean }
  | { readonly type: 'socket' }
  | { readonly type: 'address'; readonly mayBeEmpty: boolean }
  | { readonly type: 'duration' }
  | { readonly type: 'switch' }
  | { readonly type: 'setting' }
  | { readonly type: 'ulimit' }
  | { readonly type: 'count'; readonly min: number; readonly max: number }
  | { readonly type: 'list'; readonly of: Kind };

export type TomlValue = string | number | boolean | readonly string[];

const path: Kind = { type: 'path', mayBeEmpty: false };
const optionalPath: Kind = { type: 'path', mayBeEmpty: true };
const text: Kind = { type: 'text' };

function key(kind: Kind, defaultValue: TomlValue, help: string): KeySpec {
  return { kind, defaultValue, help, reload: 'live' };
}

/** A key that pods, clients or open files hold on to. */
function startKey(kind: Kind, defaultValue: TomlValue, help: string): KeySpec {
  return { kind, defaultValue, help, reload: 'restart' };
}

/** Keys outside any table. */
export const TOP_KEYS = {
  root: startKey(
    path,
    '/var/lib/berth',
    'What outlives a reboot: images, the writable layers of containers, the database.',
  ),
  state: startKey(
    path,
    '/run/berth',
    'What must not outlive a reboot: bundles, namespaces, exit codes. Keep it on a tmpfs.',
  ),
  listen: startKey(
    { type: 'socket' },
    'unix:///run/berth/berth.sock',
    'Where the kubelet, crictl and berth connect. Root and its group may use it.',
  ),
} as const satisfies Record<string, KeySpec>;

/** The tables and their keys, in the order in which they are shown. */
export const TABLES = {
  image: {
    registries_conf: startKey(
      path,
      '/etc/containers/registries.conf',
      'Registries: locations, mirrors, insecure and blocked ones, short names.',
    ),
    registries_conf_dir: startKey(
      path,
      '/etc/containers/registries.conf.d',
      'Drop-ins for registries_conf, read in lexical order.',
    ),
    short_name_aliases: startKey(
      optionalPath,
      '/var/cache/containers/short-name-aliases.conf',
      'What short names stand for that somebody has chosen at a terminal (podman pull); they count before other aliases. Empty: none.',
    ),
    hosts_dirs: startKey(
      { type: 'list', of: path },
      ['/etc/containerd/certs.d'],
      "Folders of containerd's hosts.toml, one below them for each registry (_default: for the rest). They count for registries that registries_conf does not name.",
    ),
    certs_dirs: startKey(
      { type: 'list', of: path },
      ['/etc/containers/certs.d', '/etc/docker/certs.d'],
      'Certificates for registries: HOST:PORT/*.crt are authorities, *.cert and *.key what berthd shows. The first folder for a registry counts.',
    ),
    auth_file: startKey(
      optionalPath,
      '',
      'Credentials for registries, as podman login or docker login write them, with credential helpers. Empty: none but those of the kubelet.',
    ),
    namespaced_auth_dir: key(
      optionalPath,
      '',
      'Where a credential provider of the kubelet leaves auth files for one pull each, NAMESPACE-SHA256.json. They are removed as they are read. Empty: nowhere.',
    ),
    signature_policy: startKey(
      path,
      '/etc/containers/policy.json',
      'Which images are trusted, and by whose signature. Without a file in this place every image is; a file in another place must be there.',
    ),
    signature_policy_dir: startKey(
      optionalPath,
      '/etc/berth/policies',
      'Policies of single namespaces, NAMESPACE.json: each stands in place of signature_policy for pods there. Empty: none.',
    ),
    lookaside_dir: startKey(
      optionalPath,
      '/etc/containers/registries.d',
      'Where signatures are kept apart from images, for registries: *.yaml. Empty: only in /var/lib/containers/sigstore.',
    ),
    accept_unnamed_signatures: startKey(
      { type: 'switch' },
      false,
      'Whether signatures count for sigstoreSigned that are for a digest and name no image, as those of cosign 3. Who can push to a registry can then have any image run under any name that the same key has ever signed.',
    ),
    pause_image: key(
      text,
      '',
      'Has no effect: the program that holds the namespaces of pods is built in, and needs no image.',
    ),
    pinned_images: key(
      { type: 'list', of: text },
      [],
      'Images that the kubelet never collects: names, or patterns with *.',
    ),
    max_parallel_downloads: key(
      { type: 'count', min: 1, max: 64 },
      6,
      'How many layers of one image are downloaded at a time.',
    ),
    max_layer_gib: startKey(
      { type: 'count', min: 1, max: 1_048_576 },
      256,
      'The most that a layer may hold when it is unpacked, in GiB; what is larger is refused as a bomb.',
    ),
    max_layer_files: startKey(
      { type: 'count', min: 1, max: 2_147_483_647 },
      10_000_000,
      'The most members of a layer.',
    ),
    layer_devices: startKey(
      { type: 'word', words: ['allow', 'skip', 'refuse'] },
      'allow',
      'Device nodes in layers: allow makes them, skip leaves them out, refuse refuses the image. Containers cannot open them unless they are given the device.',
    ),
    pull_timeout: key({ type: 'duration' }, '1h', 'The longest that one pull may take.'),
  },
  cni: {
    conf_dir: key(
      path,
      '/etc/cni/net.d',
      'Network configurations; the first valid one in lexical order is used. Watched while berthd runs.',
    ),
    bin_dirs: key({ type: 'list', of: path }, ['/opt/cni/bin', '/usr/lib/cni'], 'Where the plugins are.'),
    cache_dir: startKey(optionalPath, '', 'Results of plugins, needed to take networks down again. Empty: <root>/cni.'),
    default_network: key({ type: 'name', mayBeEmpty: true }, '', 'Name of the network to use. Empty: the first.'),
    conf_template: startKey(
      optionalPath,
      '',
      'A network configuration with {{POD_CIDR}}, {{POD_CIDRS}}, {{POD_RANGES}} or {{POD_ROUTES}} in place of values. When the kubelet or the cluster names the addresses for pods, they are filled in and it is written as conf_dir/10-berth-pods.conflist. Empty: conf_dir is only read.',
    ),
    spare_networks: key(
      { type: 'count', min: 0, max: 64 },
      8,
      'While pods come one after the other, so many at most are given their network and address beforehand; 30 s after the last pod they are given back. Only with the plugins bridge or ptp, host-local, and portmap, firewall, tuning and bandwidth after them: others ask whose network it is. 0: none.',
    ),
    late_close: startKey(
      { type: 'switch' },
      true,
      'An iptables that has deleted rules for a DEL does not wait until the kernel has freed them: a process of its own keeps its socket for 0.25 s. By LD_PRELOAD, for what bridge, ptp, portmap and firewall run for DEL.',
    ),
  },
  runtime: {
    default_runtime: key(
      { type: 'name', mayBeEmpty: false },
      'auto',
      'The handler for pods that name none. auto: the first of crun and runc that passes a self-test.',
    ),
    cgroup_manager: startKey(
      { type: 'word', words: ['auto', 'cgroupfs', 'systemd'] },
      'auto',
      'Who makes cgroups. auto: systemd where it runs. The kubelet must use the same; it asks.',
    ),
    monitor_path: startKey(
      { type: 'program' },
      'conmon',
      'The program that watches one container. A name is looked up in the PATH.',
    ),
    default_capabilities: key(
      { type: 'list', of: { type: 'name', mayBeEmpty: false } },
      [
        'AUDIT_WRITE',
        'CHOWN',
        'DAC_OVERRIDE',
        'FOWNER',
        'FSETID',
        'KILL',
        'MKNOD',
        'NET_BIND_SERVICE',
        'NET_RAW',
        'SETFCAP',
        'SETGID',
        'SETPCAP',
        'SETUID',
        'SYS_CHROOT',
      ],
      'What a container may do when its pod does not say.',
    ),
    pids_limit: key(
      { type: 'count', min: 0, max: 4_194_304 },
      0,
      'The most processes in one container. 0: as many as the pod may have.',
    ),
    volatile_rootfs: startKey(
      { type: 'switch' },
      true,
      'Whether nothing waits for the disk that containers write outside their volumes, be it at their fsync or when they are removed, which otherwise writes out all that the disk has in memory. After a power cut no container goes on, and this is lost with it. From Linux 5.10 on.',
    ),
    seccomp_profile: key(optionalPath, '', 'What RuntimeDefault stands for, as a file. Empty: the built-in profile.'),
    cdi_spec_dirs: key(
      { type: 'list', of: path },
      ['/etc/cdi', '/var/run/cdi'],
      'Where CDI describes devices; a later folder wins over an earlier one. Changes are seen at once; files that others than root may change are not used.',
    ),
    hooks_dirs: key(
      { type: 'list', of: path },
      ['/usr/share/containers/oci/hooks.d', '/etc/containers/oci/hooks.d'],
      'Where hooks for containers are (oci-hooks(5)); in a later folder, a file replaces one of the same name. Changes are seen at once; files that others than root may change are not used.',
    ),
    apparmor_profile: key(
      text,
      'berth-default',
      'The AppArmor profile that RuntimeDefault stands for, where the kernel has AppArmor. berth-default is loaded by berthd, any other must be loaded already; unconfined: none.',
    ),
    selinux: startKey(
      { type: 'switch' },
      true,
      'Whether containers get SELinux labels, where the kernel has SELinux and its policy knows containers. Without them, pods that demand a label are refused.',
    ),
    default_env: key(
      { type: 'list', of: { type: 'setting' } },
      [],
      'Variables of all containers, as NAME=VALUE; the image and the pod may say otherwise.',
    ),
    default_sysctls: key(
      { type: 'list', of: { type: 'setting' } },
      ['net.ipv4.ip_unprivileged_port_start=0', 'net.ipv4.ping_group_range=0 2147483647'],
      'Sysctls of all pods that have the namespace to themselves, as NAME=VALUE; the pod may say otherwise. The default ones let programs that do not run as root serve low ports, and ping.',
    ),
    default_ulimits: key(
      { type: 'list', of: { type: 'ulimit' } },
      [],
      'Limits of all containers, as NAME=SOFT:HARD with the names of setrlimit(2) in small letters; -1 is no limit. nofile is 1048576 when it is not named.',
    ),
  },
  stream: {
    listen: startKey(
      { type: 'address', mayBeEmpty: false },
      '127.0.0.1:0',
      'Where exec, attach and port-forward are served. Port 0: any free one.',
    ),
    tls_cert: startKey(optionalPath, '', 'Certificate for streams. Empty: no TLS.'),
    tls_key: startKey(optionalPath, '', 'Key of tls_cert.'),
    tls_client_ca: startKey(optionalPath, '', 'Who signs the certificates of clients. Empty: clients need none.'),
  },
  cluster: {
    kubeconfig: startKey(
      optionalPath,
      '',
      'How to reach the API server of the cluster, for what is below and for cni.conf_template; the credentials of the kubelet are enough (/etc/kubernetes/kubelet.conf). Pods run without. Empty: berthd never talks to it.',
    ),
    node_name: startKey({ type: 'name', mayBeEmpty: true }, '', 'This node in the cluster. Empty: the host name.'),
    events: startKey(
      { type: 'switch' },
      true,
      'Whether what the kubelet cannot see becomes an event in the cluster: damaged storage, images refused by policy, programs that hang, lost containers.',
    ),
  },
  metrics: {
    listen: key(
      { type: 'address', mayBeEmpty: true },
      '',
      'Where Prometheus may scrape /metrics, such as 127.0.0.1:9190. Empty: nowhere.',
    ),
    socket: key(optionalPath, '', 'A unix socket with the same, for root and its group, without TLS. Empty: none.'),
    tls_cert: key(optionalPath, '', 'Certificate for listen, looked at again when it changes. Empty: no TLS.'),
    tls_key: key(optionalPath, '', 'Key of tls_cert.'),
    tls_client_ca: key(optionalPath, '', 'Who signs the certificates of scrapers. Empty: they need none.'),
  },
  tracing: {
    endpoint: key(
      { type: 'address', mayBeEmpty: true },
      '',
      'Where traces are sent, by OTLP over gRPC, such as 127.0.0.1:4317. Empty: nowhere, and then nothing is traced.',
    ),
    sampling_rate_per_million: key(
      { type: 'count', min: 0, max: 1_000_000 },
      0,
      'How many of a million calls begin a trace of their own. Calls that are part of a trace, as those of a kubelet with tracing, follow what their caller has decided.',
    ),
    tls: key({ type: 'switch' }, false, 'Whether the receiver is spoken to with TLS.'),
    tls_ca: key(optionalPath, '', "Who signs the receiver's certificate. Empty: whom Node.js trusts."),
    tls_cert: key(optionalPath, '', 'Certificate that berthd shows to the receiver. Empty: none.'),
    tls_key: key(optionalPath, '', 'Key of tls_cert.'),
  },
  log: {
    level: key({ type: 'word', words: ['debug', 'info', 'warn', 'error'] }, 'info', 'The least that is worth a line.'),
    format: key(
      { type: 'word', words: ['auto', 'json', 'text'] },
      'auto',
      'auto: text on a terminal and in the journal, JSON elsewhere.',
    ),
  },
} as const satisfies Record<string, Record<string, KeySpec>>;

/** The keys of one [runtime.handlers.NAME]. */
export const HANDLER_KEYS = {
  path: key({ type: 'program' }, '', 'The OCI runtime. A name is looked up in the PATH.'),
  root: key(optionalPath, '', 'Folder for its own state. Empty: one in the state folder.'),
  type: key({ type: 'word', words: ['oci'] }, 'oci', 'How it is driven.'),
  annotations: key(
    { type: 'list', of: text },
    [],
    'Annotations of pods and containers that this runtime may see: names, or patterns with *. Some runtimes take orders from them.',
  ),
  privileged_without_host_devices: key(
    { type: 'switch' },
    false,
    'Whether privileged containers get only the devices that they ask for: right for virtual machines.',
  ),
} as const satisfies Record<string, KeySpec>;

/** The handlers that are there when none is configured; each may be changed by a table of its name. */
export const DEFAULT_HANDLERS: Readonly<Record<string, { readonly path: string }>> = Object.freeze({
  crun: { path: 'crun' },
  runc: { path: 'runc' },
});

/** How a handler may be called: what a RuntimeClass may name, a DNS label of RFC 1123. */
export const HANDLER_NAME: RegExp = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
