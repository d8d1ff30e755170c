/** Facts for a verbose answer. Tools parse the one key `info` as JSON. */
export function infoToProto(info: Record<string, unknown>): { [key: string]: string } {
  return { info: JSON.stringify(info) };
}
