import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';

/** What only some calls need, and what would hold memory of every berthd if an import at the start brought it. */
const RARELY_NEEDED =
  /^(?:internal\/deps\/undici\/|.*\/node_modules\/(?:undici|ws|js-yaml|commander)\/|.*\/(?:otlp-sender|gen\/otlp\/trace)\.ts)/;

test('a berthd that starts does not load what few of its calls need', () => {
  const script = `
    import { createRequire, registerHooks } from 'node:module';
    const loaded = [];
    registerHooks({ load: (url, context, next) => { loaded.push(url); return next(url, context); } });
    await import(${JSON.stringify(new URL('daemon.ts', import.meta.url).href)});
    const own = process.moduleLoadList.map((name) => name.replace(/^NativeModule /, ''));
    console.log(JSON.stringify([...loaded, ...own]));`;
  const output = execFileSync(process.execPath, ['--input-type=module', '--eval', script], { encoding: 'utf8' });
  const loaded = JSON.parse(output) as string[];
  assert.ok(
    ['daemon/daemon.ts', '/node_modules/prom-client/'].every((part) => loaded.some((name) => name.includes(part))),
    'it tells what was loaded',
  );
  assert.deepEqual(
    loaded.filter((name) => RARELY_NEEDED.test(name)),
    [],
  );
});
