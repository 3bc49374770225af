# SPDX-License-Identifier: GPL-3.0-or-later
# Sourced: packages from the release build, and a fresh Debian to install them into.
release=${SEALPOINT_RELEASE:-${SEALPOINT_SOURCE:-.}/build/release}

fail() {
    echo "FAILED: $1" >&2
    exit 1
}

# make_packages DEB|RPM FOLDER [cpack option]…
make_packages() {
    local kind=$1 folder=$2
    shift 2
    [ -e "$release/build.ninja" ] || cmake --preset release -S "$SEALPOINT_SOURCE" >/dev/null
    cmake --build "$release" >/dev/null || fail "the release build"
    mkdir -p "$folder"
    (cd "$release" && cpack -G "$kind" -B "$folder" "$@") >"$folder/log" 2>&1 || {
        cat "$folder/log" >&2
        fail "cpack -G $kind"
    }
    find "$folder" -maxdepth 1 \( -name '*.deb' -o -name '*.rpm' \) -printf 'made %f, %k KiB\n'
}

# The packages that the .deb files in a folder need, without our own.
dependencies_of() {
    for deb in "$1"/*.deb; do
        dpkg-deb -f "$deb" Depends
        echo
    done | tr ',' '\n' | sed 's/([^)]*)//; s/|.*//; s/ //g' | grep -v '^$\|^sealpoint' | sort -u
}

# fresh_root FOLDER PACKAGE…: a minimal Debian of this host's release, with these packages.
fresh_root() {
    local root=$1 mirror suite
    shift
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    # Each archive goes through a filter in Python: not by way of what wraps python3 in somebody's PATH.
    PATH=/usr/sbin:/usr/bin:/sbin:/bin mmdebstrap --variant=minbase --include="$(echo "$*" | tr ' ' ,)" \
        --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/locale/*' --aptopt='Acquire::Languages "none"' \
        "$suite" "$root" "$mirror" >"$root.log" 2>&1 || {
        tail "$root.log" >&2
        fail "no fresh root"
    }
}

in_root() {
    local root=$1
    shift
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"
}
