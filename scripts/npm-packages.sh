#!/bin/sh
# Installs the npm packages, Node 24 among them, when node_modules does not hold what package-lock.json says.
set -eu
cd "$(dirname "$0")/.."

# A copy of the lockfile that node_modules was made from, written last.
stamp=node_modules/.package-lock.installed
if cmp -s package-lock.json "$stamp" && [ -x node_modules/.bin/node ]; then exit 0; fi

# Under `npm run`, node_modules/.bin leads the PATH: npm must not run on the Node that it is about to replace.
PATH=$(printf %s "$PATH" | tr ':' '\n' | grep -v 'node_modules/\.bin$' | paste -sd:)
export PATH
if ! command -v npm >/dev/null; then
  echo 'npm is missing: install Node 20 or newer with npm (any version will do: Berth runs on its own Node 24)' >&2
  exit 1
fi
echo 'Installing npm packages' >&2
# No install scripts: nothing that Berth uses needs one.
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2 </dev/null
if [ ! -x node_modules/.bin/node ]; then
  echo "Node 24 did not come with the npm packages: it does for Linux on x64 and arm64, this is $(uname -sm)" >&2
  exit 1
fi
cp package-lock.json "$stamp"
