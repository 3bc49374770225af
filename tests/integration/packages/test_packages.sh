#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The packages as files: what is in them, what they depend on, lintian, the units' exposure; and the .rpm's life in
# a root that has nothing but a shell and the libraries it asks for. test_fresh_root.sh is about the .deb's life.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
if [ "${1:-}" = --later-rpm ]; then # called by itself, where another agent.conf is mounted
    make_packages RPM "$2" -R 999
    exit
fi
work=$(mktemp -d /tmp/sealpoint-packages.XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT

make_packages DEB "$work/debs"
[ "$(find "$work/debs" -maxdepth 1 -name '*.deb' | wc -l)" -eq 3 ] || fail "three packages were expected"
lintian --allow-root --fail-on error --tag-display-limit 0 "$work"/debs/*.deb || fail "lintian"

tree=$work/tree
for deb in "$work"/debs/*.deb; do
    dpkg-deb -x "$deb" "$tree"
    dpkg-deb -I "$deb" conffiles 2>/dev/null >>"$work/conffiles" || true
done
# What is in /etc and not known to dpkg as configuration would be overwritten by an upgrade.
(cd "$tree" && find etc -type f -printf '/%p\n') | sort | diff - <(sort "$work/conffiles") || fail "conffiles"
for path in /usr/bin/sealpoint /usr/bin/sealpoint-agent /usr/sbin/sealpointd /usr/sbin/sealpoint-keeper \
    /usr/libexec/sealpoint/sealpoint-prover /usr/libexec/sealpoint/sealpoint-enrol-volume; do
    [ -x "$tree$path" ] || fail "no $path"
done
for page in man1/sealpoint.1 man8/sealpointd.8 man8/sealpoint-keeper.8 man8/sealpoint-agent.8; do
    man --warnings -l "$tree/usr/share/man/$page.gz" >/dev/null 2>"$work/warnings" || fail "no $page"
    [ ! -s "$work/warnings" ] || fail "$page: $(cat "$work/warnings")"
done
ldd "$tree/usr/bin/sealpoint-agent" >"$work/ldd"
! grep -E 'libgrpc|libgpr|libcurl|libcryptsetup|not found' "$work/ldd" || fail "the agent loads what it should not"

# Units: right, and as closed as they are meant to be.
ln -s usr/lib "$tree/lib"
cp -an /usr/lib/systemd "$tree/usr/lib/" # what they are ordered against
for unit in sealpoint-agent:30 sealpoint-enrol-volume@:30 sealpoint-keeper:20 sealpointd:25; do
    name=${unit%:*}
    systemd-analyze verify --root="$tree" --man=no "$name.service" >"$work/verify" 2>&1 || fail "$name.service is not right"
    ! grep "$name" "$work/verify" || fail "$name.service is not right"
    systemd-analyze security --offline=true --threshold="${unit#*:}" "$tree/usr/lib/systemd/system/$name.service" \
        --no-pager >"$work/exposure" || { cat "$work/exposure"; fail "$name.service is too open"; }
    grep Overall "$work/exposure"
done

# The agent's .rpm. No distribution with rpm is at hand, so rpm's database is empty and knows nobody who
# provides a library: --nodeps. That what it asks for is what the program loads is checked here instead.
make_packages RPM "$work/rpms"
rpm=$(echo "$work"/rpms/sealpoint-agent-*.rpm)
rpm -qpR "$rpm" | sed -n 's/^\(lib[^(]*\)()(64bit)$/\1/p' | sort -u >"$work/asks"
objdump -p "$tree/usr/bin/sealpoint-agent" "$tree/usr/libexec/sealpoint/sealpoint-enrol-volume" | awk '$1 == "NEEDED" && $2 !~ /^ld-/ { print $2 }' | sort -u | diff - "$work/asks" ||
    fail "the .rpm does not ask for the libraries that it needs"
root=$work/rpmroot
mkdir -p "$root"/usr/{bin,lib64} "$root"/{etc,var/lib,tmp,dev}
ln -s usr/bin usr/lib64 "$root/"
mknod -m 666 "$root/dev/null" c 1 3
cp "$(command -v busybox)" "$root/usr/bin/"
for applet in sh mkdir rm; do ln -s busybox "$root/usr/bin/$applet"; done
for lib in $(grep -o '/[^ ]* (0x' "$work/ldd" | sed 's/ (0x//'); do
    mkdir -p "$root$(dirname "$lib")"
    cp "$lib" "$root$lib"
done
in_rpm() { rpm --root "$root" --dbpath /var/lib/rpm "$@"; }
in_rpm --initdb
in_rpm -i --nodeps "$rpm"
chroot "$root" sealpoint-agent --version | grep -q . || fail "the agent of the .rpm does not run"
[ "$(stat -c %a "$root/var/lib/sealpoint-agent")" = 700 ] || fail "the agent's folder"
in_rpm -V --nodeps sealpoint-agent || fail "rpm -V"
# A later version, whose own configuration has changed, too.
cp "$SEALPOINT_SOURCE/packaging/conf/agent.conf" "$work/agent.conf"
echo '# new default' >>"$work/agent.conf"
unshare -m sh -c 'mount --bind "$1" "$2" && shift 2 && "$@"' sh "$work/agent.conf" \
    "$SEALPOINT_SOURCE/packaging/conf/agent.conf" "$0" --later-rpm "$work/later" 2>/dev/null ||
    fail "no later version"
echo '# edited' >>"$root/etc/sealpoint/agent.conf"
touch "$root/var/lib/sealpoint-agent/identity"
in_rpm -U --nodeps "$work"/later/sealpoint-agent-*.rpm
[ "$(in_rpm -q --qf '%{VERSION}' sealpoint-agent)" = 999 ] || fail "not upgraded"
grep -q '# edited' "$root/etc/sealpoint/agent.conf" || fail "an upgrade lost the edited configuration"
grep -q '# new default' "$root/etc/sealpoint/agent.conf.rpmnew" || fail "no agent.conf.rpmnew"
[ -e "$root/var/lib/sealpoint-agent/identity" ] || fail "an upgrade lost the identity"
in_rpm -e --nodeps sealpoint-agent
rm "$root"/etc/sealpoint/agent.conf.rpm{new,save} # what the user wrote is kept beside
rmdir "$root/etc/sealpoint"
left=$(find "$root" -iname '*sealpoint*')
[ -z "$left" ] || fail "removed, but still there: $left"
echo "three .deb files are in order; the .rpm installs, upgrades and goes"
