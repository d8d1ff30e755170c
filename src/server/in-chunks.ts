/** As many items as are turned into one message without holding up the event loop. */
const MAX_ITEMS = 100;
/** Far below the 16 MiB that the kubelet accepts, even when all is text that UTF-8 makes three times as long. */
const MAX_CHUNK_CHARS = 1024 * 1024;

/**
 * The converted records in parts for the messages of a streaming list (KEP-5825). They are converted as they are asked
 * for: while a client takes its time, what is still to come takes no memory. Nothing comes for an empty list.
 */
export function* inChunks<Record, Item>(
  records: Iterable<Record>,
  convert: (record: Record) => Item,
): Generator<Item[], void, undefined> {
  let chunk: Item[] = [];
  let chars = 0;
  for (const record of records) {
    const item = convert(record);
    const itemChars = textIn(item);
    if (chunk.length === MAX_ITEMS || (chunk.length > 0 && chars + itemChars > MAX_CHUNK_CHARS)) {
      yield chunk;
      chunk = [];
      chars = 0;
    }
    chunk.push(item);
    chars += itemChars;
  }
  if (chunk.length > 0) yield chunk;
}

/** How much text a message has in all: what makes one large are labels, annotations and names. */
function textIn(value: unknown): number {
  if (typeof value === 'string') return value.length;
  if (typeof value !== 'object' || value === null) return 0;
  let chars = 0;
  for (const [key, member] of Object.entries(value as Readonly<Record<string, unknown>>))
    chars += key.length + textIn(member);
  return chars;
}
