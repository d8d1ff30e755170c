import { basename } from 'node:path';

/** What can be started beside the berthd of this checkout. */
export interface Peer {
  readonly kind: 'berth' | 'containerd' | 'crio';
  /** What tables call it. */
  readonly name: string;
  /** Of its programs, or for Berth of its checkout; empty: those that the PATH finds. */
  readonly folder: string;
}

/** Reads `containerd`, `crio`, either with `=/FOLDER` of its programs, or the folder of a checkout of Berth. */
export function parsePeer(text: string): Peer {
  if (text.startsWith('/')) return { kind: 'berth', name: basename(text), folder: text };
  const [, kind, folder = ''] = /^(containerd|crio)(?:=(\/.+))?$/.exec(text) ?? [];
  if (kind !== 'containerd' && kind !== 'crio') {
    throw new Error(
      `--with ${text}: expected containerd, crio, one of them with =/FOLDER, or the folder of a checkout`,
    );
  }
  return { kind, name: folder === '' ? kind : basename(folder), folder };
}

/** What a program of a peer is called by. */
export function programOf({ folder }: Peer, name: string): string {
  return folder === '' ? name : `${folder}/${name}`;
}
