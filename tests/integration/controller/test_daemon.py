#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon as a whole, over a machine without a guest: what it refuses at start, what a restart keeps, a keeper
that is away, a cancelled job, a catalog that was lost."""
import json
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from idle import IdleMachine, make_images, volume_id  # noqa: E402
from lab import Lab, binary  # noqa: E402


def only_once(lab):
    again = subprocess.run(
        [binary("sealpointd"), "init", "--config", lab.controller_conf, "--domain", lab.domain, "--name", "ctl",
         "--user", "second", "--profile", lab.path / "second"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert again.returncode == 1 and "initialised before" in again.stderr, again
    assert "kit" not in again.stdout, again
    other = subprocess.run([binary("sealpointd"), "--config", lab.controller_conf], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    assert other.returncode == 1 and "another sealpointd" in other.stderr, other
    wrong = subprocess.run([binary("sealpointd"), "walk"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert wrong.returncode == 2, wrong
    print("init once, one daemon for each state folder", flush=True)


def restart_keeps(lab, point):
    before = lab.cli("audit", "list", json=False)
    lab.controller.stop()
    lab.start_controller()
    assert point in json.dumps(points(lab)), "the point is gone after a restart"
    after = lab.cli("audit", "list", json=False)
    # Both logs are in one list: everything that was there is still there.
    assert set(before.splitlines()) <= set(after.splitlines()), (before, after)
    status, out, err = lab.cli("audit", "verify", json=False, check=False)
    assert status == 0, out + err
    print("a restart keeps points and audit", flush=True)


def points(lab):
    status, out, err = lab.cli("point", "list", "--json", check=False)
    assert status == 0, err
    decoder, found, at = json.JSONDecoder(), [], 0
    out = out.strip()
    while at < len(out):
        one, at = decoder.raw_decode(out, at)
        found.append(one)
        while at < len(out) and out[at].isspace():
            at += 1
    return found


def start(lab):
    return lab.cli("backup", "idle1", "--no-agent", "--detach")


def job(lab, job_id):
    status, out, err = lab.cli("job", "watch", job_id, "--json", check=False, timeout=120)
    assert status in (0, 1, 3), (status, out, err)
    return json.loads(out)


def keeper_away(lab):
    """The copy goes on without the keeper; the verdict waits for it."""
    lab.kill_keeper()
    status, out, err = lab.cli("status", json=False, check=False)
    assert "not" in out + err, out + err
    started = start(lab)
    lab.start_keeper()
    ended = job(lab, started["job_id"])
    assert ended["state"] == "POINT_STATE_VALID", ended
    print("a keeper that comes back: valid", flush=True)


def cancel(lab, machine):
    lab.kill_keeper()
    started = start(lab)
    time.sleep(0.5)
    second = lab.cli("backup", "idle1", "--no-agent", "--detach", json=False, check=False)
    assert second[0] == 1 and "runs for machine" in second[2], second
    lab.cli("job", "cancel", started["job_id"], json=False)
    ended = job(lab, started["job_id"])
    assert ended["state"] == "POINT_STATE_FAILED", ended
    assert [f["reason"] for f in ended["findings"]][-1] == "REASON_CANCELLED", ended
    lab.start_keeper()
    lab.wait_for("QEMU to be as it was", lambda: machine.traces() == [])
    print("a cancelled job leaves nothing in QEMU", flush=True)


def lost_catalog(lab, point):
    """What was sealed is in the vault: an empty catalog learns of it."""
    lab.controller.stop()
    for file in lab.state.glob("catalog.db*"):
        file.unlink()
    lab.start_controller()
    assert points(lab) == []
    lab.cli("vault", "add", "main", "--dir", lab.vault)
    found = {p["point_id"]: p for p in points(lab)}
    assert found[point]["state"] == "POINT_STATE_VALID", found
    shown = lab.cli("point", "show", point)
    assert shown["point"]["state"] == "POINT_STATE_VALID", shown
    status, out, err = lab.cli("vault", "check", "main", "--read-data", json=False, check=False)
    assert status == 0, out + err
    print("a lost catalog is built again from the vault", flush=True)


def main():
    with Lab() as lab:
        lab.up()
        only_once(lab)
        images, keys = make_images(lab.path / "images")
        machine = IdleMachine(lab.path / "idle1", images)
        lab.guests.append(machine)
        machine.start()
        lab.cli("machine", "add", "idle1", json=False)
        lab.cli("vault", "add", "main", "--dir", lab.vault)
        lab.cli("machine", "set-source", "idle1", "--qmp", machine.qmp_source, "--vault", "main")
        for name in ("luks2", "luks1"):
            lab.cli("key", "import", "idle1", volume_id(images[name]), "--passphrase-file", keys[name])
        first = job(lab, start(lab)["job_id"])
        assert first["state"] == "POINT_STATE_VALID" and first["grade"] == "GRADE_CRASH", first
        restart_keeps(lab, first["point_id"])
        keeper_away(lab)
        cancel(lab, machine)
        lost_catalog(lab, first["point_id"])


main()
