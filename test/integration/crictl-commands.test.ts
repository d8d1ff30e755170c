import { after, before, describe as suite } from 'node:test';

import { findCrictl } from '../harness/crictl.ts';
import { aboutTests } from './crictl/about.ts';
import { containerTests } from './crictl/containers.ts';
import { eventTests } from './crictl/events.ts';
import { imageTests } from './crictl/images.ts';
import { CrictlLab } from './crictl/lab.ts';
import { podTests } from './crictl/pods.ts';
import { streamTests } from './crictl/streams.ts';

const found = findCrictl();

suite('sub-commands of crictl', { skip: 'missing' in found ? found.missing : false, timeout: 500_000 }, () => {
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
  eventTests(lab);
});
