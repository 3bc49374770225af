#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""`inspect` of images and devices that have bad sectors, are gone, or are named to deceive: each is told with what
can be known of it, the others as if nothing were wrong. A bad sector is made by btrfs: it refuses to read a block
whose checksum it finds wrong, with EIO, as a disk does. Root only: it mounts and makes loop devices."""
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from lab import binary  # noqa: E402

MIB, PIECE = 1 << 20, 4096
FAST = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
# Where each image is bad, and what of it must be known all the same: (format, bad offsets, kind, finding).
IMAGES = {
    "first copy": ("luks2", (0,), "LUKS2", "HEADER_DAMAGED"),
    "second copy": ("luks2", (16384, 20480), "LUKS2", "HEADER_DAMAGED"),
    "key material": ("luks2", (40960,), "LUKS2", None),
    "payload": ("luks2", (18 * MIB,), "LUKS2", None),
    "only header": ("luks1", (0,), None, None),
    "keys": ("luks1", (PIECE,), "LUKS1", None),
    "end": ("ext4", (24 * MIB - PIECE,), "CLEAR", None),
    "superblock": ("ext4", (0,), None, None),
}


def tool(*command, stdin=b"", text=True):
    out = subprocess.run([str(c) for c in command], check=True, input=stdin, stdout=subprocess.PIPE).stdout
    return out.decode() if text else out


def make(path, kind):
    with open(path, "wb") as f:
        f.truncate(24 * MIB)
    if kind == "ext4":
        tool("mkfs.ext4", "-q", "-F", path)
    else:
        fast = FAST if kind == "luks2" else FAST[2:]
        tool("cryptsetup", "-q", "luksFormat", "--type", kind, *fast, path, "-", stdin=b"key")


class BadSectors:
    """A btrfs with the images in it, mounted, whose blocks at the chosen offsets have a wrong checksum."""

    def __init__(self, folder):
        self.disk, self.mount = folder / "btrfs.img", folder / "mnt"
        self.mount.mkdir()
        with open(self.disk, "wb") as f:
            f.truncate(320 * MIB)
        tool("mkfs.btrfs", "-q", "-d", "single", "-m", "single", self.disk)

    def __enter__(self):
        tool("mount", "-o", "loop", self.disk, self.mount)
        marks = {}
        for name, (kind, bad, _, _) in IMAGES.items():
            path = self.mount / f"{name}\nof {kind}"
            make(path, kind)
            with open(path, "r+b") as f:
                for offset in bad:
                    f.seek(offset)
                    block = bytearray(f.read(PIECE))
                    mark = random.randbytes(64)
                    block[-64:] = mark  # behind what any header has there
                    f.seek(offset)
                    f.write(block)
                    marks[mark] = block
        tool("umount", self.mount)
        whole = self.disk.read_bytes()
        with open(self.disk, "r+b") as f:
            for mark in marks:
                at = whole.find(mark)
                assert at >= 0 and whole.find(mark, at + 1) < 0
                f.seek(at)
                f.write(bytes(1))
        tool("mount", "-o", "loop", self.disk, self.mount)
        return self

    def __exit__(self, *_):
        tool("umount", self.mount)


def inspect(agent, *arguments, good=(0,)):
    done = subprocess.run([agent, "inspect", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode in good, done
    return done.stdout.decode(), done.stderr.decode()


def unreadable_of(findings):
    return sorted((f["offset_bytes"], f["length_bytes"]) for f in findings if "cannot be read" in f["text"])


def images_with_bad_sectors(agent, disk):
    paths = {name: disk.mount / f"{name}\nof {row[0]}" for name, row in IMAGES.items()}
    told = json.loads(inspect(agent, "--json", *paths.values())[0])["images"]
    text, errors = inspect(agent, *paths.values())
    assert errors == "" and "\nof luks" not in text, (errors, text)
    by_path = {i["path"]: i for i in told}
    for name, (kind, bad, volume, finding) in IMAGES.items():
        image = by_path[str(paths[name])]
        assert "error" not in image, image
        assert [v["kind"] for v in image["volumes"]] == ([volume] if volume else []), (name, image)
        runs = [(bad[0], PIECE * len(bad))]
        read = name not in ("payload", "key material") or unreadable_of(image["findings"])
        assert not read or unreadable_of(image["findings"]) == runs, (name, image["findings"])
        reasons = {f["reason"] for f in image["findings"]}
        assert finding is None or finding in reasons, (name, reasons)
        assert text.count(f"{name}?of {kind}, 24.0 MiB") == 1, text
    # Of a LUKS1 that lost its only header nobody can say what it was; that it may be one is said.
    lost = by_path[str(paths["only header"])]
    assert [f["reason"] for f in lost["findings"]] == ["UNIDENTIFIED_CONTENT"] and not lost["findings"][0]["note"], lost
    assert "bytes 0 to 4095 cannot be read (Input/output error)" in text, text


def others_are_told_all_the_same(agent, disk, folder):
    """The first is gone, the second is no image, the third is good."""
    good = folder / "good \x1b[31m\n! image"
    make(good, "luks2")
    gone = folder / "gone\nsealpoint-agent: fine"
    out, errors = inspect(agent, gone, folder, good, good=(1,))
    assert out.count("opened by   keyslot 0") == 1 and "\x1b" not in out and "\n! image" not in out, out
    assert len(errors.splitlines()) == 2 and "gone?sealpoint" in errors, errors
    out, _ = inspect(agent, "--json", gone, folder, good, good=(1,))
    told = json.loads(out)["images"]
    assert ["error" in i for i in told] == [True, True, False] and told[2]["path"] == str(good), told
    assert told[2]["volumes"][0]["kind"] == "LUKS2"


def devices_with_bad_sectors(agent, disk):
    """The same as devices of the guest: loop devices over the images."""
    loops = {}
    try:
        for name, (kind, *_) in IMAGES.items():
            loops[name] = tool("losetup", "--find", "--show", "--read-only", disk.mount / f"{name}\nof {kind}").strip()
        told = json.loads(inspect(agent, "--json")[0])
        for name, (kind, bad, volume, _) in IMAGES.items():
            node = os.path.basename(loops[name])
            volumes = [v["kind"] for v in told["volumes"] if v["device"] == loops[name]]
            device = next(d for d in told["devices"] if d["name"] == node)
            said = [f["text"] for f in told["findings"] if f["text"].startswith(f"{node}: it cannot be read")]
            if volume == "CLEAR":  # what loop devices hold is a part of the volume that holds the file
                assert device["content"]["type"] == kind, device
            else:
                assert volumes == ([volume] if volume else []), (name, volumes)
            if name in ("first copy", "second copy", "only header", "superblock", "end"):
                assert len(said) == 1 and f"(Input/output error at byte {bad[0]})" in said[0], (name, said)
    finally:
        for loop in loops.values():
            tool("losetup", "-d", loop)


def a_device_that_shrank(agent, folder):
    """All of it is gone, as of a disk that was unplugged: reads of the loop device fail."""
    image = folder / "shrank"
    make(image, "luks2")
    loop = tool("losetup", "--find", "--show", image).strip()
    try:
        os.truncate(image, 0)
        tool("blockdev", "--flushbufs", loop)
        out, _ = inspect(agent)
        assert f"{os.path.basename(loop)}: it cannot be read (" in out, out
        _, errors = inspect(agent, loop, good=(1,))
        assert f"cannot read '{loop}' at byte 0" in errors or "is empty" in errors, errors
    finally:
        tool("losetup", "-d", loop)


def bitlocker_without_its_start(agent, folder):
    """Neither sector 0 nor the first metadata copy is left, on a device of the guest; the second is found."""
    corpus = pathlib.Path(os.environ.get("SEALPOINT_CORPUS") or
                          pathlib.Path(__file__).resolve().parents[4] / "shared/corpus")
    packed = corpus / "bitlk-aes-cbc-elephant-128.img.xz"
    if not packed.exists():
        sys.exit("no corpus")
    image = folder / "bitlocker"
    data = bytearray(tool("xz", "-dc", packed, text=False))
    first = data.find(b"-FVE-FS-", 512)
    data[:512] = bytes(512)
    data[first:first + 4096] = bytes(4096)
    image.write_bytes(data)
    loop = tool("losetup", "--find", "--show", image).strip()
    try:
        volumes = [v for v in json.loads(inspect(agent, "--json")[0])["volumes"] if v["device"] == loop]
        assert [(v["kind"], v["header"]["uuid"]) for v in volumes] == \
            [("BITLOCKER", "d1668fb9-2c16-40aa-8959-3493815234e6")], volumes
        assert [c["health"] for c in volumes[0]["header"]["copies"]] == ["ABSENT", "GOOD", "GOOD"], volumes
    finally:
        tool("losetup", "-d", loop)


def main():
    agent = binary("sealpoint-agent")
    with tempfile.TemporaryDirectory(prefix="sp", dir="/dev/shm") as name:
        folder = pathlib.Path(name)
        with BadSectors(folder) as disk:
            images_with_bad_sectors(agent, disk)
            others_are_told_all_the_same(agent, disk, folder)
            devices_with_bad_sectors(agent, disk)
        a_device_that_shrank(agent, folder)
        bitlocker_without_its_start(agent, folder)


main()
