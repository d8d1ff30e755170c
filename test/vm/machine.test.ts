import assert from 'node:assert/strict';
import { test } from 'node:test';

import { lastLines, type MachineParts, qemuArguments } from './machine.ts';

const parts: MachineParts = {
  kernel: '/c/vmlinuz',
  initrd: '/c/initrd.img',
  root: '/c/root.ext4',
  checkout: '/w/checkout.ext4',
  folder: '/w',
  logs: '/r',
  accelerator: 'tcg',
  memoryMib: 2048,
};

test('the disks come in the order that the fstab of the image expects, and are not written to', () => {
  const drives = qemuArguments(parts).filter((argument) => argument.startsWith('file=') && argument.includes('virtio'));
  assert.deepEqual(
    drives.map((drive) => /^file=([^,]+)/.exec(drive)?.[1]),
    [parts.root, parts.checkout],
  );
  for (const drive of drives) assert.match(drive, /,snapshot=on/);
});

test('emulation is in one thread, and kvm is asked for by name only', () => {
  assert.ok(qemuArguments(parts).join(' ').includes('-accel tcg,thread=single'));
  const args = qemuArguments({ ...parts, accelerator: 'kvm' }).join(' ');
  assert.ok(args.includes('-accel kvm') && !args.includes('tcg'));
});

test('the end of a console is shown without what only a terminal understands', () => {
  const console = 'first\r\n[\u001b[0;32m  OK  \u001b[0m] Started \u001b[0;1;39mberthd\u001b[0m.\r\nlast\r\n\n';
  assert.equal(lastLines(console, 2), '[  OK  ] Started berthd.\nlast');
  assert.equal(lastLines('', 5), '');
});
