#!/bin/sh
# Draws docs/dashboard.svg: a berthd under load, scraped by Debian's Prometheus, and the panels of the Grafana dashboard
# evaluated on what was scraped. Installs and builds what is missing. --help tells the options.
set -eu
cd "$(dirname "$0")/.."
scripts/debian-packages.sh build run demo test
# shellcheck source=scripts/debian-packages.sh
. scripts/debian-packages.sh
install_debian_packages prometheus
scripts/npm-packages.sh
scripts/build.sh
exec node_modules/.bin/node test/dashboard/run.ts "$@"
