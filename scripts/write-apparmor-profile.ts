/** Writes the built-in AppArmor profile, as src/runtime has it, to the file that is its only argument. */

import { writeFileSync } from 'node:fs';

import { ABI_RULE, BUILT_IN_PROFILE_TEXT } from '../src/runtime/apparmor-profile.ts';

const HEADER = `# The profile that berthd loads by itself for containers (RuntimeDefault). As a file in /etc/apparmor.d it also survives
# aa-remove-unknown and a reload of AppArmor, and nodes that have no apparmor_parser in berthd's PATH have it from boot
# on. To change it, give it another name, load that, and name it in runtime.apparmor_profile:
#   install -m 644 deploy/apparmor.d/berth-default /etc/apparmor.d/ && apparmor_parser -r /etc/apparmor.d/berth-default
`;

const file = process.argv[2];
if (file === undefined) throw new Error('usage: write-apparmor-profile.ts FILE');
writeFileSync(file, `${HEADER}${ABI_RULE}${BUILT_IN_PROFILE_TEXT}`);
