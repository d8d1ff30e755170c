#!/bin/sh
# Makes the machine a node: Berth's package, a pod network, the registry that conformance suites serve, an image. Shows
# that systemd starts berthd and holds it ready, that it chose systemd's cgroups, and that its own doctor finds no fault.
set -eux
. vm/settings
dpkg --install vm/package/berth.deb
# Nobody answers: there is no network behind the gateway.
echo 'options timeout:1 attempts:1' >>/etc/resolv.conf
mkdir -p /etc/berth/berth.toml.d /etc/cni/net.d
[ -n "$(ls /etc/cni/net.d)" ] || cp deploy/cni/10-berth.conflist /etc/cni/net.d/
# Where test/vm/jobs/conformance.sh and critest.sh serve their images.
for host in registry.k8s.io k8s.gcr.io gcr.io public.ecr.aws; do
  printf '[[registry]]\nlocation = "%s"\n[[registry.mirror]]\nlocation = "127.0.0.1:5000"\ninsecure = true\n' "$host"
done >/etc/berth/vm-registries.conf
{
  printf '[image]\nregistries_conf = "/etc/berth/vm-registries.conf"\n'
  [ -z "$RUNTIME" ] || printf '[runtime]\ndefault_runtime = "%s"\n' "$RUNTIME"
} >/etc/berth/berth.toml.d/50-vm.toml
test "$(systemctl is-enabled berthd)" = enabled
systemctl restart berthd
systemctl --no-pager --full status berthd
test "$(systemctl show --property=ActiveState,SubState --value berthd | paste -sd' ')" = 'active running'
berth image load vm/layout
berth doctor
