/**
 * node:http without what an import statement would load with it: all of Node's fetch and WebSocket, which hold some
 * megabytes for as long as the process lives.
 */
export function nodeHttp(): typeof import('node:http') {
  return process.getBuiltinModule('node:http');
}
