#!/bin/sh
# `npm run down`: takes away what `npm run up` has made, also when half of it is gone already.
set -eu
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo 'down: needs root; run: sudo npm run down' >&2
  exit 1
fi
if [ ! -x node_modules/.bin/node ] || [ ! -e dist/src/main.js ]; then
  scripts/npm-packages.sh
  scripts/build.sh
fi
exec node_modules/.bin/node scripts/demo/down.ts
