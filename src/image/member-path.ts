import { invalid } from '../base/errors.ts';

const MAX_COMPONENT_BYTES = 255;

/** The parts of a member's name, one character per byte. Throws `invalid` for one that starts at the root or climbs. */
export function componentsOf(name: Buffer, options?: { absolute?: boolean }): string[] {
  const text = name.toString('latin1');
  if (text === '') throw invalid('name', 'is empty');
  if (text.startsWith('/') && options?.absolute !== true) throw invalid('name', 'is an absolute path');
  const components = text.split('/').filter((component) => component !== '' && component !== '.');
  if (components.includes('..')) throw invalid('name', 'has ".." in it, which leads out of the layer');
  if (components.some((component) => component.length > MAX_COMPONENT_BYTES)) {
    throw invalid('name', `has a part longer than ${MAX_COMPONENT_BYTES} bytes`);
  }
  return components;
}
