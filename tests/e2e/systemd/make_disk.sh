#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# A disk with a Debian that boots, our packages installed as an admin would:
#   make_disk.sh RELEASE-BUILD DISK      (SEALPOINT_ROOT: such a root, made before, is taken as it is)
set -euo pipefail
here=$(dirname "$(realpath "$0")")
. "$here/../../integration/packages/lib.sh"
release=$1 disk=$2
work=$(mktemp -d /tmp/sealpoint-disk.XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
make_packages DEB "$work/debs"
root=${SEALPOINT_ROOT:-$work/root}
[ -d "$root/usr" ] || fresh_root "$root" $(dependencies_of "$work/debs") systemd-sysv udev dbus kmod procps \
    e2fsprogs cryptsetup-bin dmsetup postgresql qemu-system-x86
mkdir -p "$root/debs"
cp "$work"/debs/*.deb "$root/debs/"
in_root "$root" sh -c 'dpkg -i /debs/*.deb' >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
rm -r "$root/debs"
install -m 755 "$here/../../../packaging/guest/control" "$root/usr/local/sbin/guest-control"
install -m 644 "$here/guest-control.service" "$root/etc/systemd/system/"
echo "/dev/vda / ext4 noatime 0 1" >"$root/etc/fstab"
echo guest >"$root/etc/hostname"
rm -f "$root/etc/machine-id"
in_root "$root" systemd-machine-id-setup 2>/dev/null # else a first boot, which enables all units
in_root "$root" systemctl enable --quiet guest-control.service
in_root "$root" systemctl disable --quiet postgresql.service
in_root "$root" systemctl mask --quiet getty@.service serial-getty@.service apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service
truncate -s 2G "$disk"
mkfs.ext4 -q -d "$root" "$disk"
