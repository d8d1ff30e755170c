/** What a span tells beside its name and its times; what is undefined is left out. */
export type SpanFacts = Readonly<Record<string, string | number | boolean | undefined>>;

/** What rooms report to be traced. src/server/tracing implements it; where nobody traces, it costs nothing. */
export interface Tracing {
  /** Whether what goes on now is part of a trace. */
  readonly isRecording: boolean;
  /** Does the work as a part of what goes on now; where that is not traced, just does it. */
  inSpan<T>(name: string, facts: SpanFacts, work: () => Promise<T>): Promise<T>;
}

/** Traces nothing. */
export const silentTracing: Tracing = {
  isRecording: false,
  inSpan: async (_name, _facts, work) => await work(),
};
