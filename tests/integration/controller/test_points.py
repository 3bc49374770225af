#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Points that are not like others: a cloned disk beside the original (one UUID, two volumes), headers so large
that the manifest is no single message, a key that cannot be given any more; and a restore that is refused, is
interrupted, or has no room."""
import filecmp
import json
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from idle import IdleMachine, make_images, tool, volume_id  # noqa: E402
from lab import Lab, binary  # noqa: E402

KEYSLOTS = 13  # each of 250 KiB


def run(lab, *words, **more):
    status, out, err = lab.cli(*words, check=False, json=False, **more)
    return status, out + err


def clone_and_grow(images, keys):
    """Many keyslots in the LUKS2 header, then a copy of the disk, as it is attached to repair something."""
    for n in range(KEYSLOTS):
        more = images["luks2"].with_name(f"more{n}.key")
        more.write_text(f"more {n}")
        tool("cryptsetup", "-q", "luksAddKey", "--key-file", keys["luks2"], "--pbkdf", "pbkdf2",
             "--pbkdf-force-iterations", "1000", images["luks2"], more)
    images["zclone"] = images["luks2"].with_name("zclone.raw")
    shutil.copy(images["luks2"], images["zclone"])


def a_clone_is_a_volume_of_its_own(lab, ids):
    job = lab.cli("backup", "idle1", "--no-agent")
    clone = ids["luks2"] + "@disk-zclone+0"
    assert job["state"] == "POINT_STATE_VALID", job
    note = [f for f in job["findings"] if f["volume_id"] == clone]
    assert [f["reason"] for f in note] == ["REASON_INVENTORY_MISMATCH"] and note[0]["note"], job["findings"]
    detail = lab.cli("point", "show", job["point_id"])
    found = {p["volume"]["volume_id"]: p.get("proof") for p in detail["proofs"]}
    assert found[ids["luks2"]]["record"]["record_id"] == found[clone]["record"]["record_id"]
    disks = {v: {s["on"]["disk_id"] for s in found[v]["sectors"]} for v in (ids["luks2"], clone)}
    assert disks == {ids["luks2"]: {"disk-luks2"}, clone: {"disk-zclone"}}, disks
    print(f"a clone: {clone} is proved on its own disk", flush=True)
    return job["point_id"], clone, detail


def a_large_manifest_restores(lab, point, detail, images):
    assert detail["manifest_bytes"] > 3 << 20 and not detail.get("manifest"), detail["manifest_bytes"]
    to = lab.path / "restored"
    status, said = run(lab, "point", "restore", point, "--to", to)
    assert status == 0, said
    for name, image in images.items():
        assert filecmp.cmp(image, to / f"disk-{name}.raw", shallow=False), name
    print(f"a manifest of {detail['manifest_bytes']} bytes restores", flush=True)
    return to


def restores_that_are_refused(lab, point, to):
    """Nothing is written over, nothing is begun that must fail."""
    before = {p.name: p.stat().st_mtime_ns for p in to.iterdir()}
    status, said = run(lab, "point", "restore", point, "--to", to)
    assert status == 1 and "is there already: --force" in said, said
    (to / "disk-clear.raw").unlink()
    (to / "disk-clear.raw").symlink_to("/nonexistent")
    status, said = run(lab, "point", "restore", point, "--to", to, "--disk", "disk-clear")
    assert status == 1 and "is there already" in said, said
    assert {p.name: p.lstat().st_mtime_ns for p in to.iterdir() if not p.is_symlink()}.items() <= before.items()
    status, said = run(lab, "point", "restore", point, "--to", to, "--disk", "disk-clear", "--force")
    assert status == 0 and (to / "disk-clear.raw").is_file(), said
    for words, expected in ((["00000000-0000-4000-8000-000000000000"], "no point"), (["zz"], "no point"),
                            ([point, "--disk", "no-such"], "no disk 'no-such'")):
        status, said = run(lab, "point", "restore", *words, "--to", lab.path / "none")
        assert status == 1 and expected in said and not list(lab.path.glob("none/*")), (words, status, said)
    status, said = run(lab, "point", "restore", point, "--to", "/dev/null/x")
    assert status == 1 and "/dev/null/x" in said, said
    small = lab.path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", small], check=True)
    try:
        status, said = run(lab, "point", "restore", point, "--to", small / "x")
        assert status == 1 and "has room for" in said and not list(small.glob("x/*")), said
    finally:
        subprocess.run(["umount", small], check=True)
    print("refused restores write nothing:", said.strip(), flush=True)


def an_interrupted_restore_leaves_no_half_disk(lab, point):
    to = lab.path / "interrupted"
    restore = subprocess.Popen([binary("sealpoint"), "--profile", lab.profile, "point", "restore", point, "--to", to],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not list(to.glob("*.partial")):
        assert restore.poll() is None, restore.communicate()
        time.sleep(0.001)
    lab.controller.process.send_signal(signal.SIGSTOP)  # what is on its way stays there
    restore.send_signal(signal.SIGINT)
    lab.controller.process.send_signal(signal.SIGCONT)
    said = restore.communicate(timeout=60)[0]
    assert restore.returncode == 1 and "interrupted" in said, (restore.returncode, said)
    assert not list(to.glob("*.partial")), list(to.iterdir())
    print("interrupted:", said.strip().splitlines()[-1], flush=True)


def one_lost_key_does_not_hold_back_the_others(lab, point, ids, clone, keys):
    store = next(p for p in lab.keeper_state.iterdir() if p.suffix == ".db")
    with sqlite3.connect(store, timeout=30) as db:
        (good,) = db.execute("SELECT ciphertext FROM records WHERE volume_id = ?", (ids["luks1"],)).fetchone()
        db.execute("UPDATE records SET ciphertext = zeroblob(64) WHERE volume_id = ?", (ids["luks1"],))
    to = lab.path / "released"
    status, said = run(lab, "key", "release", point, "--to", to, "--why", "drill")
    assert status == 1 and f"{ids['luks1']}: no key" in said, (status, said)
    files = {"".join(c if c.isalnum() or c in "-." else "_" for c in v) + ".key" for v in (ids["luks2"], clone)}
    assert {p.name for p in to.iterdir()} == files, (files, list(to.iterdir()))
    for name in files:
        assert (to / name).read_bytes() == keys["luks2"].read_bytes()
    with sqlite3.connect(store, timeout=30) as db:
        db.execute("UPDATE records SET ciphertext = ? WHERE volume_id = ?", (good, ids["luks1"]))
    print("one lost key:", [line for line in said.splitlines() if "no key" in line][0], flush=True)


def texts(lab, ids):
    """What the admin reads when a key is missing: the volume once, one sentence."""
    status, out, err = lab.cli("backup", "idle1", "--no-agent", check=False, json=False)
    lines = [line for line in out.splitlines() if "ESCROW_MISSING" in line]
    assert status == 3 and lines, (status, out, err)
    for line in lines:
        assert line.count("luks:") == 1 and line.count("no key") == 1 and len(line) < 200, line
    print(lines[0].strip(), flush=True)


def main():
    with Lab() as lab:
        lab.up()
        images, keys = make_images(lab.path / "images")
        clone_and_grow(images, keys)
        ids = {n: volume_id(images[n]) for n in keys}
        with IdleMachine(lab.path / "idle1", images) as machine:
            machine.start()
            lab.cli("machine", "add", "idle1")
            lab.cli("vault", "add", "main", "--dir", lab.vault)
            lab.cli("machine", "set-source", "idle1", "--qmp", machine.qmp_source, "--vault", "main")
            texts(lab, ids)
            for name, key in keys.items():
                lab.cli("key", "import", "idle1", ids[name], "--passphrase-file", key)
            point, clone, detail = a_clone_is_a_volume_of_its_own(lab, ids)
        to = a_large_manifest_restores(lab, point, detail, images)
        restores_that_are_refused(lab, point, to)
        an_interrupted_restore_leaves_no_half_disk(lab, point)
        one_lost_key_does_not_hold_back_the_others(lab, point, ids, clone, keys)
        again = json.loads(lab.cli("point", "verify", point, "--json", check=False)[1])
        assert again["state"] == "POINT_STATE_VALID", again
        assert run(lab, "vault", "check", "main", "--read-data")[0] == 0


main()
