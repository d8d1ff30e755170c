import { BerthError, because } from '../base/errors.ts';

/** A row's JSON body. Throws `internal` naming the table and the id when it is not the record of that id. */
export function parseBody(table: string, id: string, body: string): object {
  const parsed = parseJson(table, id, body);
  if (typeof parsed === 'object' && parsed !== null && 'id' in parsed && parsed.id === id) return parsed;
  throw new BerthError('internal', `read ${table} ${id}: its body is not a record with this id`);
}

function parseJson(table: string, id: string, body: string): unknown {
  try {
    return JSON.parse(body);
  } catch (err) {
    throw because('internal', `read ${table} ${id}: its body is not JSON`, err);
  }
}
