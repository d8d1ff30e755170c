import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, before, describe as suite, test } from 'node:test';

import { findCrictl } from '../harness/crictl.ts';
import { aboutTests } from './crictl/about.ts';
import { containerTests } from './crictl/containers.ts';
import { eventTests } from './crictl/events.ts';
import { imageTests } from './crictl/images.ts';
import { CrictlLab } from './crictl/lab.ts';
import { podTests } from './crictl/pods.ts';
import { statsTests } from './crictl/stats.ts';
import { streamTests } from './crictl/streams.ts';

const found = findCrictl();

suite('every sub-command of crictl', { skip: 'missing' in found ? found.missing : false, timeout: 900_000 }, () => {
  const path = 'path' in found ? found.path : '';
  let started: CrictlLab;
  const lab = (): CrictlLab => started;

  before(async () => {
    started = await CrictlLab.start(path);
  });
  after(() => started.close());

  aboutTests(lab);
  imageTests(lab);
  podTests(lab);
  containerTests(lab);
  streamTests(lab);
  statsTests(lab);
  eventTests(lab);

  test('none was left out', () => {
    const help = execFileSync(path, ['--help'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    const [, commands = ''] = /\nCOMMANDS:\n([\s\S]*?)\n\n/.exec(help) ?? [];
    const names = [...commands.matchAll(/^ {3}([a-z][a-z-]*)/gm)].map(([, name]) => name ?? '');
    assert.ok(names.length > 25, help);
    assert.deepEqual(
      names.filter((name) => name !== 'help' && !lab().tried.has(name)),
      [],
    );
  });
});
