#!/bin/sh
# Makes what the virtual machine boots: a Debian on an ext4 image, its kernel and initial RAM disk. As root.
#   test/vm/base-image.sh FOLDER SUITE MIRROR SECURITY-MIRROR 'KEPT...' PACKAGE...
# The packages KEPT are not installed: their files are in /opt/packages, for tests that make images of them.
# FOLDER must exist and be empty; root.ext4, vmlinuz and initrd.img appear in it. It runs in namespaces of its own, so
# that mounts and processes of the packages' scripts go with it, however it ends.
set -eu
if [ "${BERTH_VM_INSIDE:-}" != yes ]; then
  BERTH_VM_INSIDE=yes exec unshare --mount --pid --fork --kill-child --mount-proc --propagation private "$0" "$@"
fi
here=$(dirname "$(readlink -f "$0")")
folder=$1 suite=$2 mirror=$3 security=$4 kept=$5
shift 5
root=$folder/rootfs

debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,udev "$suite" "$root" "$mirror"

# Updates come from where this machine gets its own.
cat >"$root/etc/apt/sources.list" <<SOURCES
deb $mirror $suite main
deb $mirror $suite-updates main
deb $security $suite-security main
SOURCES
cp /etc/resolv.conf "$root/etc/resolv.conf"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
# All drivers of the machine that qemu makes, and no others: a small initial RAM disk is unpacked sooner.
mkdir -p "$root/etc/initramfs-tools/conf.d"
printf 'MODULES=list\nCOMPRESS=lz4\n' >"$root/etc/initramfs-tools/conf.d/berth-vm"
printf '%s\n' virtio_pci virtio_blk virtio_console virtio_rng ext4 crc32c >"$root/etc/initramfs-tools/modules"
printf 'path-exclude=/usr/share/%s/*\n' doc man locale info >"$root/etc/dpkg/dpkg.cfg.d/berth-vm"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
inside() { chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
inside apt-get update
inside apt-get install -y --no-install-recommends "$@"
mkdir "$root/opt/packages"
# shellcheck disable=SC2016
inside sh -c 'cd /opt/packages && apt-get -o APT::Sandbox::User=root download $1' sh "$kept"
inside apt-get clean
rm -rf "$root/usr/sbin/policy-rc.d" "$root/var/lib/apt/lists"

# One disk for the system, one for the checkout that is tested.
cat >"$root/etc/fstab" <<FSTAB
/dev/vda / ext4 defaults 0 0
/dev/vdb /opt/berth ext4 defaults 0 0
FSTAB
mkdir -p "$root/opt/berth" "$root/usr/local/lib/berth-vm" "$root/var/log/journal"
cp "$here"/guest/*.sh "$root/usr/local/lib/berth-vm/"
cp "$here"/guest/*.service "$root/etc/systemd/system/"
cp "$here"/guest/*.network "$root/etc/systemd/network/"
inside systemctl enable berth-vm-control berth-vm-journal systemd-networkd
# Nothing of these is tested, and each costs seconds when every instruction is emulated.
inside systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
  man-db.timer systemd-networkd-wait-online.service getty@tty1.service serial-getty@ttyS0.service
inside systemctl disable docker-registry.service 2>/dev/null || true
echo berth-vm >"$root/etc/hostname"
printf '127.0.0.1 localhost berth-vm\n::1 localhost\n' >"$root/etc/hosts"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"

umount "$root/run" "$root/proc"
cp "$root"/boot/vmlinuz-* "$folder/vmlinuz"
cp "$root"/boot/initrd.img-* "$folder/initrd.img"
# No lazy initialisation: it would write in the background while tests run.
mkfs.ext4 -q -F -L berth-vm -E lazy_itable_init=0,lazy_journal_init=0 -d "$root" "$folder/root.ext4" 4G
rm -rf --one-file-system "$root"
