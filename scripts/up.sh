#!/bin/sh
# `npm run up`: installs what is missing, builds, and shows Berth running a pod. `npm run down` takes all of it away.
set -eu
cd "$(dirname "$0")/.."
case "${1:-}" in
  '') ;;
  -h | --help)
    cat <<'EOF'
Usage: npm run up
Shows Berth at work, as root: installs Debian and npm packages that are missing, builds, starts a berthd with a socket,
folders and a network of its own, and runs a pod with a web server. Again, it shows the state, or goes on from there.
BERTH_DEMO=NAME gives it another name. npm run down takes it away.
EOF
    exit 0
    ;;
  *)
    echo "up: it takes no arguments, and was given: $*" >&2
    exit 2
    ;;
esac
if [ "$(id -u)" != 0 ]; then
  echo 'up: needs root, to make namespaces, mounts and cgroups; run: sudo npm run up' >&2
  exit 1
fi
scripts/debian-packages.sh build run demo
scripts/npm-packages.sh
scripts/build.sh
exec node_modules/.bin/node scripts/demo/up.ts
