/** Writes the default configuration, as the schema of src/config has it, to the file that is its only argument. */

import { writeFileSync } from 'node:fs';

import { renderDefaultFile } from '../src/config/describe-config.ts';

const file = process.argv[2];
if (file === undefined) throw new Error('usage: write-default-config.ts FILE');
writeFileSync(file, renderDefaultFile());
