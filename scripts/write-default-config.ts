/** Writes deploy/berth.toml from the schema of src/config. A unit test compares the two. */
import { writeFileSync } from 'node:fs';

import { renderDefaultFile } from '../src/config/describe-config.ts';

writeFileSync(new URL('../deploy/berth.toml', import.meta.url), renderDefaultFile());
