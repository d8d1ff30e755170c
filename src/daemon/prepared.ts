/** What a part of berthd has made ready of a new configuration. One of the two is called, once. */
export interface Prepared {
  /** Has the part follow it. All that may be refused has been done before: it does not throw. */
  readonly take: () => Promise<void> | void;
  /** Takes back what was made ready: the part goes on as before. */
  readonly drop: () => Promise<void> | void;
}

/** Of a part for which nothing changes. */
export const nothingToPrepare: Prepared = Object.freeze({ take: () => {}, drop: () => {} });
