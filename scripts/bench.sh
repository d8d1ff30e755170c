#!/bin/sh
# Measures the lives of pods (bench/pods.ts), or with `pulls` first those of images (bench/pulls.ts): installs and builds
# what is missing before. --help tells the options.
set -eu
cd "$(dirname "$0")/.."
bench=pods
if [ "${1:-}" = pulls ]; then
  bench=pulls
  shift
fi
scripts/debian-packages.sh build run demo
case " $* " in
  *' --with containerd '* | *' --with=containerd '*)
    # shellcheck source=scripts/debian-packages.sh
    . scripts/debian-packages.sh
    if [ -n "$(missing_debian_packages containerd)" ]; then
      install_debian_packages containerd
      systemctl disable containerd.service >/dev/null 2>&1 || true
    fi
    ;;
esac
case " $* " in
  *' --with crio'* | *' --with=crio'*)
    # Brings images to where CRI-O reads them.
    # shellcheck source=scripts/debian-packages.sh
    . scripts/debian-packages.sh
    install_debian_packages skopeo
    ;;
esac
scripts/npm-packages.sh
scripts/build.sh
exec node_modules/.bin/node "bench/$bench.ts" "$@"
