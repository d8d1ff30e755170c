#!/bin/sh
# `npm run down`: takes away what `npm run up` has made, also when half of it is gone already.
set -eu
cd "$(dirname "$0")/.."
case "${1:-}" in
  '') ;;
  -h | --help)
    cat <<'EOF'
Usage: npm run down
Takes away, as root, all that npm run up has made but for Debian and npm packages, and says what it could not.
BERTH_DEMO=NAME is for a demo of another name.
EOF
    exit 0
    ;;
  *)
    echo "down: it takes no arguments, and was given: $*" >&2
    exit 2
    ;;
esac
if [ "$(id -u)" != 0 ]; then
  echo 'down: needs root; run: sudo npm run down' >&2
  exit 1
fi
if [ ! -x node_modules/.bin/node ] || [ ! -e dist/bundle/src/main.js ]; then
  scripts/npm-packages.sh
  scripts/build.sh
fi
exec node_modules/.bin/node scripts/demo/down.ts
