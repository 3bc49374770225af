#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The three packages in a fresh root: made, installed with what they depend on, used, removed, purged. What
# belongs to the user (edited configuration, keys) survives what it has to survive.
set -euo pipefail
release=${SEALPOINT_RELEASE:-$SEALPOINT_SOURCE/build/release}
work=$(mktemp -d /tmp/sealpoint-packages.XXXXXX)
root=$work/root
trap 'umount "$root/proc" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
fail() { echo "FAILED: $1" >&2; exit 1; }
must_have() { [ -e "$root$1" ] || fail "$1 is missing"; }
must_lack() { [ ! -e "$root$1" ] || fail "$1 is still there"; }

[ -e "$release/build.ninja" ] || cmake --preset release -S "$SEALPOINT_SOURCE" >/dev/null
cmake --build "$release" >/dev/null
(cd "$release" && cpack -B "$work/debs" >/dev/null)
ls "$work"/debs/*.deb | sed 's|.*/|made |'
[ "$(find "$work/debs" -maxdepth 1 -name '*.deb' | wc -l)" -eq 3 ] || fail "three packages were expected"

mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$work/debootstrap.log" 2>&1 ||
    { tail "$work/debootstrap.log" >&2; fail "no fresh root"; }
mount -t proc proc "$root/proc"
mkdir "$root/debs"
cp "$work"/debs/*.deb "$root/debs/"
in_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
in_root sh -c 'apt-get install -y -qq --no-install-recommends /debs/*.deb' >"$work/install.log" 2>&1 ||
    { tail -n 30 "$work/install.log" >&2; fail "the packages do not install"; }

for program in sealpoint sealpointd sealpoint-keeper sealpoint-agent; do
    in_root "$program" --version | grep -q . || fail "$program --version"
    in_root "$program" --help | grep -qi usage || fail "$program --help"
done
must_have /usr/libexec/sealpoint/sealpoint-prover
for unit in sealpointd sealpoint-keeper sealpoint-agent; do
    must_have "/lib/systemd/system/$unit.service"
    systemd-analyze verify --root="$root" --man=no "$unit.service" || fail "$unit.service is not right"
done
for page in man1/sealpoint.1 man8/sealpointd.8 man8/sealpoint-keeper.8 man8/sealpoint-agent.8; do
    [ -e "$root/usr/share/man/$page" ] || [ -e "$root/usr/share/man/$page.gz" ] || fail "no $page"
done
[ "$(in_root stat -c '%U %a' /var/lib/sealpoint-keeper)" = "sealpoint-keeper 700" ] || fail "the keeper's folder"
[ "$(in_root stat -c '%U %a' /var/lib/sealpoint)" = "sealpoint 700" ] || fail "the controller's folder"

# An agent that sees nothing but its own image says so and does not crash.
truncate -s 8M "$root/image"
in_root sealpoint-agent inspect /image --json | python3 -m json.tool >/dev/null || fail "inspect --json"

# A new version over it keeps what an admin wrote.
echo '# edited' >>"$root/etc/sealpoint/agent.conf"
in_root sh -c 'dpkg -i --force-confdef --force-confold /debs/sealpoint-agent_*.deb' >/dev/null
grep -q '# edited' "$root/etc/sealpoint/agent.conf" || fail "an upgrade lost the edited configuration"

touch "$root/var/lib/sealpoint-keeper/keystore.db"
in_root apt-get remove -y -qq sealpoint sealpoint-agent sealpoint-controller >/dev/null
must_lack /usr/bin/sealpoint
must_lack /usr/sbin/sealpointd
must_have /etc/sealpoint/agent.conf
in_root apt-get purge -y -qq sealpoint sealpoint-agent sealpoint-controller >/dev/null
must_lack /etc/sealpoint/agent.conf
must_lack /var/lib/sealpoint-agent
must_have /var/lib/sealpoint-keeper/keystore.db # keys are nobody's to throw away in passing
echo "installed, used, upgraded, removed, purged"
