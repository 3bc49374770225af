#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The three .deb files in a fresh Debian: installed with nothing but what they say they depend on, used, upgraded,
# removed, purged. What belongs to the user (edited configuration, keys) survives what it has to survive.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
work=$(mktemp -d /tmp/sealpoint-packages.XXXXXX)
root=$work/root
trap 'umount "$root/proc" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
must_have() { [ -e "$root$1" ] || fail "$1 is missing"; }
must_lack() { [ ! -e "$root$1" ] || fail "$1 is still there"; }
quietly() { "$@" >"$work/log" 2>&1 || { tail -n 30 "$work/log" >&2; fail "$*"; }; }

make_packages DEB "$work/debs"
fresh_root "$root" $(dependencies_of "$work/debs")
mount -t proc proc "$root/proc"
mkdir "$root/debs"
cp "$work"/debs/*.deb "$root/debs/"
quietly in_root "$root" sh -c 'dpkg -i /debs/*.deb' # fails where a dependency is missing

for program in sealpoint sealpointd sealpoint-keeper sealpoint-agent; do
    in_root "$root" "$program" --version | grep -q . || fail "$program --version"
    in_root "$root" "$program" --help | grep -qi usage || fail "$program --help"
done
[ "$(in_root "$root" stat -c '%U %a' /var/lib/sealpoint-keeper)" = "sealpoint-keeper 700" ] || fail "the keeper's folder"
[ "$(in_root "$root" stat -c '%U %a' /var/lib/sealpoint)" = "sealpoint 700" ] || fail "the controller's folder"
[ "$(in_root "$root" stat -c '%U %a' /var/lib/sealpoint-agent)" = "root 700" ] || fail "the agent's folder"
truncate -s 8M "$root/image"
in_root "$root" sealpoint-agent inspect /image --json | python3 -m json.tool >/dev/null || fail "inspect --json"

# A later version, whose own configuration has changed, keeps what an admin wrote.
for deb in "$work"/debs/*.deb; do
    rm -rf "$work/later"
    dpkg-deb -R "$deb" "$work/later"
    sed -i 's/^Version: .*/Version: 999/' "$work/later/DEBIAN/control"
    for conf in "$work"/later/etc/sealpoint/*.conf; do
        [ -e "$conf" ] || continue
        echo '# new default' >>"$conf"
        echo '# edited' >>"$root/etc/sealpoint/${conf##*/}"
    done
    dpkg-deb -Zgzip -b "$work/later" "$root/debs/later-$(basename "$deb")" >/dev/null
done
touch "$root"/var/lib/sealpoint-{keeper/keystore.db,agent/identity}
quietly in_root "$root" sh -c 'dpkg -i --force-confdef --force-confold /debs/later-*.deb'
[ "$(in_root "$root" dpkg-query -W -f '${Version}' sealpoint-agent)" = 999 ] || fail "not upgraded"
for conf in agent controller keeper; do
    grep -q '# edited' "$root/etc/sealpoint/$conf.conf" || fail "an upgrade lost the edited $conf.conf"
    must_have "/etc/sealpoint/$conf.conf.dpkg-dist"
done
must_have /var/lib/sealpoint-agent/identity

quietly in_root "$root" dpkg -r sealpoint sealpoint-agent sealpoint-controller
for path in /usr/bin/sealpoint /usr/bin/sealpoint-agent /usr/sbin/sealpointd /usr/share/man/man8/sealpointd.8.gz; do
    must_lack "$path"
done
must_have /etc/sealpoint/agent.conf
must_have /var/lib/sealpoint-agent/identity
quietly in_root "$root" dpkg -P sealpoint sealpoint-agent sealpoint-controller
must_lack /etc/sealpoint
must_lack /var/lib/sealpoint-agent
must_have /var/lib/sealpoint-keeper/keystore.db # keys are nobody's to throw away in passing
left=$(find "$root"/usr "$root"/etc "$root"/lib/systemd -iname '*sealpoint*' | grep -v systemd/system-preset || true)
[ -z "$left" ] || fail "purged, but still there: $left"
echo "installed, used, upgraded, removed, purged"
