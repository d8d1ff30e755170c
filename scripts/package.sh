#!/bin/sh
# npm run package: dist/packages/*.deb and *.tar.gz (packaging/build.ts). Builds first, and gets what is missing for it.
set -eu
cd "$(dirname "$0")/.."
scripts/build.sh
for tool in strip dpkg-deb mksquashfs; do
  command -v "$tool" >/dev/null && continue
  scripts/debian-packages.sh package
  break
done
exec node_modules/.bin/node packaging/build.ts "$@"
