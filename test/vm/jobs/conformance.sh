#!/bin/sh
# Berth's own conformance suite against the berthd that the package installed: cgroup v2, systemd's cgroups, AppArmor on.
set -eu
node test/critest/own/run.ts --endpoint unix:///run/berth/berth.sock --registry 127.0.0.1:5000 \
  --summary /var/lib/berth-vm/results/conformance.txt
