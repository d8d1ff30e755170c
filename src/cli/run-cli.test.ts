import assert from 'node:assert/strict';
import { describe as suite, test } from 'node:test';

import { status } from '@grpc/grpc-js';

import { AdminService } from '../../proto/gen/berth/admin.ts';
import {
  Container,
  ContainerState,
  Image,
  ImageServiceService as images,
  PodSandbox,
  PodSandboxState,
  RuntimeServiceService as runtime,
  StatusResponse,
} from '../../proto/gen/cri/api.ts';
import { FakeCaller, runWith } from '../../test/fakes/caller.ts';
import { CliError } from './cli-error.ts';

const ID = { pod: 'a'.repeat(64), container: 'b'.repeat(64), image: `sha256:${'c'.repeat(64)}` };

const container = (fields: Parameters<typeof Container.create>[0]): Container =>
  Container.create({ id: ID.container, state: ContainerState.CONTAINER_RUNNING, metadata: { name: 'web' }, ...fields });

/** A node with a pod, a container in it and an image. */
function node(): FakeCaller {
  const image = Image.create({
    id: ID.image,
    repoTags: ['docker.io/library/web:v1', 'docker.io/library/web:v2'],
    repoDigests: [`docker.io/library/web@sha256:${'d'.repeat(64)}`],
    size: 4_404_019n,
  });
  return new FakeCaller()
    .on(runtime.listPodSandbox, () => ({
      items: [
        PodSandbox.create({
          id: ID.pod,
          metadata: { name: 'web', namespace: 'default' },
          state: PodSandboxState.SANDBOX_READY,
        }),
      ],
    }))
    .on(runtime.podSandboxStatus, () => ({ status: undefined, info: {}, containersStatuses: [], timestamp: 0n }))
    .on(runtime.stopPodSandbox, () => ({}))
    .on(runtime.removePodSandbox, () => ({}))
    .on(runtime.listContainers, () => ({ containers: [container({ podSandboxId: ID.pod })] }))
    .on(images.listImages, () => ({ images: [image] }))
    .on(images.imageStatus, ({ image: asked }) => ({
      image: asked?.image === 'web:v1' ? image : undefined,
      info: {},
    }))
    .on(images.removeImage, () => ({}));
}

suite('what is in images', () => {
  test('an archive goes to standard output, in pieces, and not to a terminal', async () => {
    const caller = node().onStream(AdminService.saveImages, ({ images: asked }) => [
      { data: Buffer.from(asked.join()) },
      { data: Buffer.from([0xff]) },
    ]);
    assert.deepEqual(await runWith(caller, 'image', 'save', 'a:1', 'b:2'), {
      exitCode: 0,
      out: 'a:1,b:2\xff',
      err: '',
    });
    const shown = await runWith(caller, 'image', 'save');
    assert.match(shown.err, /missing required argument 'reference'/);
  });

  test('a history is a line for each step, whatever the builder wrote', async () => {
    const step = {
      created: '2020-01-01T00:00:00Z',
      createdBy: 'RUN make\nall',
      comment: '',
      diffId: '',
      sizeBytes: 0n,
    };
    const made = { ...step, created: 'once', createdBy: '', diffId: `sha256:${'e'.repeat(64)}`, sizeBytes: 2048n };
    const caller = node().on(AdminService.imageHistory, () => ({ entries: [step, made] }));
    const { out } = await runWith(caller, 'image', 'history', 'web:v1');
    const [, first, second, end] = out.split('\n');
    assert.match(first ?? '', /^- +- +\d+d +RUN make.*all$/);
    assert.match(second ?? '', /^e{12} +2\.0 KiB +- +-$/);
    assert.equal(end, '');
  });

  test('a damaged image is an exit code of 1', async () => {
    const image = { id: ID.image, names: [], problems: [], uncheckedLayers: 2 };
    const caller = node().on(AdminService.checkImages, () => ({ images: [image, { ...image, problems: ['broken'] }] }));
    const { exitCode, out, err } = await runWith(caller, 'image', 'check');
    assert.equal(exitCode, 1);
    assert.match(out, /^c{12} +whole \(2 layers have nothing to be compared with\)$/m);
    assert.match(out, /^c{12} +broken$/m);
    assert.match(err, /mends them/);
  });
});

suite('errors about images', () => {
  const failing = (code: status, message: string): FakeCaller => {
    const fail = (): never => {
      throw new CliError(message, undefined, { code });
    };
    return node()
      .on(AdminService.imageHistory, fail)
      .on(AdminService.checkImages, fail)
      .on(AdminService.mountImage, fail)
      .on(AdminService.listPulls, fail)
      .on(images.pullImage, fail);
  };

  test('for one that is not here there is a hint, whatever was asked', async () => {
    const caller = failing(status.NOT_FOUND, 'image nope is not here');
    for (const command of ['history', 'check', 'mount']) {
      const { exitCode, err } = await runWith(caller, 'image', command, 'nope');
      assert.deepEqual(
        [exitCode, err],
        [1, 'berth: image nope is not here\n  berth images shows what is there\n'],
        command,
      );
    }
  });

  test('a pull whose berthd is stopped may be repeated', async () => {
    const { err } = await runWith(failing(status.CANCELLED, 'berthd was stopped'), 'image', 'pull', 'a.org/b');
    assert.equal(err, 'berth: berthd was stopped\n  the pull, repeated when berthd runs again, goes on where it was\n');
  });

  test('a folder that is not there is named, not the file that was to be', async () => {
    const { err } = await runWith(node(), 'image', 'save', 'a:1', '-o', '/no/such/y.tar');
    assert.equal(err, 'berth: folder /no/such does not exist\n');
  });
});

suite('the plan of a pull', () => {
  const endpoint = {
    url: 'https://a.org/v2/app',
    mirror: true,
    tls: 'verified',
    credentials: '/auth.json (a.org)',
    serves: 'tags and content',
    because: '/r.conf, prefix "a.org"',
  };
  const plan = {
    reference: 'a.org/app:latest',
    endpoints: [endpoint],
    requirements: ['reject'],
    requirementsBecause: '/policy.json (default)',
    problem: '',
    notes: ['policy.json: no JSON'],
    passedOver: ['mirror m.org is passed over'],
    because: 'it names its registry',
  };

  test('is shown in words, or as JSON, and fails when nothing can be asked', async () => {
    const asked: unknown[] = [];
    const caller = node().on(AdminService.planPull, (request) => {
      asked.push(request);
      return { plans: [plan] };
    });
    const { exitCode, out } = await runWith(caller, 'config', 'check', 'a.org/app', '--namespace', 'blue');
    assert.equal(exitCode, 0);
    assert.deepEqual(asked, [{ image: 'a.org/app', namespace: 'blue' }]);
    assert.match(
      out,
      /1\. https:\/\/a\.org\/v2\/app \(mirror\)\n.*because +\/r\.conf[\s\S]*credentials +\/auth\.json[\s\S]*reject[\s\S]*\n {2}note: mirror m\.org is passed over\n[\s\S]*warning: .*no JSON/,
    );
    const { out: machine } = await runWith(caller, '--json', 'config', 'check', 'a.org/app');
    assert.deepEqual(JSON.parse(machine), { plans: [plan] });
    const broken = node().on(AdminService.planPull, () => ({
      plans: [{ ...plan, endpoints: [], problem: 'blocked' }],
    }));
    const { exitCode: failed, out: why } = await runWith(broken, 'config', 'check', 'a.org/app');
    assert.deepEqual([failed, /cannot be pulled: blocked/.test(why)], [1, true]);
  });
});

suite('the check of configuration and node', () => {
  const findings = [
    { severity: 'error', subject: 'cni.conf_dir /x', message: 'is empty', remedy: 'cp a b' },
    { severity: 'warning', subject: 'iptables', message: 'is missing', remedy: 'apt-get install iptables' },
  ] as const;
  const unavailable = (): FakeCaller =>
    node().on(AdminService.checkConfig, () => {
      throw new CliError('no berthd answers');
    });
  const args = ['config', 'check'];

  test('looks over the node itself where no berthd runs', async () => {
    const caller = unavailable();
    caller.nodeFindings = findings;
    const { exitCode, out } = await runWith(caller, ...args);
    assert.equal(exitCode, 1);
    assert.match(out, /\nerror: cni\.conf_dir \/x: is empty\n {2}cp a b\n/);
    assert.match(out, /\n1 error, 1 warning\n$/);
    caller.nodeFindings = findings.slice(1);
    assert.equal((await runWith(caller, ...args)).exitCode, 0);
    caller.nodeFindings = [];
    assert.match((await runWith(caller, ...args)).out, /\nnothing is wrong\n$/);
  });

  test('asks a berthd that runs', async () => {
    const caller = node().on(AdminService.checkConfig, () => ({ configText: 'x = 1\n', findings: [...findings] }));
    caller.nodeFindings = [{ ...findings[0], subject: 'not asked' }];
    const { exitCode, out } = await runWith(caller, '--json', ...args);
    const answer = JSON.parse(out) as { running: string; findings: unknown };
    assert.deepEqual([exitCode, answer.running, answer.findings], [1, 'x = 1\n', findings]);
  });

  test('says of a broken file whether a berthd runs that goes on', async () => {
    const running = node().on(AdminService.checkConfig, () => ({ configText: 'x = 1\n', findings: [] }));
    const broken = [...args, '--config', '/no/such'];
    const [beside, alone] = [await runWith(running, ...broken), await runWith(unavailable(), ...broken)];
    assert.deepEqual([beside.exitCode, alone.exitCode], [1, 1]);
    assert.match(
      beside.err,
      /does not exist.*\n {2}the running berthd goes on with what it has; berthd will not start/,
    );
    assert.match(alone.err, /\n {2}berthd will not start with it/);
  });
});

suite('what is there', () => {
  test('pods with what the network plugins say', async () => {
    const answering = (checked: boolean, problem: string): FakeCaller =>
      node().on(AdminService.checkPodNetwork, () => ({ checked, problem }));
    const shown = async (caller: FakeCaller): Promise<[number, string]> => {
      const { exitCode, out } = await runWith(caller, 'pods', '--check');
      return [exitCode, out.trimEnd().split('\n').at(-1)?.split(/ {2,}/).at(-1) ?? ''];
    };
    assert.deepEqual(await shown(answering(true, '')), [0, 'ok']);
    assert.deepEqual(await shown(answering(false, '')), [0, '-']);
    assert.deepEqual(await shown(answering(true, 'no such link')), [1, 'no such link']);
  });

  test('pods, containers and images are tables for people', async () => {
    assert.equal(
      (await runWith(node(), 'pods')).out,
      `POD           NAMESPACE  NAME  STATE  IP  AGE\n${'a'.repeat(12)}  default    web   ready  -   -\n`,
    );
    assert.equal(
      (await runWith(node(), 'ps')).out,
      `CONTAINER     NAME  STATE    IMAGE  POD           AGE\n${'b'.repeat(12)}  web   running         ${'a'.repeat(12)}  -\n`,
    );
    assert.deepEqual((await runWith(node(), 'images')).out.split('\n').slice(0, 3), [
      'IMAGE         NAME                      SIZE',
      `${'c'.repeat(12)}  docker.io/library/web:v1  4.2 MiB`,
      `${'c'.repeat(12)}  docker.io/library/web:v2  4.2 MiB`,
    ]);
  });

  test('and JSON for programs, wherever --json stands', async () => {
    for (const args of [
      ['--json', 'images'],
      ['images', '--json'],
    ]) {
      const [image] = JSON.parse((await runWith(node(), ...args)).out) as [{ id: string; size: number }];
      assert.deepEqual([image.id, image.size], [ID.image, 4_404_019]);
    }
  });

  test('containers that do not run are shown with --all', async () => {
    const caller = node().on(runtime.listContainers, () => ({
      containers: [container({ state: ContainerState.CONTAINER_EXITED })],
    }));
    assert.equal((await runWith(caller, 'ps')).out.split('\n').length, 2);
    assert.match((await runWith(caller, 'ps', '-a')).out, / exited /);
  });

  test('a node that cannot run pods is an exit code of 1, with the reason', async () => {
    const condition = (type: string, met: boolean) => ({ type, status: met, reason: met ? '' : 'Bad', message: 'x' });
    for (const ready of [true, false]) {
      const caller = node().on(runtime.status, () =>
        StatusResponse.create({
          status: { conditions: [condition('RuntimeReady', true), condition('NetworkReady', ready)] },
        }),
      );
      const { exitCode, out } = await runWith(caller, 'status');
      assert.equal(exitCode, ready ? 0 : 1);
      assert.match(out, ready ? /NetworkReady +yes/ : /NetworkReady +no +Bad: x/);
    }
  });

  test('the default runtime handler is told by its name', async () => {
    const caller = node().on(runtime.status, () =>
      StatusResponse.create({
        runtimeHandlers: [{ name: '' }, { name: 'crun' }, { name: 'runc' }],
        info: { info: '{"defaultHandler":"runc"}' },
      }),
    );
    assert.match((await runWith(caller, 'status')).out, /^runtime handlers: crun, runc \(default\)$/m);
  });

  test('help is there for commands of any depth, and mistakes lead to the right one', async () => {
    assert.match((await runWith(node(), 'help', 'image', 'load')).out, /^Usage: berth image load /);
    assert.match((await runWith(node(), 'help')).out, /^Usage: berth /);
    assert.match((await runWith(node(), 'help', 'image', 'x')).err, /unknown command 'image x'/);
    assert.match((await runWith(node(), 'exec')).err, /\(berth exec --help shows what there is\)/);
  });

  test('a command that took too long is 124', async () => {
    const caller = node().on(runtime.execSync, () => {
      throw new CliError('killed', undefined, { code: status.DEADLINE_EXCEEDED });
    });
    assert.equal((await runWith(caller, 'exec', '--timeout', '1', 'web', 'sleep', '9')).exitCode, 124);
  });

  test('steps of a pod are found by its name, and what is neither pod nor container is said so', async () => {
    const step = { pipeline: 'Run', name: 'make', outcome: 'ok', durationMs: 1.25, startedAtUs: 0n };
    const caller = node().on(AdminService.podSteps, ({ id }) => ({ steps: id === ID.pod ? [step] : [] }));
    assert.match((await runWith(caller, 'steps', 'web')).out, /web +Run +make +ok +1\.[23]\n/);
    caller.on(AdminService.podSteps, ({ id }) => ({
      steps: [{ ...step, pipeline: id === ID.pod ? 'Run' : 'Create' }],
    }));
    assert.match((await runWith(caller, 'steps', 'web')).out, /web +Run .*\nweb +Create /, "with its containers'");
    const { exitCode, err } = await runWith(caller, 'steps', 'nosuch');
    assert.equal(exitCode, 1);
    assert.match(err, /^berth: no pod or container is called nosuch, and no id begins so\n {2}berth pods/);
  });
});

suite('errors', () => {
  test('are text for people, with what to do', async () => {
    assert.deepEqual(await runWith(node(), 'rm', 'nosuch'), {
      exitCode: 1,
      out: '',
      err: 'berth: no pod is called nosuch, and no id begins so\n  berth pods shows what is there\n',
    });
  });

  test('show what a registry has put into them, and do not obey it', async () => {
    const caller = node().on(images.pullImage, () => {
      throw new CliError('not JSON: \u001b[2J');
    });
    assert.equal((await runWith(caller, 'image', 'pull', 'x')).err, 'berth: not JSON: \\u001b[2J\n');
  });

  for (const [what, args, words] of [
    ['an unknown option', ['--json', 'pods', '--bogus'], /^unknown option '--bogus'/],
    ['an option before --json', ['--bogus', '--json', 'pods'], /^unknown option '--bogus'/],
    ['an unknown command', ['--json', 'nosuch'], /^unknown command 'nosuch'/],
    ['a missing argument', ['--json', 'exec', 'web'], /^missing required argument 'command'/],
    ['a value that is none', ['--json', 'exec', '--timeout', 'x', 'web', 'ls'], /is not a number of seconds/],
    ['no command', ['--json'], /^no command is given$/],
    ['half a command', ['--json', 'image'], /^no command is given$/],
    ['a bad socket', ['--json', '--socket', 'tcp://x', 'pods'], /^"tcp:\/\/x" is not a socket of berthd/],
    ['what is not there', ['--json', 'rm', 'nosuch'], /^no pod is called nosuch/],
    ['an image that is not there', ['--json', 'image', 'rm', 'nosuch'], /^image nosuch is not here/],
    ['a port that is none', ['--json', 'run', '-p', '80', 'web:v1'], /^80 is not HOST:CONTAINER/],
    ['an answer of berthd', ['--json', 'version'], /has no answer$/],
    ['a configuration', ['--json', 'config', 'check', '--config', '/no/such'], /^--config: \/no\/such does not exist/],
  ] as const) {
    test(`are one line of JSON with --json: ${what}`, async () => {
      const { exitCode, err } = await runWith(node(), ...args);
      assert.equal(exitCode, 1);
      assert.match(err, /^\{[^\n]*\}\n$/);
      const { error } = JSON.parse(err) as { error: string };
      assert.match(error, words);
    });
  }

  test('name the status that berthd answered with', async () => {
    const { err } = await runWith(node(), '--json', 'version');
    assert.equal((JSON.parse(err) as { code: string }).code, 'UNIMPLEMENTED');
  });

  test('--json after -- is the program’s own', async () => {
    const caller = node().on(runtime.execSync, ({ cmd }) => ({
      stdout: Buffer.from(cmd.join(' ')),
      stderr: Buffer.alloc(0),
      exitCode: 0,
    }));
    assert.equal((await runWith(caller, 'exec', 'web', '--', 'ls', '--json')).out, 'ls --json');
  });

  test('a bug is JSON too', async () => {
    const caller = node().on(runtime.version, () => {
      throw new TypeError('oops');
    });
    const { exitCode, err } = await runWith(caller, '--json', 'version');
    assert.equal(exitCode, 1);
    assert.match((JSON.parse(err) as { error: string }).error, /^TypeError: oops/);
    await assert.rejects(runWith(caller, 'version'), /oops/);
  });

  test('help is no error', async () => {
    for (const args of [['--help'], ['--json', 'image', 'load', '--help'], ['help', 'exec']]) {
      const { exitCode, out, err } = await runWith(node(), ...args);
      assert.deepEqual([exitCode, err], [0, '']);
      assert.match(out, /^Usage: berth/);
    }
    const { exitCode, out, err } = await runWith(node());
    assert.deepEqual([exitCode, out], [1, '']);
    assert.match(err, /^Usage: berth/);
  });
});

suite('commands in containers', () => {
  const execOf = (answer: () => { stdout: Buffer; stderr: Buffer; exitCode: number }): FakeCaller =>
    node().on(runtime.execSync, answer);
  const refusing = (details: string, code = status.INVALID_ARGUMENT): FakeCaller =>
    execOf(() => {
      throw new CliError(details, undefined, { code });
    });

  test('end with their own exit code and output', async () => {
    const caller = execOf(() => ({ stdout: Buffer.from('o\n'), stderr: Buffer.from('e\n'), exitCode: 3 }));
    assert.deepEqual(await runWith(caller, 'exec', 'web', 'x'), { exitCode: 3, out: 'o\n', err: 'e\n' });
    const { out } = await runWith(caller, '--json', 'exec', 'web', 'x');
    assert.deepEqual(JSON.parse(out), { exitCode: 3, stdout: 'o\n', stderr: 'e\n' });
  });

  for (const [details, exitCode] of [
    // What crun and runc say.
    ['cmd: x cannot be run in the container: executable file `x` not found in $PATH: No such file or directory', 127],
    ['cmd: x cannot be run in the container: exec: "x": executable file not found in $PATH', 127],
    ['cmd: ./x cannot be run in the container: exec: "./x": stat ./x: no such file or directory', 127],
    ['cmd: /etc/passwd cannot be run in the container: open executable: Permission denied', 126],
    ['cmd: / cannot be run in the container: open executable: Operation not permitted', 126],
    ['timeout: x not found', 1],
  ] as const) {
    test(`exit code ${exitCode}: ${details}`, async () => {
      const { exitCode: found, err } = await runWith(refusing(details), 'exec', 'web', 'x');
      assert.deepEqual([found, err], [exitCode, `berth: ${details}\n`]);
    });
  }

  test('another error of berthd is none of the command', async () => {
    const caller = refusing('cmd: not found, and much else', status.INTERNAL);
    assert.equal((await runWith(caller, 'exec', 'web', 'x')).exitCode, 1);
  });

  test('of containers of a name in one pod the newest is meant, one that runs before the others', async () => {
    const pod = { podSandboxId: ID.pod };
    const exited = { ...pod, state: ContainerState.CONTAINER_EXITED };
    const answering = (...containers: Container[]): FakeCaller =>
      node()
        .on(runtime.listContainers, () => ({ containers }))
        .on(runtime.execSync, ({ containerId }) => ({
          stdout: Buffer.from(containerId.slice(0, 1)),
          stderr: Buffer.alloc(0),
          exitCode: 0,
        }));
    const [first, second, third] = [
      container({ ...exited, id: '1'.repeat(64), createdAt: 1n }),
      container({ ...pod, id: '2'.repeat(64), createdAt: 2n }),
      container({ ...exited, id: '3'.repeat(64), createdAt: 3n }),
    ];
    assert.equal((await runWith(answering(third, second, first), 'exec', 'web', 'x')).out, '2');
    assert.equal((await runWith(answering(first, third), 'exec', 'web', 'x')).out, '3');
  });

  test('of several containers of a name the one that runs is meant, and of several such none', async () => {
    const caller = node()
      .on(runtime.listContainers, () => ({
        containers: [
          container({ id: '1'.repeat(64), createdAt: 1n, state: ContainerState.CONTAINER_EXITED }),
          container({ id: '2'.repeat(64), createdAt: 2n }),
          container({ id: '3'.repeat(64), createdAt: 3n, state: ContainerState.CONTAINER_EXITED }),
        ],
      }))
      .on(runtime.execSync, ({ containerId }) => ({
        stdout: Buffer.from(containerId.slice(0, 1)),
        stderr: Buffer.alloc(0),
        exitCode: 0,
      }));
    assert.equal((await runWith(caller, 'exec', 'web', 'x')).out, '2');
    assert.equal((await runWith(caller, 'exec', '33', 'x')).out, '3');
    assert.match((await runWith(caller, 'exec', '4', 'x')).err, /no container is called 4/);
    const twice = node().on(runtime.listContainers, () => ({
      containers: ['1', '2'].map((digit) => container({ id: digit.repeat(64), podSandboxId: digit })),
    }));
    assert.match((await runWith(twice, 'exec', 'web', 'x')).err, /2 containers are called web: 1{12}, 2{12}/);
  });

  test('the beginning of several ids is refused', async () => {
    const caller = node().on(runtime.listContainers, () => ({
      containers: ['ab', 'ac'].map((id) => container({ id: id.repeat(32) })),
    }));
    assert.match((await runWith(caller, 'exec', 'a', 'x')).err, /a is the beginning of 2 container ids: abab/);
  });
});

suite('removing', () => {
  test('pods go side by side, and one that stays keeps no other', async () => {
    const pods = ['1', '2', '3'].map((digit) => PodSandbox.create({ id: digit.repeat(64), metadata: { name: digit } }));
    const stopped: string[] = [];
    const caller = node()
      .on(runtime.listPodSandbox, () => ({ items: pods }))
      .on(runtime.stopPodSandbox, ({ podSandboxId }) => {
        stopped.push(podSandboxId.slice(0, 1));
        if (podSandboxId.startsWith('3')) return {};
        throw new CliError(`pod ${podSandboxId.slice(0, 1)} stays`);
      });
    const { exitCode, out, err } = await runWith(caller, 'rm', '1', '2', '3');
    assert.deepEqual([exitCode, out, stopped], [1, `${'3'.repeat(12)}\n`, ['1', '2', '3']]);
    assert.equal(err, 'berth: pod 1 stays\nberth: pod 2 stays\n  berth rm can be repeated\n');
  });

  test('an image shows all the names that went with it', async () => {
    const { exitCode, out } = await runWith(node(), 'image', 'rm', 'web:v1');
    assert.equal(exitCode, 0);
    assert.deepEqual(
      out
        .trimEnd()
        .split('\n')
        .map((line) => line.split(/ +/)[1]),
      [
        'NAME',
        'docker.io/library/web:v1',
        'docker.io/library/web:v2',
        `docker.io/library/web@sha256:${'d'.repeat(64)}`,
      ],
    );
  });

  test('what was removed before a mistake is shown', async () => {
    const { exitCode, out, err } = await runWith(node(), '--json', 'image', 'rm', 'web:v1', 'nosuch');
    assert.equal(exitCode, 1);
    assert.equal((JSON.parse(out) as { id: string; names: string[] }[])[0]?.names.length, 3);
    assert.match(err, /nosuch is not here/);
  });

  test('of pods none is removed when one of them is not there', async () => {
    const pods = await runWith(node(), '--json', 'rm', 'web', 'nosuch');
    assert.deepEqual([pods.exitCode, pods.out], [1, '']);
  });
});

test('loading shows the names, and asks for a name where there is none', async () => {
  const caller = node().on(AdminService.loadImage, ({ path, name }) => ({
    images: [{ id: ID.image, tags: name === '' ? [] : [`${name}:${path.slice(1)}`] }],
  }));
  const named = await runWith(caller, 'image', 'load', '--name', 'x/web', '/v1');
  assert.deepEqual([named.out, named.err], [`IMAGE         NAME\n${'c'.repeat(12)}  x/web:v1\n`, '']);
  const unnamed = await runWith(caller, 'image', 'load', '/v1');
  assert.match(unnamed.out, /cccc {2}-\n/);
  assert.match(unnamed.err, /--name/);
});

suite('pulls', () => {
  const digest = `sha256:${'e'.repeat(64)}`;
  const pull = {
    image: 'docker.io/library/web:v1',
    phase: 'downloading',
    startedAtUs: 0n,
    layersPresent: 1,
    layers: [{ digest, phase: 'downloading', bytesTotal: 2048n, bytesDone: 1024n }],
    transferredBytes: 1024n,
    bytesPerSecond: 512,
    secondsLeft: 2,
  };

  test('show layer, bytes, rate and time left', async () => {
    const caller = node().on(AdminService.listPulls, () => ({ pulls: [pull] }));
    assert.equal(
      (await runWith(caller, 'pulls')).out,
      [
        'IMAGE                     LAYER         PHASE        BYTES               RATE     LEFT  AGE',
        'docker.io/library/web:v1  0 of 1        downloading  1.0 KiB of 2.0 KiB  512 B/s  2s    -',
        '                          eeeeeeeeeeee  downloading  1.0 KiB of 2.0 KiB\n',
      ].join('\n'),
    );
  });

  test('come with plain lines where there is no terminal, and with none for programs', async () => {
    const calls = { pulls: 0 };
    const shown = Promise.withResolvers<void>();
    const caller = node()
      .on(AdminService.listPulls, () => {
        calls.pulls += 1;
        if (calls.pulls > 1) shown.resolve();
        return { pulls: [pull] };
      })
      .on(images.pullImage, async () => {
        await shown.promise;
        return { imageRef: ID.image };
      });
    const { out, err } = await runWith(caller, 'image', 'pull', 'web:v1');
    assert.deepEqual(
      [out, err],
      [`${ID.image}\n`, 'eeeeeeeeeeee downloading 2.0 KiB\neeeeeeeeeeee done 2.0 KiB\n1 more layer was here\n'],
    );
  });

  test('credentials without a colon are refused before anything is asked', async () => {
    const { exitCode, err } = await runWith(node(), 'image', 'pull', 'web:v1', '--creds', 'joe');
    assert.deepEqual([exitCode, err.includes('--creds has no colon')], [1, true]);
  });

  test('image ls is images', async () => {
    assert.deepEqual(await runWith(node(), 'image', 'ls'), await runWith(node(), 'images'));
  });

  test('inspect shows all of an image, and says when there is none', async () => {
    const shown = await runWith(node(), 'image', 'inspect', 'web:v1');
    const { id, size, info }: { id: string; size: number; info: object } = JSON.parse(shown.out);
    assert.deepEqual([id, size, info], [ID.image, 4_404_019, {}]);
    const none = await runWith(node(), 'image', 'inspect', 'other');
    assert.notEqual(none.exitCode, 0);
    assert.match(none.err, /image other is not here/);
  });

  test('prune says so when there is nothing, and what it does not know', async () => {
    const folder = { kind: 'folder', name: 'x', reason: 'left', bytes: 0n, problem: '' };
    const pruned = async (items: readonly (typeof folder)[], ...args: readonly string[]): Promise<string> =>
      (
        await runWith(
          node().on(AdminService.pruneImages, () => ({ items: [...items] })),
          'image',
          'prune',
          ...args,
        )
      ).err;
    assert.equal(await pruned([]), 'nothing to remove; --all takes images too that no container uses\n');
    assert.equal(await pruned([], '--all'), 'nothing to remove\n');
    assert.equal(await pruned([folder, { ...folder, bytes: 2048n }]), 'at least 2.0 KiB freed\n');
    assert.equal(await pruned([], '--json'), '');
  });

  test('what names no image is told without the field of the request, and who uses one how to see that', async () => {
    const bad = 'image.image: "Bad//x" is not an image reference';
    const caller = node()
      .on(images.imageStatus, ({ image }) => {
        if (image?.image === 'web:v1') return { image: Image.create({ id: ID.image }), info: {} };
        throw new CliError(image?.image === '' ? 'image.image: is empty' : bad, undefined, {
          code: status.INVALID_ARGUMENT,
        });
      })
      .on(images.pullImage, () => {
        throw new CliError(bad, undefined, { code: status.INVALID_ARGUMENT });
      })
      .on(images.removeImage, () => {
        throw new CliError('image x is in use by container y', undefined, { code: status.FAILED_PRECONDITION });
      });
    const told = 'berth: "Bad//x" is not an image reference\n';
    for (const verb of ['rm', 'inspect', 'pull'])
      assert.equal((await runWith(caller, 'image', verb, 'Bad//x')).err.split('\n').at(-2), told.trimEnd(), verb);
    assert.equal((await runWith(caller, 'image', 'rm', '')).err, 'berth: the name of the image is empty\n');
    const used = await runWith(caller, 'image', 'rm', 'web:v1');
    assert.match(used.err, /^berth: image x is in use by container y\n {2}berth ps -a shows it .*berth rm POD/);
  });

  test('prune shows what goes and why, and fails when something stays', async () => {
    const item = { kind: 'blob', name: 'x', reason: 'a pull failed', bytes: 1024n, problem: '' };
    const asked: unknown[] = [];
    const caller = node().on(AdminService.pruneImages, (request) => {
      asked.push(request);
      return { items: [{ ...item, problem: request.dryRun ? '' : 'no' }] };
    });
    const dry = await runWith(caller, 'image', 'prune', '--dry-run');
    assert.deepEqual([dry.exitCode, dry.out], [0, 'KIND  NAME  SIZE     WHY\nblob  x     1.0 KiB  a pull failed\n']);
    assert.equal(dry.err, '1.0 KiB would be freed; nothing was removed\n');
    const { exitCode, err } = await runWith(caller, 'image', 'prune', '--all');
    assert.deepEqual([exitCode, err], [1, '0 B freed; 1 of 1 could not be removed\n']);
    assert.deepEqual(asked, [
      { dryRun: true, unusedImages: false },
      { dryRun: false, unusedImages: true },
    ]);
  });
});
