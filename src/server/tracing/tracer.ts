import { AsyncLocalStorage } from 'node:async_hooks';

import { describe, kindOf } from '../../base/errors.ts';
import type { SpanFacts, Tracing } from '../../base/tracing.ts';
import { newSpanId, newTraceId, type TraceContext } from './trace-context.ts';

/** A span that has ended. */
export interface EndedSpan {
  readonly traceId: string;
  readonly spanId: string;
  /** Empty for the first of its trace. */
  readonly parentId: string;
  readonly state: string;
  readonly name: string;
  /** A call that was answered, something within, or a program that was run. */
  readonly kind: 'server' | 'internal' | 'client';
  /** Milliseconds since 1970, with fractions. */
  readonly startMs: number;
  readonly endMs: number;
  readonly facts: SpanFacts;
  /** What went wrong; undefined when nothing did. */
  readonly problem: string | undefined;
}

/** Where ended spans go. Never throws and never waits. */
export interface SpanSink {
  offer(span: EndedSpan): void;
  /** How many wait to be sent. */
  readonly waiting: number;
  /** Sends what waits, for a short while. */
  close(): Promise<void>;
}

/** A span of a trace that is recorded. */
interface OpenSpan {
  readonly traceId: string;
  readonly spanId: string;
  readonly state: string;
  facts: SpanFacts;
  /** When it ended, on the clock of performance.now(). */
  endedAtMs: number | undefined;
}

/** What a call is, for its span. */
export interface TracedCall {
  readonly method: string;
  /** The caller's trace, if it has one. */
  readonly parent: TraceContext | undefined;
  /** Polls begin no traces of their own. */
  readonly isPoll: boolean;
  readonly facts: SpanFacts;
}

/** What a client left goes on and belongs to its trace, but not what was set off by it and goes on for ever. */
const LATE_MS = 120_000;
const MAX_PROBLEM_CHARS = 1000;
const MILLION = 1_000_000;

/**
 * Records spans of the calls that are sampled: those whose caller has decided so, and of others a share. Which span goes on
 * follows the asynchronous calls (AsyncLocalStorage), so that rooms need not hand it on.
 */
export class Tracer implements Tracing {
  readonly #now = new AsyncLocalStorage<OpenSpan>();
  readonly #random: () => number;
  #sink: SpanSink | undefined;
  #ratePerMillion = 0;

  constructor(random: () => number = Math.random) {
    this.#random = random;
  }

  /** Records from now on into `sink`, in place of where it went before; undefined: nowhere. Returns the one before. */
  sendTo(sink: SpanSink | undefined, ratePerMillion: number): SpanSink | undefined {
    const before = this.#sink;
    this.#sink = sink;
    this.#ratePerMillion = ratePerMillion;
    return before;
  }

  /** Whether calls are looked at at all. */
  get isOn(): boolean {
    return this.#sink !== undefined;
  }

  /** How many spans wait to be sent. */
  get waiting(): number {
    return this.#sink?.waiting ?? 0;
  }

  get isRecording(): boolean {
    return this.#sink !== undefined && this.#current() !== undefined;
  }

  /** Answers a call as a span, if it is sampled. `factsOf` tells what the answer is about. */
  async inCall<T>(call: TracedCall, work: () => Promise<T>, factsOf: (answer: T) => SpanFacts): Promise<T> {
    const { method, parent, facts } = call;
    const isSampled = parent?.isSampled ?? (!call.isPoll && this.#random() * MILLION < this.#ratePerMillion);
    if (!isSampled || !this.#sink) return await work();
    const traceId = parent?.traceId ?? newTraceId();
    const place = { traceId, state: parent?.state ?? '', parentId: parent?.spanId ?? '' };
    return await this.#record(place, { name: method, kind: 'server', facts }, work, factsOf);
  }

  async inSpan<T>(name: string, facts: SpanFacts, work: () => Promise<T>): Promise<T> {
    const parent = this.#current();
    if (!parent || !this.#sink) return await work();
    const { traceId, state, spanId: parentId } = parent;
    const kind = 'process.executable.name' in facts ? 'client' : 'internal';
    return await this.#record({ traceId, state, parentId }, { name, kind, facts }, work);
  }

  #current(): OpenSpan | undefined {
    const span = this.#now.getStore();
    if (span?.endedAtMs === undefined) return span;
    return performance.now() - span.endedAtMs < LATE_MS ? span : undefined;
  }

  async #record<T>(
    { traceId, state, parentId }: Pick<EndedSpan, 'traceId' | 'state' | 'parentId'>,
    { name, kind, facts }: Pick<EndedSpan, 'name' | 'kind' | 'facts'>,
    work: () => Promise<T>,
    factsOf?: (answer: T) => SpanFacts,
  ): Promise<T> {
    const span: OpenSpan = { traceId, state, spanId: newSpanId(), facts, endedAtMs: undefined };
    const startedMs = performance.now();
    const end = (problem?: string): void => {
      span.endedAtMs = performance.now();
      const startMs = performance.timeOrigin + startedMs;
      const times = { startMs, endMs: startMs + span.endedAtMs - startedMs };
      this.#sink?.offer({
        traceId,
        state,
        parentId,
        spanId: span.spanId,
        name,
        kind,
        ...times,
        facts: span.facts,
        problem,
      });
    };
    return await this.#now.run(span, async () => {
      try {
        const answer = await work();
        if (factsOf) span.facts = { ...facts, ...factsOf(answer) };
        end();
        return answer;
      } catch (err) {
        span.facts = { ...facts, 'error.type': kindOf(err) };
        end(describe(err).slice(0, MAX_PROBLEM_CHARS));
        throw err;
      }
    });
  }
}
