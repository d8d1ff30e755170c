#!/bin/sh
# Makes dist: the program of src and proto/gen, bundled into few files, and the programs of native. Does only what changed
# since last time, and first gets what is missing for it: the npm packages, and as root Debian's C compiler.
set -eu
cd "$(dirname "$0")/.."
node=$PWD/node_modules/.bin/node
# On a fresh clone this is the first command. What is there stays: a package that was linked in to try it, for one.
[ -x "$node" ] || scripts/npm-packages.sh
mkdir -p dist/native

# The stamp holds the time at which a build that succeeded began. A folder changes when a file in it goes away.
bundle() {
  [ -e dist/bundle/.stamp ] && [ -z "$(find src proto/gen packaging/bundle.ts scripts/bundle.ts package-lock.json \
    -newer dist/bundle/.stamp -print -quit)" ] && return 0
  mkdir -p dist/bundle
  touch dist/bundle/.stamp.next
  "$node" scripts/bundle.ts dist/bundle/src || return 1
  mv dist/bundle/.stamp.next dist/bundle/.stamp
}

native() {
  program=dist/native/$1
  [ -e "$program" ] && [ -z "$(find native -newer "$program" -print -quit)" ] && return 0
  command -v "${CC:-cc}" >/dev/null || scripts/debian-packages.sh build
  native/build.sh "$1" "$program.next"
  # Renamed, because the old one may be running.
  mv "$program.next" "$program"
}

native pause
native exec-monitor
native exec-join
native filter-reader
native late-close.so
bundle
