/** An exec or attach that an RPC has granted: what the client's connection will carry. */
export interface CommandStreams {
  readonly kind: 'exec' | 'attach';
  readonly containerId: string;
  /** What to run; empty for attach. */
  readonly command: readonly string[];
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

/** A port-forward that an RPC has granted. */
export interface PortForwardStreams {
  readonly kind: 'portforward';
  readonly sandboxId: string;
  /** For clients that do not name a port with each connection, those of WebSocket channels. */
  readonly ports: readonly number[];
}

/** What a token stands for. `kind` is also the first part of the URL's path. */
export type StreamRequest = CommandStreams | PortForwardStreams;
