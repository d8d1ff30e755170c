#!/bin/sh
# Runs a conformance suite, the own one or the official one, the scenes with a real kubelet, the soak, or the tests in a
# virtual machine: installs and builds what is missing, then runs the given file of test/critest, test/kubelet, test/soak or
# test/vm. --help tells the options.
set -eu
cd "$(dirname "$0")/.."
scripts/debian-packages.sh build run demo test
case "$1" in
  test/vm/*) scripts/debian-packages.sh vm ;;
esac
case " $* " in
  *' --containerd '*)
    # shellcheck source=scripts/debian-packages.sh
    . scripts/debian-packages.sh
    if [ -n "$(missing_debian_packages containerd)" ]; then
      install_debian_packages containerd
      systemctl disable containerd.service >/dev/null 2>&1 || true
    fi
    ;;
esac
scripts/npm-packages.sh
scripts/build.sh
exec node_modules/.bin/node "$@"
