import { BerthError, because } from '../base/errors.ts';
import { findProgram, type Handlers } from './handlers.ts';

/** Throws `precondition`, saying what would help, when a handler, or this host, can neither checkpoint nor restore. */
export function checkCriu(name: string, handlers: Handlers): void {
  const handler = handlers.get(name);
  if (!handler.features.checkpoint) {
    const able = handlers.all().find(({ features }) => features.checkpoint);
    const advice = able ? `pods of the handler ${able.name} can` : 'install a runc or crun that was built with CRIU';
    throw new BerthError('precondition', `runtime handler ${handler.name} cannot checkpoint or restore: ${advice}`);
  }
  try {
    findProgram('criu');
  } catch (err) {
    throw because('precondition', 'checkpoint and restore need CRIU: install criu', err);
  }
}
