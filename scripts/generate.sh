#!/bin/sh
# Writes what is made from other files: proto/gen from the .proto files, deploy/berth.toml from the schema of the
# configuration, deploy/apparmor.d/berth-default from the built-in profile, tables in docs/ from the catalog of metrics
# and the schema. With --check, writes elsewhere, compares, and fails when something differs.
# Needs no network: buf and the plugin come with the npm packages.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/node_modules/.bin:$PATH"
export PATH

gen=proto/gen
config=deploy/berth.toml
profile=deploy/apparmor.d/berth-default
docs=docs
if [ "${1:-}" = --check ]; then
  mkdir -p node_modules/.cache
  work=$(mktemp -d node_modules/.cache/generate-XXXXXX)
  trap 'rm -rf "$work"' EXIT
  gen=$work/gen
  config=$work/berth.toml
  profile=$work/berth-default
  docs=$work
fi

# buf resolves what the template names from the working directory.
(cd proto && buf generate --template "$(sed "s|^    out: gen$|    out: ../$gen|" buf.gen.yaml)")
find "$gen" -name '*.ts' -exec sed -i '/^\/\* eslint-disable \*\/$/d' {} +
node scripts/write-default-config.ts "$config"
node scripts/write-apparmor-profile.ts "$profile"
node scripts/write-tables.ts "$docs"

if [ "$gen" != proto/gen ]; then
  differs=0
  diff -rq "$gen" proto/gen || differs=1
  diff -q "$config" deploy/berth.toml || differs=1
  diff -q "$profile" deploy/apparmor.d/berth-default || differs=1
  for name in metrics operations; do diff -q "$docs/$name.md" "docs/$name.md" || differs=1; done
  if [ "$differs" = 1 ]; then
    echo 'generated files are not what they are made from gives; run: npm run generate' >&2
    exit 1
  fi
fi
