// Who may import whom. A room imports only rooms of lower levels; siblings never import each other. Tests beside the
// code obey the same rules, and may also use fakes and tools. test/house/layers.test.ts breaks each rule once.

const levels = [
  ['base'],
  ['store', 'sys', 'proc', 'config'],
  ['image', 'cni', 'runtime'],
  ['pod', 'node'],
  ['server', 'metrics', 'cluster'],
  ['daemon'],
];
const rooms = [...levels.flat(), 'cli'];

/** Sideways imports that the design asks for: processes are spawned by a system call. */
const besides = { proc: ['sys'] };

/** What only some rooms may import. `main` is src/main.ts. */
const reserved = {
  '@bufbuild/protobuf': [],
  '@grpc/': ['server', 'cli'],
  '@kubernetes/': ['cluster'],
  'better-sqlite3': ['store'],
  commander: ['cli', 'daemon'],
  koffi: ['sys'],
  pino: ['daemon'],
  'prom-client': ['metrics'],
  'smol-toml': ['config', 'image'],
  undici: ['image'],
  'ws/': ['server'],
};

const tests = '\\.test\\.ts$';
const places = { main: '^src/main\\.ts$' };
for (const room of rooms) places[room] = `^src/${room}/`;

const roomRules = levels.flatMap((siblings, level) =>
  siblings.map((room) => ({
    name: `${room}-imports-downward`,
    comment: `src/${room} is on level ${level}: it imports only what is below it`,
    severity: 'error',
    from: { path: places[room] },
    to: {
      path: '^src/',
      pathNot: [room, ...levels.slice(0, level).flat(), ...(besides[room] ?? [])].map((below) => places[below]),
    },
  })),
);

const packageRules = Object.entries(reserved).map(([name, allowed]) => ({
  name: `${name.replace(/^@|\/$/g, '').replaceAll('/', '-')}-in-its-room`,
  comment: `${name} may be imported only by: ${allowed.join(', ') || 'generated code'}`,
  severity: 'error',
  from: { path: '^src/', pathNot: allowed.map((place) => places[place]) },
  to: { path: `(^|/)node_modules/(@types/)?${name}` },
}));

module.exports = {
  forbidden: [
    ...roomRules,
    ...packageRules,
    {
      name: 'cli-holds-no-state',
      comment:
        'berth is a client of the sockets: of the rooms it may use base, config, and node, which looks and keeps nothing',
      severity: 'error',
      from: { path: places.cli },
      to: { path: '^src/', pathNot: [places.cli, places.base, places.config, places.node] },
    },
    {
      name: 'main-is-not-the-cli',
      comment: 'berthd and berth are two programs',
      severity: 'error',
      from: { path: places.main },
      to: { path: places.cli },
    },
    {
      name: 'known-rooms-only',
      comment: 'a new room gets a level in this file first',
      severity: 'error',
      from: { path: '^src/', pathNot: Object.values(places) },
      to: {},
    },
    {
      name: 'nothing-imports-main',
      comment: 'src/main.ts is the top',
      severity: 'error',
      from: {},
      to: { path: places.main },
    },
    {
      name: 'proto-types-in-server',
      comment: 'only the server and its clients know proto types',
      severity: 'error',
      from: { path: '^src/', pathNot: [places.server, places.cli] },
      to: { path: '^proto/' },
    },
    {
      name: 'base-needs-no-package',
      comment: 'src/base is made of node: built-ins only',
      severity: 'error',
      from: { path: places.base, pathNot: tests },
      to: { path: '(^|/)node_modules/', pathNot: 'node_modules/@types/node/' },
    },
    {
      name: 'processes-start-in-proc',
      comment: 'src/proc starts processes by posix_spawn; node:child_process would block the event loop',
      severity: 'error',
      from: { path: '^src/', pathNot: tests },
      to: { path: '^(node:)?(child_process|cluster)$' },
    },
    {
      name: 'sql-in-store',
      comment: 'src/store is the only room with SQL',
      severity: 'error',
      from: { path: '^src/' },
      to: { path: '^(node:)?sqlite$' },
    },
    {
      name: 'no-tests-in-the-program',
      comment: 'what is shipped must not import tests, tools or benchmarks',
      severity: 'error',
      from: { path: '^(src|proto)/', pathNot: tests },
      to: { path: ['^(test|bench|scripts)/', tests] },
    },
    {
      name: 'no-development-packages-in-the-program',
      comment: 'what is shipped must not need devDependencies',
      severity: 'error',
      from: { path: '^(src|proto)/', pathNot: tests },
      to: { dependencyTypes: ['npm-dev', 'npm-no-pkg', 'npm-unknown'], dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'no-cycles',
      comment: 'modules that import each other cannot be understood one by one',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    {
      name: 'no-orphans',
      comment: 'nothing imports it and it imports nothing: dead code',
      severity: 'error',
      from: { orphan: true, pathNot: ['\\.d\\.ts$', '-worker\\.ts$', tests] },
      to: {},
    },
    {
      name: 'resolvable',
      comment: 'an import that leads nowhere',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^(dist|bench/results|node_modules/\\.cache)/' },
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'require', 'node', 'default', 'types'],
      extensions: ['.ts', '.js', '.cjs', '.mjs', '.json', '.d.ts'],
    },
  },
};
