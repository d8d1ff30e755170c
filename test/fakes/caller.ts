import { status } from '@grpc/grpc-js';

import { CliError } from '../../src/cli/cli-error.ts';
import type { ByteOutput } from '../../src/cli/output.ts';
import { runCli } from '../../src/cli/run-cli.ts';
import type { Caller, Method } from '../../src/cli/session.ts';
import type { PullPlan } from '../../src/image/plan-pull.ts';
import type { Finding } from '../../src/node/finding.ts';
import { tellFindings } from '../../src/node/mend.ts';

/** A berthd for tests of the command line: answers what a test lays ready, and keeps what it was asked. */
export class FakeCaller implements Caller {
  /** The names of the RPCs, in the order of the calls. */
  readonly asked: string[] = [];
  /** Abort it, and the command is interrupted. */
  readonly interrupt = new AbortController();
  /** What is found on the node where no berthd runs. */
  nodeFindings: readonly Finding[] = [];
  /** How an image would be pulled where no berthd runs. */
  nodePlans: readonly PullPlan[] = [];
  readonly #answers = new Map<string, (request: never) => unknown>();

  /** Answers an RPC by a function, which may throw CliError as a connection does. */
  on<Request, Response>(
    method: Method<Request, Response>,
    answer: (request: Request) => Response | Promise<Response>,
  ): this {
    this.#answers.set(method.path, answer);
    return this;
  }

  async call<Request, Response>(method: Method<Request, Response>, request: Request): Promise<Response> {
    this.asked.push(method.path.split('/').at(-1) ?? '');
    const answer = this.#answers.get(method.path) as ((request: Request) => Response | Promise<Response>) | undefined;
    if (!answer) throw new CliError(`${method.path} has no answer`, undefined, { code: status.UNIMPLEMENTED });
    return await answer(request);
  }

  /** Answers an RPC by a stream. */
  onStream<Request, Response>(
    method: Method<Request, Response>,
    answer: (request: Request) => Iterable<Response>,
  ): this {
    this.#answers.set(method.path, answer);
    return this;
  }

  async readAll<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    take: (response: Response) => Promise<void>,
  ): Promise<void> {
    this.asked.push(method.path.split('/').at(-1) ?? '');
    const answer = this.#answers.get(method.path) as ((request: Request) => Iterable<Response>) | undefined;
    for (const response of answer?.(request) ?? []) await take(response);
  }

  /** Such streams have no answers. */
  async readUntil(): Promise<void> {}

  close(): void {}
}

/** What a command line said, and its exit code. */
export interface CliRun {
  readonly exitCode: number;
  readonly out: string;
  readonly err: string;
}

/** Runs a command line against a fake berthd. */
export async function runWith(caller: FakeCaller, ...args: string[]): Promise<CliRun> {
  const said = { out: '', err: '' };
  const output: ByteOutput = {
    out: (text) => {
      said.out += text;
    },
    err: (text) => {
      said.err += text;
    },
    outBytes: async (chunk) => {
      said.out += Buffer.from(chunk).toString('latin1');
    },
  };
  const exitCode = await runCli(args, {
    output,
    env: {},
    connect: () => caller,
    checkNode: async () => caller.nodeFindings,
    planOnNode: async () => caller.nodePlans,
    examineNode: async (_config, fix) => await tellFindings(caller.nodeFindings, fix),
    watchInterrupts: () => Object.assign(caller.interrupt.signal, { [Symbol.dispose]: () => {} }),
  });
  return { exitCode, ...said };
}
