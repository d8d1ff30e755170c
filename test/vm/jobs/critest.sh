#!/bin/sh
# The official conformance suite against the berthd that the package installed. The host brings the program; where the
# host could not build it, this job is not run.
set -eu
export CRITEST_BIN=/opt/berth/vm/critest
# There is no network to get them from.
export BERTH_TEST_NGINX=/opt/packages
node test/critest/run.ts --endpoint unix:///run/berth/berth.sock --registry 127.0.0.1:5000 \
  --summary /var/lib/berth-vm/results/critest.txt --output /var/lib/berth-vm/results/critest
