import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

import { AdminService } from '../../proto/gen/berth/admin.ts';
import {
  CgroupDriver,
  ListPodSandboxRequest,
  RuntimeConfigRequest,
  RuntimeServiceService as runtime,
} from '../../proto/gen/cri/api.ts';
import { buildBusyboxLayout, type FixtureConfig } from '../fakes/images.ts';
import { type BerthdOptions, TestBerthd } from './berthd.ts';
import { CriLab } from './cri-lab.ts';

const IMAGE = 'example.com/busybox:test';

/** How a lab's berthd and image shall be. */
export interface LabOptions extends BerthdOptions {
  /** Of the image. */
  readonly image?: FixtureConfig;
  readonly files?: Readonly<Record<string, string>>;
}

/** A berthd with a busybox image in it, and short words for what tests do with pods. */
export class PodLab extends CriLab {
  readonly berthd: TestBerthd;
  readonly imageId: string;

  /** True when systemd makes the cgroups. */
  readonly isSystemd: boolean;

  private constructor(berthd: TestBerthd, imageId: string, isSystemd: boolean) {
    const name = basename(berthd.state);
    // A cgroup of this lab's own: what is left in it is its own fault.
    const cgroupParent = isSystemd ? `/${name.replaceAll('-', '')}.slice` : `/${name}`;
    super(berthd, { image: IMAGE, logs: join(berthd.root, 'logs'), cgroupParent, namespace: 'test' });
    this.isSystemd = isSystemd;
    this.berthd = berthd;
    this.imageId = imageId;
  }

  static async start({ image = {}, files = {}, ...options }: LabOptions = {}): Promise<PodLab> {
    const layout = mkdtempSync(join(tmpdir(), 'berth-layout-'));
    const berthd = new TestBerthd(options);
    try {
      await buildBusyboxLayout(layout, { tag: IMAGE, config: image, files });
      await berthd.start();
      const { images } = await berthd.call(AdminService.loadImage, { path: layout, name: '' });
      assert.equal(images.length, 1);
      const { linux } = await berthd.call(runtime.runtimeConfig, RuntimeConfigRequest.create());
      return new PodLab(berthd, images[0]?.id ?? '', linux?.cgroupDriver === CgroupDriver.SYSTEMD);
    } catch (err) {
      await berthd[Symbol.asyncDispose]();
      throw err;
    } finally {
      rmSync(layout, { recursive: true });
    }
  }

  /** A cgroup parent below the lab's own, for a pod that shall have it to itself. */
  parentBelow(name: string): string {
    const slice = basename(this.cgroupParent, '.slice');
    return this.isSystemd ? `${this.cgroupParent}/${slice}-${name}.slice` : `${this.cgroupParent}/${name}`;
  }

  /** Where a container's cgroup is in each hierarchy. */
  cgroupOf(containerId: string, parent = this.cgroupParent): string {
    return `${parent}/berth-${containerId}${this.isSystemd ? '.scope' : ''}`;
  }

  /**
   * Removes all pods, so that a test that failed halfway does not make the next one fail, and looks what is left. A
   * berthd that the test has left dead is started anew for the next one.
   */
  async afterTest(test: object, kept: readonly string[] = []): Promise<void> {
    const hasFailed = 'passed' in test && test.passed === false;
    if (hasFailed) process.stderr.write(`berthd's log:\n${this.berthd.log()}\n`);
    const log = this.berthd.log();
    const wasDead = await this.berthd.revive();
    const { items } = await this.berthd.call(runtime.listPodSandbox, ListPodSandboxRequest.create());
    await Promise.all(items.flatMap(({ id }) => (kept.includes(id) ? [] : [this.removePod(id)])));
    if (kept.length === 0) this.berthd.assertNoTraces();
    assert.ok(hasFailed || !wasDead, `berthd was gone after the test:\n${log}`);
  }

  async close(): Promise<void> {
    await this.berthd[Symbol.asyncDispose]();
  }
}
