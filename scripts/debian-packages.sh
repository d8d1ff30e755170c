#!/bin/sh
# Installs the Debian packages that Berth works with, as far as they are missing. Starts no services.
#   scripts/debian-packages.sh SET...      SET: build, package, run, demo, test or vm
# Or, sourced: install_debian_packages PACKAGE...

DEBIAN_BUILD='gcc libc6-dev binutils'
DEBIAN_PACKAGE='binutils dpkg squashfs-tools'
DEBIAN_RUN='runc crun conmon containernetworking-plugins iptables iproute2 libisal2'
DEBIAN_DEMO='busybox'
DEBIAN_TEST='git e2fsprogs docker-registry skopeo dbus procps apparmor logrotate openssl'
DEBIAN_VM='qemu-system-x86 debootstrap e2fsprogs debian-archive-keyring'

# Prints those of the packages that are not installed.
missing_debian_packages() {
  installed=$(dpkg-query -W -f '${db:Status-Status}/${Package} ' "$@" 2>/dev/null || true)
  for package in "$@"; do
    case " $installed" in
      *" installed/$package "*) ;;
      *) printf '%s ' "$package" ;;
    esac
  done
}

# Installs what is missing of the packages. Their services neither start now nor at the next boot.
install_debian_packages() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "This is not a Debian system; install what matches these Debian packages yourself: $*" >&2
    return 0
  fi
  missing=$(missing_debian_packages "$@")
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" != 0 ]; then
    echo "These Debian packages are missing: $missing" >&2
    echo "Run as root: apt-get install --no-install-recommends $missing" >&2
    return 1
  fi
  echo "Installing Debian packages: $missing" >&2
  (
    # Debian's maintainer scripts ask this file before they start a service. It says no only while this shell lives.
    policy=/usr/sbin/policy-rc.d
    mine='# Made by Berth while it installs packages'
    if [ -e "$policy" ] && grep -qF "$mine" "$policy"; then rm -f "$policy"; fi
    if [ ! -e "$policy" ]; then
      trap 'rm -f "$policy"' EXIT
      trap 'exit 1' HUP INT TERM
      printf '#!/bin/sh\n%s (process %s).\n[ ! -d /proc/%s ] || exit 101\n' "$mine" "$$" "$$" >"$policy"
      chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    # shellcheck disable=SC2086
    if ! { apt-get update && apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=120 $missing; } >"$log" 2>&1 </dev/null; then
      cat "$log" >&2
      rm -f "$log"
      echo "Installing Debian packages failed: $missing" >&2
      exit 1
    fi
    rm -f "$log"
    case " $missing" in
      *' docker-registry '*) systemctl disable docker-registry.service >/dev/null 2>&1 || true ;;
    esac
  )
}

case "${0##*/}" in
  debian-packages.sh)
    set -eu
    packages=
    for set in "$@"; do
      case "$set" in
        build) packages="$packages $DEBIAN_BUILD" ;;
        package) packages="$packages $DEBIAN_PACKAGE" ;;
        run) packages="$packages $DEBIAN_RUN" ;;
        demo) packages="$packages $DEBIAN_DEMO" ;;
        test) packages="$packages $DEBIAN_TEST" ;;
        vm) packages="$packages $DEBIAN_VM" ;;
        *)
          echo "debian-packages.sh: no set named $set; there are: build, package, run, demo, test, vm" >&2
          exit 2
          ;;
      esac
    done
    # shellcheck disable=SC2086
    install_debian_packages $packages
    ;;
esac
