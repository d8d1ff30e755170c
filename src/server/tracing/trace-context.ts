import { randomBytes } from 'node:crypto';

/** Where a span belongs, as W3C's Trace Context has it (traceparent, level 1). */
export interface TraceContext {
  /** 16 bytes in hex. */
  readonly traceId: string;
  /** 8 bytes in hex. */
  readonly spanId: string;
  readonly isSampled: boolean;
  /** Other vendors' words, handed on as they are. */
  readonly state: string;
}

const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;
const SAMPLED = 1;
/** What must be handed on of tracestate. */
const MAX_STATE_CHARS = 512;

/** Reads the headers `traceparent` and `tracestate`. Undefined for what is none, as the recommendation wants it. */
export function parseTraceContext(parent: string | undefined, state = ''): TraceContext | undefined {
  const [, version, traceId = '', spanId = '', flags = '', more] = TRACEPARENT.exec(parent ?? '') ?? [];
  if (version === undefined || version === 'ff' || (version === '00' && more !== undefined)) return undefined;
  if (/^0+$/.test(traceId) || /^0+$/.test(spanId)) return undefined;
  const isSampled = (Number.parseInt(flags, 16) & SAMPLED) !== 0;
  return { traceId, spanId, isSampled, state: state.length <= MAX_STATE_CHARS ? state : '' };
}

/** A new trace without a span so far. */
export function newTraceId(): string {
  return randomBytes(16).toString('hex');
}

/** A new span's id. */
export function newSpanId(): string {
  return randomBytes(8).toString('hex');
}
