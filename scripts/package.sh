#!/bin/sh
# npm run package: dist/packages/*.deb and *.tar.gz (packaging/build.ts). Builds first, and gets what is missing for it.
set -eu
cd "$(dirname "$0")/.."
scripts/build.sh
if ! command -v strip >/dev/null || ! command -v dpkg-deb >/dev/null; then scripts/debian-packages.sh build; fi
exec node_modules/.bin/node packaging/build.ts "$@"
