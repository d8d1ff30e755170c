import { CliError } from './cli-error.ts';

/**
 * What gRPC connects to, from what a person names: `unix:///path`, `unix:/path` or `/path`. Throws CliError for anything
 * else: berthd has no other address.
 */
export function socketAddress(text: string): string {
  // `unix://relative` would name a host in the eyes of gRPC.
  const path = text.startsWith('unix://') ? text.slice('unix://'.length) : text.replace(/^unix:/, '');
  if (/^\/[^/\0][^\0]*$/.test(path)) return `unix://${path}`;
  throw new CliError(
    `${JSON.stringify(text)} is not a socket of berthd, which has only unix sockets`,
    'name one by its path: --socket unix:///run/berth/berth.sock, or $CONTAINER_RUNTIME_ENDPOINT',
  );
}
