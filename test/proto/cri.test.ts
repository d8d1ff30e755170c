import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { createFileRegistry, type DescField, type DescMessage, fromBinary, ScalarType } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';

/** The wire facts as test/fixtures/runtime-v1.json holds them. */
interface Wire {
  package: string;
  syntax: string;
  services: Record<string, Record<string, Method>>;
  messages: Record<string, Record<string, Field>>;
  enums: Record<string, Record<string, number>>;
}
interface Method {
  request: string;
  response: string;
  stream?: true;
}
interface Field {
  number: number;
  type: string;
  repeated?: true;
  deprecated?: true;
  debug_redact?: true;
}

const repository = fileURLToPath(new URL('../..', import.meta.url));

function expectedWire(): Wire {
  const facts: Wire & { note: string } = JSON.parse(
    readFileSync(`${repository}/test/fixtures/runtime-v1.json`, 'utf8'),
  );
  const { note: _, ...wire } = facts;
  return wire;
}

/** Compiles proto/cri/api.proto with buf, and tells what came out in the fixture's form. */
function compiledWire(): Wire {
  const image = execFileSync(
    `${repository}/node_modules/.bin/buf`,
    ['build', '--as-file-descriptor-set', '--path', 'cri/api.proto', '-o', '-#format=binpb'],
    { cwd: `${repository}/proto`, stdio: ['ignore', 'pipe', 'inherit'], timeout: 30_000 },
  );
  const set = fromBinary(FileDescriptorSetSchema, image);
  assert.deepEqual(
    set.file.map((file) => file.name),
    ['cri/api.proto'],
  );
  const file = createFileRegistry(set).getFile('cri/api.proto');
  assert.ok(file);
  assert.deepEqual(file.dependencies, []);
  assert.deepEqual(file.extensions, []);

  const wire: Wire = { package: file.proto.package, syntax: file.proto.syntax, services: {}, messages: {}, enums: {} };
  const nameIn = (typeName: string): string => typeName.slice(wire.package.length + 1);
  const addEnum = (found: DescMessage['nestedEnums'][number]): void => {
    wire.enums[nameIn(found.typeName)] = Object.fromEntries(found.values.map((value) => [value.name, value.number]));
  };
  for (const service of file.services) {
    wire.services[service.name] = Object.fromEntries(
      service.methods.map((method) => {
        const named: Method = { request: nameIn(method.input.typeName), response: nameIn(method.output.typeName) };
        assert.ok(['unary', 'server_streaming'].includes(method.methodKind), method.name);
        if (method.methodKind === 'server_streaming') named.stream = true;
        return [method.name, named];
      }),
    );
  }
  for (const message of file.messages) {
    assert.deepEqual(message.nestedMessages, []);
    assert.deepEqual(message.oneofs, []);
    wire.messages[message.name] = Object.fromEntries(message.fields.map((field) => [field.name, describeField(field)]));
    message.nestedEnums.forEach(addEnum);
  }
  file.enums.forEach(addEnum);
  return wire;
}

function describeField(field: DescField): Field {
  assert.equal(field.proto.proto3Optional, false, field.name);
  const described: Field = { number: field.number, type: typeOf(field) };
  if (field.fieldKind === 'list') described.repeated = true;
  if (field.proto.options?.deprecated === true) described.deprecated = true;
  if (field.proto.options?.debugRedact === true) described.debug_redact = true;
  return described;
}

function typeOf(field: DescField): string {
  if (field.fieldKind === 'map') {
    assert.equal(field.mapKind, 'scalar', field.name);
    return `map<${ScalarType[field.mapKey].toLowerCase()}, ${ScalarType[field.scalar ?? 0]?.toLowerCase()}>`;
  }
  if (field.scalar !== undefined) return ScalarType[field.scalar].toLowerCase();
  return (field.enum ?? field.message)?.name ?? 'unknown';
}

test('api.proto is the CRI exactly: every service, method, message, field and enum, and no more', () => {
  const compiled = compiledWire();
  assert.deepEqual(compiled, expectedWire());
  assert.equal(Object.values(compiled.services).flatMap((methods) => Object.keys(methods)).length, 43);
  assert.equal(Object.keys(compiled.messages).length, 175);
  assert.equal(Object.keys(compiled.enums).length, 11);
});
