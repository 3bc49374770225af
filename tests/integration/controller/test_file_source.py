#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw images on an XFS as a machine's disks, through the whole program: full, increment, restore; several
images that nobody holds; what is refused when the source is set."""
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from idle import make_images, tool, volume_id  # noqa: E402
from lab import Lab  # noqa: E402


def backup(lab, name):
    status, out, err = lab.cli("backup", name, "--no-agent", json=False, check=False)
    assert status in (0, 3), (status, out, err)
    return lab.cli("machine", "show", name)["last_point_id"]


def point(lab, point_id):
    return lab.cli("point", "show", point_id)


def refused(lab, text, *more):
    status, out, err = lab.cli("machine", "set-source", "web1", *more, json=False, check=False)
    assert status != 0 and text in err, (status, out, err)


def increments(lab, images, keys, disks):
    lab.cli("machine", "set-source", "web1", "--image", f"{images['luks2']},serial=S2", "--vault", "main")
    lab.cli("key", "import", "web1", volume_id(images["luks2"]), "--passphrase-file", keys["luks2"])
    assert "file" in lab.cli("machine", "list", json=False) and str(images["luks2"]) in lab.cli(
        "machine", "show", "web1", json=False)
    first = point(lab, backup(lab, "web1"))
    assert first["point"]["state"] == "POINT_STATE_VALID" and first["point"]["grade"] == "GRADE_CRASH", first
    # What the guest would write into its last megabyte, as the storage sees it.
    with open(images["luks2"], "r+b") as f:
        f.seek(-1 << 20, 2)
        f.write(bytes(range(256)) * 1024)
    second_id = backup(lab, "web1")
    was = images["luks2"].read_bytes()
    second = point(lab, second_id)
    assert second["point"]["state"] == "POINT_STATE_VALID", second
    assert "COPIED_IN_FULL" not in str(second), second
    with open(images["luks2"], "r+b") as f:
        f.write(bytes(4096))
    out = lab.path / "restored"
    lab.cli("point", "restore", second_id, "--disk", "S2", "--to", out, json=False)
    restored = list(out.glob("*.raw"))
    assert len(restored) == 1 and restored[0].read_bytes() == was, restored
    assert [p.name for p in disks.glob(".sealpoint-*")] == [f".sealpoint-{second_id}-{images['luks2'].name}"]
    print("full and increment: valid, restored as they were, one clone stays", flush=True)


def several(lab, images, keys):
    lab.cli("machine", "add", "web2", json=False)
    lab.cli("machine", "set-source", "web2", "--image", images["luks1"], "--image", images["clear"], "--vault", "main")
    lab.cli("key", "import", "web2", volume_id(images["luks1"]), "--passphrase-file", keys["luks1"])
    status, out, err = lab.cli("backup", "web2", "--no-agent", json=False, check=False)
    assert status == 3 and "not of one point in time" in out + err, (status, out, err)
    print("several images that nobody holds are no point", flush=True)


def main():
    with Lab() as lab:
        disks = lab.path / "disks"
        disks.mkdir()
        tool("truncate", "-s", "320M", lab.path / "fs")
        tool("mkfs.xfs", "-q", "-m", "reflink=1", lab.path / "fs")
        tool("mount", "-o", "loop", lab.path / "fs", disks)
        try:
            lab.up()
            images, keys = make_images(disks)
            lab.cli("machine", "add", "web1", json=False)
            lab.cli("vault", "add", "main", "--dir", lab.vault)
            refused(lab, "absolute", "--image", "disk.raw")
            refused(lab, "give each its own serial", "--image", "/a/x.raw", "--image", "/b/x.raw")
            refused(lab, "one of the two", "--image", "/a/x.raw", "--qmp", "/run/x")
            refused(lab, "go with --qmp", "--image", "/a/x.raw", "--fleece", "/x")
            increments(lab, images, keys, disks)
            several(lab, images, keys)
        finally:
            subprocess.run(["umount", disks], check=True)


main()
