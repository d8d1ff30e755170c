/**
 * A thread that moves a database's write-ahead log into the database, on a connection of its own: it waits for the disk
 * (fsync), which the main thread must not. Each message is a request, each answer empty or what went wrong.
 */

import * as threads from 'node:worker_threads';

import Database from 'better-sqlite3';

import { describe } from '../base/errors.ts';

const { parentPort, workerData }: { parentPort: threads.MessagePort | null; workerData: unknown } = threads;
const db = new Database(String(workerData), { fileMustExist: true });

parentPort?.on('message', () => {
  try {
    // It waits for nobody, and nobody for it: readers and the writer go on.
    db.pragma('wal_checkpoint(PASSIVE)');
    parentPort?.postMessage('');
  } catch (err) {
    parentPort?.postMessage(describe(err));
  }
});
