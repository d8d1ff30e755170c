/** What a label may say. Either all its values are known here, or only so many different ones count. */
export type LabelValues =
  | { readonly values: readonly string[] }
  /** `what` in words; from this many different ones on, others are counted together as `other`. */
  | { readonly what: string; readonly upTo: number };

/** One metric of Berth. The unit is in its name: seconds, bytes, or a count of what it names. */
export interface MetricSpec {
  readonly type: 'counter' | 'gauge' | 'histogram';
  /** One sentence for whoever makes a graph of it. */
  readonly help: string;
  readonly labels: Readonly<Record<string, LabelValues>>;
  /** Of a histogram, ascending. */
  readonly buckets?: readonly number[];
}

/** From 1 ms, where a list call is, to the minutes of a large pull. */
const LATENCY_BUCKETS_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];
/** From a layer that is a script to one that is a model; CRI-O's, in powers of four. */
const SIZE_BUCKETS_BYTES = [1, 4, 16, 64, 256, 1024, 4096, 16_384].map((power) => power * 1024 ** 2);

const ERROR_KINDS = {
  values: [
    'invalid',
    'notFound',
    'alreadyExists',
    'precondition',
    'permission',
    'exhausted',
    'unavailable',
    'deadline',
    'cancelled',
    'unimplemented',
    'internal',
  ],
};
const METHODS: LabelValues = { what: 'calls of the CRI and of berth.v1.Admin', upTo: 100 };
const PIPELINES: LabelValues = { what: 'the calls that are made of steps', upTo: 20 };
const STEPS: LabelValues = { what: 'their steps', upTo: 100 };
const PROGRAMS: LabelValues = { what: 'base names of programs', upTo: 50 };
const HANDLERS: LabelValues = { what: 'runtime handlers of the configuration', upTo: 30 };
const PLUGINS: LabelValues = { what: 'plugins that network configurations name', upTo: 30 };
const RUNTIME_VERBS: LabelValues = {
  values: ['start', 'delete', 'state', 'update', 'pause', 'resume', 'checkpoint'],
};
const CNI_VERBS: LabelValues = { values: ['ADD', 'DEL', 'CHECK', 'STATUS', 'GC'] };
const SANDBOX_STATES: LabelValues = { values: ['creating', 'ready', 'notReady', 'stopped', 'unknown'] };
const CONTAINER_STATES: LabelValues = { values: ['creating', 'created', 'running', 'exited', 'unknown'] };

const spec = (
  type: MetricSpec['type'],
  help: string,
  labels: Readonly<Record<string, LabelValues>> = {},
  buckets?: readonly number[],
): MetricSpec => ({ type, help, labels, ...(buckets ? { buckets } : {}) });
const counter = (help: string, labels?: Readonly<Record<string, LabelValues>>): MetricSpec =>
  spec('counter', help, labels);
const gauge = (help: string, labels?: Readonly<Record<string, LabelValues>>): MetricSpec => spec('gauge', help, labels);
const seconds = (help: string, labels?: Readonly<Record<string, LabelValues>>): MetricSpec =>
  spec('histogram', help, labels, LATENCY_BUCKETS_S);

/** All metrics of Berth but those of Node.js and its process, which prom-client has. docs/metrics.md is made of it. */
export const CATALOG = {
  berth_build_info: gauge('1, for the version of Berth and of Node.js that runs.', {
    version: { what: 'one', upTo: 1 },
    node: { what: 'one', upTo: 1 },
  }),
  berth_ready_timestamp_seconds: gauge('When berthd began to serve, in seconds since 1970.'),

  berth_rpc_total: counter('CRI and admin calls answered.', { method: METHODS }),
  berth_rpc_errors_total: counter('Calls answered with an error, by its kind.', { method: METHODS, kind: ERROR_KINDS }),
  berth_rpc_duration_seconds: seconds('Time from a call to its answer.', { method: METHODS }),
  berth_rpc_in_flight: gauge('Calls that are not answered yet.', { method: METHODS }),
  berth_step_duration_seconds: seconds('Time of one step of a pipeline.', { pipeline: PIPELINES, step: STEPS }),
  berth_step_errors_total: counter('Steps that failed.', { pipeline: PIPELINES, step: STEPS, kind: ERROR_KINDS }),
  berth_step_undone_total: counter('Steps that were undone.', { pipeline: PIPELINES, step: STEPS }),
  berth_stalled_total: counter('Requests whose time was over at a step.', { pipeline: PIPELINES, step: STEPS }),
  berth_lock_keys: gauge('What is locked: sandboxes and containers, or attachments to networks.', {
    lock: { values: ['pod', 'network'] },
  }),
  berth_lock_waiters: gauge('Who waits for such a lock.', { lock: { values: ['pod', 'network'] } }),
  berth_events_dropped_total: counter('Events of pods that a subscriber of GetContainerEvents was too slow for.'),
  berth_event_subscribers: gauge('Open streams of GetContainerEvents.'),

  berth_sandboxes: gauge('Pod sandboxes by state.', { state: SANDBOX_STATES }),
  berth_containers: gauge('Containers by state.', { state: CONTAINER_STATES }),
  berth_containers_created_total: counter('Containers that were made.', { handler: HANDLERS }),
  berth_container_exits_total: counter('Containers that ended, by how.', {
    class: { values: ['success', 'error', 'signal', 'oom', 'unseen'] },
  }),
  berth_containers_oom_killed_total: counter('Containers found killed for lack of memory.'),
  berth_container_monitors_lost_total: counter('Monitors (conmon) that ended without an exit code of their container.'),
  berth_processes_defunct: gauge(
    'Processes of the host that have ended and that nobody reaps, as of some seconds ago.',
  ),
  berth_streams: gauge('Open sessions of exec, attach and port-forward.'),

  berth_process_duration_seconds: seconds('Time of one external process.', { program: PROGRAMS }),
  berth_process_errors_total: counter('External processes that failed.', { program: PROGRAMS, kind: ERROR_KINDS }),
  berth_processes_running: gauge('Children of berthd that run: pauses, execs, and programs for a moment.'),
  berth_runtime_duration_seconds: seconds(
    'Time of one OCI runtime process; create runs below conmon (see its step), and a plain container needs none of runc to start or delete.',
    {
      handler: HANDLERS,
      verb: RUNTIME_VERBS,
    },
  ),
  berth_runtime_errors_total: counter('OCI runtime processes that failed.', {
    handler: HANDLERS,
    verb: RUNTIME_VERBS,
    kind: ERROR_KINDS,
  }),
  berth_runtime_handler_usable: gauge('1 for a runtime handler that can be used, 0 for one that cannot.', {
    handler: HANDLERS,
  }),
  berth_runtime_handler_default: gauge('1 for the handler of pods that name none.', { handler: HANDLERS }),

  berth_cni_duration_seconds: seconds('Time of one CNI verb over all plugins.', {
    verb: CNI_VERBS,
  }),
  berth_cni_errors_total: counter('CNI verbs that failed.', {
    verb: CNI_VERBS,
    kind: ERROR_KINDS,
  }),
  berth_cni_plugin_duration_seconds: seconds('Time of one CNI plugin.', {
    plugin: PLUGINS,
    verb: CNI_VERBS,
  }),
  berth_cni_plugin_errors_total: counter('CNI plugins that failed.', {
    plugin: PLUGINS,
    verb: CNI_VERBS,
    kind: ERROR_KINDS,
  }),
  berth_cni_spare_networks: gauge('Networks that are attached already, for pods that are yet to come.'),
  berth_cni_network_usable: gauge('1 while there is a CNI network for pods, 0 while there is none.'),

  berth_images: gauge('Images that are present.'),
  berth_image_layers: gauge('Layers that are unpacked.'),
  berth_image_layers_bytes: gauge('What unpacked layers take on disk.'),
  berth_image_pulls_total: counter('Image pulls that ended.', {
    outcome: { values: ['ok', ...ERROR_KINDS.values] },
  }),
  berth_image_pull_bytes_total: counter('Bytes that pulls transferred from registries.'),
  berth_image_pull_skipped_bytes_total: counter('Compressed bytes of layers that pulls did not need: they were here.'),
  berth_image_pull_duration_seconds: seconds('Time of one image pull.'),
  berth_image_pull_failures_total: counter('Image pulls that failed, by reason.', {
    reason: {
      values: [
        'registry-unavailable',
        'rate-limited',
        'permission',
        'not-found',
        'untrusted',
        'bad-image',
        'no-space',
        'deadline',
        'cancelled',
        'internal',
      ],
    },
  }),
  berth_image_pull_step_duration_seconds: seconds('Time of one step of a pull.', {
    step: { values: ['resolve', 'trust', 'layers', 'commit'] },
  }),
  berth_image_pulls_in_flight: gauge('Image pulls that run.'),
  berth_image_pull_bytes_left: gauge('Compressed bytes that pulls which run still wait for.'),
  berth_image_layers_in_flight: gauge(
    'Layers of pulls that run, by phase; those unpacked while they come are downloading.',
    { state: { values: ['waiting', 'downloading', 'unpacking'] } },
  ),
  berth_image_layers_total: counter('Layers of pulls: from a registry, or on disk before.', {
    source: { values: ['registry', 'disk'] },
  }),
  berth_image_layer_bytes_total: counter('Bytes of layers from registries: compressed there, unpacked on disk.', {
    form: { values: ['compressed', 'unpacked'] },
  }),
  berth_image_layer_size_bytes: spec(
    'histogram',
    'Compressed size of one layer from a registry, by how it is compressed.',
    { compression: { values: ['none', 'gzip', 'zstd', 'detect'] } },
    SIZE_BUCKETS_BYTES,
  ),
  berth_image_layer_duration_seconds: seconds('Time of one layer: its download, and what unpacking took beyond that.', {
    step: { values: ['download', 'unpack'] },
  }),
  berth_disk_jobs_running: gauge('Jobs that threads for the disk are at: unpacking, checking, measuring.'),
  berth_disk_jobs_waiting: gauge('Jobs that wait for such a thread.'),

  berth_database_bytes: gauge('Size of the database and of its write-ahead log.', {
    file: { values: ['main', 'wal'] },
  }),
  berth_reconcile_items: gauge('What the last start found: adopted, finished, without a record, and not settled.', {
    what: { values: ['adopted_sandboxes', 'adopted_containers', 'finished', 'orphans', 'problems'] },
  }),
  berth_doctor_findings: gauge('What the last berth doctor found; absent until one has run.', {
    severity: { values: ['error', 'warning', 'info'] },
  }),

  berth_config_reloads_total: counter('Reloads of the configuration, by whether it could be used.', {
    outcome: { values: ['ok', 'refused'] },
  }),
  berth_config_last_reload_successful: gauge(
    '1 while the files that are there are in force, 0 while they have mistakes.',
  ),
  berth_config_keys_waiting: gauge('Keys whose new value in the files waits for a restart.'),
  berth_certificate_expiry_timestamp_seconds: gauge('When a certificate in use ends, in seconds since 1970.', {
    endpoint: { values: ['stream', 'metrics'] },
  }),
  berth_log_lines_lost_total: counter("Lines of berthd's own log that could not be written."),
  berth_trace_spans_total: counter('Spans of traces, by what became of them.', {
    outcome: { values: ['exported', 'dropped', 'failed'] },
  }),
  berth_trace_spans_waiting: gauge('Spans that wait to be sent.'),
} as const satisfies Record<string, MetricSpec>;

/** The name of a metric of the catalog. */
export type MetricName = keyof typeof CATALOG;

/** As a table for docs/metrics.md. */
export function renderMetricsTable(): string {
  const rows = Object.entries<MetricSpec>(CATALOG).map(([name, { type, help, labels }]) => {
    const told = Object.entries(labels).map(([label, values]) => `\`${label}\`: ${tellValues(values)}`);
    return [`\`${name}\``, type, help, told.join('; ')];
  });
  const table = [['Metric', 'Type', 'What it tells', 'Labels'], ...rows];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...table.map((row) => (row[column] ?? '').length)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  const [head = [], ...body] = table;
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...body.map(line)].join('\n');
}

function tellValues(values: LabelValues): string {
  return 'values' in values ? values.values.join(', ') : `${values.what}, at most ${values.upTo}`;
}
