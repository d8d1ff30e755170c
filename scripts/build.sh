#!/bin/sh
# Makes dist: the JavaScript of src and proto/gen, and the programs of native. Does only what changed since last time,
# and first gets what is missing for it: the npm packages, and as root Debian's C compiler.
set -eu
cd "$(dirname "$0")/.."
node=$PWD/node_modules/.bin/node
# On a fresh clone this is the first command. What is there stays: a package that was linked in to try it, for one.
[ -x "$node" ] || scripts/npm-packages.sh
mkdir -p dist/native

# The stamp holds the time at which a build that succeeded began. A folder changes when a file in it goes away.
compile() {
  [ -e dist/.stamp ] && [ -z "$(find src proto/gen tsconfig.json tsconfig.build.json package-lock.json \
    -newer dist/.stamp -print -quit)" ] && return 0
  touch dist/.stamp.next
  # Told no place, tsc leaves compiled code of its own in /tmp.
  NODE_COMPILE_CACHE=$PWD/dist/.compile-cache "$node" node_modules/typescript/bin/tsc -p tsconfig.build.json || return 1
  # tsc leaves the output of sources that are gone.
  find dist/src dist/proto -name '*.js' | while read -r output; do
    source=${output#dist/}
    [ -e "${source%.js}.ts" ] || rm -f "$output" "$output.map"
  done
  mv dist/.stamp.next dist/.stamp
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
compile
