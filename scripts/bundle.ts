/** Makes what bin/berthd and bin/berth run; scripts/build.sh calls it with the folder. */

import { readdirSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';

import { bundle } from '../packaging/bundle.ts';

const [, , folder = ''] = process.argv;
const { files } = await bundle(dirname(import.meta.dirname), resolve(folder));
// Names of parts change with what is in them.
for (const name of readdirSync(folder)) if (!files.includes(name)) rmSync(join(folder, name));
