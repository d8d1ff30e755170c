#!/bin/sh
# Writes proto/gen anew from the .proto files, and deploy/berth.toml from the schema. With --check, compares instead, and fails when they differ.
# Needs no network: buf and the plugin come with the npm packages.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/node_modules/.bin:$PATH"
export PATH

out=proto/gen
if [ "${1:-}" = --check ]; then
  mkdir -p node_modules/.cache
  work=$(mktemp -d node_modules/.cache/generate-XXXXXX)
  trap 'rm -rf "$work"' EXIT
  out=$work/gen
fi

# buf resolves what the template names from the working directory.
(cd proto && buf generate --template "$(sed "s|^    out: gen$|    out: ../$out|" buf.gen.yaml)")
find "$out" -name '*.ts' -exec sed -i '/^\/\* eslint-disable \*\/$/d' {} +

if [ "$out" != proto/gen ] && ! diff -rq "$out" proto/gen; then
  echo 'proto/gen is not what the .proto files give; run: npm run generate' >&2
  exit 1
fi

[ "$out" = proto/gen ] && node scripts/write-default-config.ts
