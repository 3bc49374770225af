#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job, whole: five disks, a writer running, a valid point of grade filesystem; then a second guest
from the restored disks, unlocked with keys released from escrow, whose files are those of the freeze. One volume gets
a recovery key of its own first (crypttab's key file opens it), and that is the key which is proved and released."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from lab import CliFailed, Disk, Lab  # noqa: E402
from scene import NAMES, Scene, one_point_in_time  # noqa: E402

# Takes checksums while the freezer's list says HELD (2, agent/linux/freeze_list.h), and says if it was held
# from the first byte to the last.
WATCHER = r"""
list=/run/sealpoint-agent/frozen
state() { od -An -tu4 -j16 -N4 $list 2>/dev/null | tr -d ' '; }
while [ "$(state)" != 2 ]; do usleep 2000; done
op=$(dd if=$list bs=1 skip=28 count=64 2>/dev/null | tr -d '\0')
for n in clear luks2 luks1 plain lvm; do
    cd /mnt/$n/files && echo "$n $(sha256sum * | sha256sum | cut -d' ' -f1) $(wc -l < ../log)"
done
if [ "$(state)" = 2 ] && [ "$(dd if=$list bs=1 skip=28 count=64 2>/dev/null | tr -d '\0')" = "$op" ]; then
    echo held
else
    echo missed
fi
"""


def backup_with_checksums(lab, g):
    """Takes points until one freeze lasted as long as the checksums; the point and what was read in it."""
    for attempt in range(6):
        ticket = g.begin(WATCHER)
        job = lab.cli("backup", "web1", timeout=600)
        lines = g.finish(ticket).out.split("\n")
        print(f"backup {attempt + 1}: {job['state']} {job['grade']}, checksums {lines[5]}", flush=True)
        assert job["state"] == "POINT_STATE_VALID", job
        assert job["grade"] == "GRADE_FILESYSTEM", job
        if lines[5] == "held":
            rows = [line.split() for line in lines[:5]]
            return job, {r[0]: r[1] for r in rows}, [int(r[2]) for r in rows]
    raise AssertionError("no freeze was held for as long as the checksums took")


def enrol_keyslot(lab, g, volume):
    """The record of the new keyslot; it is pending."""
    g.put("/etc/crypttab", f"luks2 UUID={volume.removeprefix('luks:')} /run/keys/luks2.key luks\n", 0o600)
    said = lab.cli("key", "enrol", "web1", "luks2", "--why", "end to end")
    assert said["outcome"] == "KEYSLOT_OUTCOME_ENROLLED", said
    assert said["record"]["state"] == "RECORD_STATE_PENDING", said
    return said["record"]["record_id"]


def memory_of(pid):
    """Every readable byte of a process."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            first, last = (int(x, 16) for x in span.split("-"))
            if rights[0] != "r" or last - first > 1 << 31 or "[v" in line:
                continue
            try:
                memory.seek(first)
                yield memory.read(last - first) or b""
            except OSError:
                pass


def never_seen(lab, key):
    """The key is nowhere in the controller: not in its memory, its log, its catalog; nor in the keeper's log."""
    forms = [key, key.hex().encode()]
    files = [p for p in (*lab.state.rglob("*"), *lab.path.glob("*.log")) if p.is_file()]
    for where, data in [*((p, p.read_bytes()) for p in files),
                        *(("memory", part) for part in memory_of(lab.controller.pid()))]:
        assert not any(form in data for form in forms), where


def main():
    with Lab() as lab:
        lab.up()
        scene = Scene(lab.path / "keys")
        g = scene.bring_up(lab)
        rss = lab.wait_for("a heartbeat", lambda: lab.machine("web1")["agent"]["rss_bytes"])
        print(f"agent: {rss / 1e6:.1f} MB RSS", flush=True)
        assert rss <= 20_000_000, f"the agent takes {rss} bytes"
        ids = scene.import_keys(lab, "web1")
        keyslot = enrol_keyslot(lab, g, ids["luks2"])
        scene.writer_start(g)
        job, sums, counts = backup_with_checksums(lab, g)
        assert one_point_in_time(counts), counts
        assert g.traces() == [], g.traces()
        scene.writer_stop(g)
        live = scene.counts(g)
        assert all(a >= b for a, b in zip(live, counts)), (live, counts)

        point = lab.cli("point", "show", job["point_id"])
        proved = {p["volume"]["volume_id"]: p["proof"] for p in point["proofs"]
                  if p["volume"]["kind"] != "VOLUME_KIND_CLEAR"}
        assert set(ids.values()) == set(proved), (ids, proved.keys())
        for volume, proof in proved.items():
            assert proof["verdict"] == "PROOF_VERDICT_OPENS", (volume, proof)
            assert proof["level"] == "EVIDENCE_LEVEL_PLAINTEXT", (volume, proof)
        by = proved[ids["luks2"]]["record"]
        assert by["record_id"] == keyslot and proved[ids["luks2"]]["protector_id"] == by["protector_id"], by
        shown = lab.cli("key", "show", keyslot)
        assert shown["record"]["state"] == "RECORD_STATE_ACTIVE", shown
        status, out, err = lab.cli("vault", "check", "main", "--read-data", json=False, check=False)
        assert status == 0, out + err
        g.stop()

        out = lab.path / "restored"
        lab.cli("point", "restore", job["point_id"], "--to", out, json=False)
        try:
            lab.cli("point", "restore", job["point_id"], "--to", out, json=False)
            raise AssertionError("a restore wrote over another one")
        except CliFailed as e:
            assert "--force" in e.err, e.err
        released = lab.path / "released"
        lab.cli("key", "release", job["point_id"], "--to", released, "--why", "restore test", json=False)
        for name, volume in ids.items():
            file = released / ("".join(c if c.isalnum() or c in "-." else "_" for c in volume) + ".key")
            if name == "luks2":
                assert len(file.read_bytes()) == 32
                never_seen(lab, file.read_bytes())
            else:
                assert file.read_bytes() == scene.keys[name].read_bytes(), f"{name}: another key came back"
            assert file.stat().st_mode & 0o777 == 0o600
            scene.keys[name] = file

        disks = [Disk(n, serial=f"disk-{n}", file=out / f"disk-{n}.raw") for n in NAMES]
        second = lab.guest("restored", disks=disks)
        second.start()
        scene.put_keys(second)
        scene.open(second)
        scene.mount(second)
        assert scene.checksums(second) == sums
        assert scene.counts(second) == counts, (scene.counts(second), counts)
        audit = lab.cli("audit", "list", json=False)
        assert "key.release" in audit, audit
        assert lab.cli("audit", "verify", json=False, check=False)[0] == 0
        print("restored disks hold what the freeze held; writer's counts", counts)


main()
