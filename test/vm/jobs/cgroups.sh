#!/bin/sh
# Runs test/vm/jobs/cgroups.test.ts with either cgroup driver, and leaves berthd with the one that it had.
#   test/vm/jobs/cgroups.sh RESULTS
set -eu
choice=/etc/berth/berth.toml.d/60-cgroups.toml
result=0
for driver in systemd cgroupfs; do
  printf 'runtime.cgroup_manager = "%s"\n' "$driver" >"$choice"
  systemctl restart berthd
  node --test --test-reporter=spec --test-reporter-destination=stdout \
    --test-reporter=junit "--test-reporter-destination=$1/cgroups-$driver.xml" test/vm/jobs/cgroups.test.ts || result=1
done
rm "$choice"
systemctl restart berthd
exit "$result"
