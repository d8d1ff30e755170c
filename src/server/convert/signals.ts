import { Signal } from '../../../proto/gen/cri/api.ts';
import { invalid } from '../../base/errors.ts';

const PREFIX = 'SIGNAL_';

/** The wire's `SIGNAL_SIGRTMINPLUS3` as `SIGRTMIN+3`; undefined when the client leaves the signal to the image. */
export function signalFromProto(signal: Signal, field: string): string | undefined {
  if (signal === Signal.SIGNAL_RUNTIME_DEFAULT) return undefined;
  const entry = Object.entries(Signal).find(([, value]) => value === signal);
  if (!entry) throw invalid(field, `${signal} is not a signal`);
  return entry[0].slice(PREFIX.length).replace('MINPLUS', 'MIN+').replace('MAXMINUS', 'MAX-');
}

/** A signal's name in the wire's enum; RUNTIME_DEFAULT for one that the wire has no word for. */
export function signalToProto(name: string): Signal {
  const key = `${PREFIX}${name.replace('+', 'PLUS').replace('-', 'MINUS')}`;
  const entry = Object.entries(Signal).find(([word]) => word === key);
  return entry ? entry[1] : Signal.SIGNAL_RUNTIME_DEFAULT;
}
