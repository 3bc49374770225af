#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 of controller and keeper at each state of a backup: afterwards catalog, keystore and vault agree,
nothing that was sealed is lost, QEMU is as it was. 12 kills, one of each process at each state; 200 with SEALPOINT_LONG=1."""
import json
import os
import pathlib
import random
import sqlite3
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from idle import IdleMachine, make_images, volume_id  # noqa: E402
from lab import Lab  # noqa: E402

KILLS = 200 if os.environ.get("SEALPOINT_LONG") else 12
STATES = {1: "requested", 2: "freezing", 3: "snapshotted", 4: "transferring", 5: "looking", 6: "proving"}
ENDS = ("POINT_STATE_VALID", "POINT_STATE_UNPROVEN", "POINT_STATE_INVALID", "POINT_STATE_FAILED")


class Steps:
    """Reads the state that the controller has persisted, as fast as SQLite can say it."""

    def __init__(self, catalog):
        self.db = sqlite3.connect(f"file:{catalog}?mode=ro", uri=True, timeout=5)

    def newest(self):
        row = self.db.execute("SELECT number, state FROM step ORDER BY number DESC LIMIT 1").fetchone()
        return row or (0, 0)

    def wait(self, after, state, timeout=60):
        """Until a step younger than `after` has reached the state; the state that was seen."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            number, seen = self.newest()
            if number > after and seen >= state:
                return seen
            time.sleep(0.0005)
        raise AssertionError(f"no backup reached {STATES[state]}")


def points(lab):
    status, out, err = lab.cli("point", "list", "--json", check=False)
    assert status == 0, err
    decoder, found, at = json.JSONDecoder(), {}, 0
    out = out.strip()
    while at < len(out):
        point, at = decoder.raw_decode(out, at)
        found[point["point_id"]] = point
        while at < len(out) and out[at].isspace():
            at += 1
    return found


def settle(lab):
    """Until no point is on its way any more."""
    def ended():
        found = points(lab)
        return found if all(p["state"] in ENDS for p in found.values()) else None
    return lab.wait_for("every point to end", ended, timeout=120)


def one_kill(lab, machine, sealed, victim, state):
    steps = Steps(lab.state / "catalog.db")
    before, _ = steps.newest()
    lab.cli("backup", "idle1", "--no-agent", "--detach")
    seen = steps.wait(before, state)
    if victim == "controller":
        lab.kill_controller()
    else:
        lab.kill_keeper()
        time.sleep(random.random() * 0.2)
        lab.start_keeper()
    if victim == "controller":
        lab.start_controller()
    found = settle(lab)
    for point in sealed:
        assert found[point]["state"] == "POINT_STATE_VALID", found[point]
    new = [p for p in found if p not in sealed]
    assert machine.traces() == [], machine.traces()
    status, out, err = lab.cli("vault", "check", "main", "--read-data", json=False, check=False)
    assert status == 0, f"{victim} at {STATES.get(seen, seen)}: {out}{err}\n{lab.logs()}"
    left = [f for f in lab.fleece.rglob("*") if f.is_file()]
    assert left == [], left
    with sqlite3.connect(f"file:{lab.state / 'catalog.db'}?mode=ro", uri=True) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM point WHERE snapshot_held").fetchone() == (0,)
    with sqlite3.connect(f"file:{next(lab.keeper_state.glob('*.db'))}?mode=ro", uri=True) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    sealed |= {p for p in new if found[p]["state"] == "POINT_STATE_VALID"}
    return STATES.get(seen, "ended"), {found[p]["state"] for p in new}


def main():
    with Lab() as lab:
        lab.up()
        images, keys = make_images(lab.path / "images", ballast_mib=24)
        ids = {n: volume_id(images[n]) for n in keys}
        with IdleMachine(lab.path / "idle1", images) as machine:
            machine.start()
            lab.cli("machine", "add", "idle1")
            lab.cli("vault", "add", "main", "--dir", lab.vault)
            lab.cli("machine", "set-source", "idle1", "--qmp", machine.qmp_source, "--vault", "main")
            for name, key in keys.items():
                lab.cli("key", "import", "idle1", ids[name], "--passphrase-file", key)
            job = lab.cli("backup", "idle1", "--no-agent")
            assert (job["state"], job["grade"]) == ("POINT_STATE_VALID", "GRADE_CRASH"), job
            sealed = {job["point_id"]}
            plan = [(v, s) for s in STATES for v in ("controller", "keeper")]
            for number in range(KILLS):
                machine.write("clear", random.randrange(8, 16) << 20, random.randrange(1, 255), "128k")
                victim, state = plan[number % len(plan)] if number < len(plan) else random.choice(plan)
                seen, ends = one_kill(lab, machine, sealed, victim, state)
                print(f"kill {number + 1}: {victim} at {seen}: {', '.join(sorted(ends)) or 'no point'}", flush=True)
            # What is sealed can be restored, and what a fresh backup says is valid again.
            lab.cli("backup", "idle1", "--no-agent")
            for point in list(sealed)[:2]:
                lab.cli("point", "restore", point, "--to", lab.path / f"out-{point[:8]}", json=False)
            assert lab.cli("audit", "verify", json=False, check=False)[0] == 0


main()
