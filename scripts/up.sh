#!/bin/sh
# `npm run up`: installs what is missing, builds, and shows Berth running a pod. `npm run down` takes all of it away.
set -eu
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo 'up: needs root, to make namespaces, mounts and cgroups; run: sudo npm run up' >&2
  exit 1
fi
scripts/debian-packages.sh build run demo
scripts/npm-packages.sh
scripts/build.sh
exec node_modules/.bin/node scripts/demo/up.ts
