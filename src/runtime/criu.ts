import { BerthError, because } from '../base/errors.ts';
import { findProgram } from './handlers.ts';

/** Throws `precondition` when a handler, or this host, can neither checkpoint nor restore. */
export function checkCriu(handler: string, handlerCan: boolean): void {
  if (!handlerCan) {
    const advice = 'install a runc or crun that was built with CRIU';
    throw new BerthError('precondition', `runtime handler ${handler} cannot checkpoint or restore: ${advice}`);
  }
  try {
    findProgram('criu');
  } catch (err) {
    throw because('precondition', 'checkpoint and restore need CRIU: install criu', err);
  }
}
