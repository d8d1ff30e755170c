import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { closeSync, existsSync, readSync, writeSync } from 'node:fs';
import { buffer, text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';

import { FdStream } from './fd-stream.ts';
import { createPipe, createSocketPair } from './pipe.ts';

const isOpen = (fd: number): boolean => existsSync(`/proc/self/fd/${fd}`);

describe('FdStream', () => {
  it('reads a pipe to its end, and closes it', async () => {
    const { readFd, writeFd } = createPipe();
    const stream = new FdStream(readFd, { readable: true });
    writeSync(writeFd, 'one');
    closeSync(writeFd);
    assert.equal(await text(stream), 'one');
    await turn();
    assert.equal(isOpen(readFd), false);
  });

  it('writes a pipe, waits for its reader, and closes it', async () => {
    const { readFd, writeFd } = createPipe();
    const from = new FdStream(readFd, { readable: true });
    const to = new FdStream(writeFd, { writable: true });
    const sent = Buffer.alloc(1_000_000, 'x');
    let isWritten = false;
    to.write(sent, () => {
      isWritten = true;
    });
    await turn();
    assert.equal(isWritten, false, 'no pipe holds that much');
    to.end('end');
    const got = await buffer(from);
    assert.equal(got.length, sent.length + 3);
    assert.equal(isWritten, true);
    await turn();
    assert.deepEqual([isOpen(readFd), isOpen(writeFd)], [false, false]);
  });

  it('leaves small pieces to the kernel while nobody takes them', async () => {
    const { readFd, writeFd } = createPipe();
    const from = new FdStream(readFd, { readable: true });
    let seen = 0;
    from.once('data', ({ length }: Buffer) => {
      seen = length;
      from.pause();
    });
    for (let count = 0; count < 1000; count++) {
      writeSync(writeFd, 'x');
      await turn();
    }
    assert.ok(from.readableLength < 10, `${from.readableLength} pieces are held`);
    closeSync(writeFd);
    assert.equal(seen + (await text(from)).length, 1000);
  });

  it('does not read while nobody takes', async () => {
    const { readFd, writeFd } = createPipe();
    const from = new FdStream(readFd, { readable: true });
    const to = new FdStream(writeFd, { writable: true });
    let taken = 0;
    const chunk = Buffer.alloc(16 * 1024);
    const fill = (): void =>
      void to.write(chunk, (err) => {
        if (err) return;
        taken += chunk.length;
        fill();
      });
    fill();
    from.once('data', () => from.pause());
    for (let i = 0; i < 100; i++) await turn();
    assert.ok(taken > 0 && taken < 400_000, `${taken} bytes were taken`);
    from.destroy();
    to.on('error', () => {});
    to.destroy();
  });

  it('ends when a pipe is empty that somebody else holds open, and not before', async () => {
    const { readFd, writeFd } = createPipe();
    const stream = new FdStream(readFd, { readable: true });
    writeSync(writeFd, Buffer.alloc(60_000, 'x'));
    stream.endWhenEmpty(1_000_000);
    assert.equal((await text(stream)).length, 60_000);
    closeSync(writeFd);
  });

  it('ends after so many bytes of one who never stops', async () => {
    const { readFd, writeFd } = createPipe();
    const endless = spawn('yes', { stdio: ['ignore', writeFd, 'ignore'] });
    closeSync(writeFd);
    const stream = new FdStream(readFd, { readable: true });
    stream.once('data', () => stream.endWhenEmpty(100_000));
    const got = await buffer(stream);
    assert.ok(got.length > 0 && got.length <= 64 * 1024 + 100_000, `${got.length} bytes`);
    endless.kill('SIGKILL');
  });

  it('tells the writer that the reader has gone', async () => {
    const { readFd, writeFd } = createPipe();
    closeSync(readFd);
    const stream = new FdStream(writeFd, { writable: true });
    const { promise, resolve } = Promise.withResolvers<Error>();
    stream.once('error', resolve);
    stream.write('x');
    assert.equal((await promise).message.includes('EPIPE'), true);
    await turn();
    assert.equal(isOpen(writeFd), false);
  });

  it('has the end of what is written reach the other side of a socket, and goes on reading', async () => {
    const { ownFd, otherFd } = createSocketPair();
    const stream = new FdStream(ownFd, { readable: true, writable: true, atEnd: 'shutdown' });
    stream.end('to the end');
    await new Promise((resolve) => stream.once('finish', resolve));
    const got = Buffer.alloc(100);
    assert.equal(readSync(otherFd, got), 10);
    assert.equal(readSync(otherFd, got), 0);
    writeSync(otherFd, 'and back');
    closeSync(otherFd);
    assert.equal(await text(stream), 'and back');
    await turn();
    assert.equal(isOpen(ownFd), false);
  });

  it('refuses what comes, without an end of its own', async () => {
    const { ownFd, otherFd } = createSocketPair();
    const stream = new FdStream(ownFd, { readable: true, writable: true });
    stream.stopReading();
    assert.throws(() => writeSync(otherFd, 'x'), { code: 'EPIPE' });
    stream.destroy();
    closeSync(otherFd);
  });
});
