#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 of agent, freezer, both, and controller while a real guest is frozen: it thaws within the time that is
promised, and no such point is called consistent for file systems. 3 rounds each; 50 with SEALPOINT_LONG=1."""
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from lab import Lab  # noqa: E402
from scene import NAMES, Scene  # noqa: E402

ROUNDS = 50 if os.environ.get("SEALPOINT_LONG") else 3
HELD = r"""
list=/run/sealpoint-agent/frozen
state() { od -An -tu4 -j16 -N4 $list 2>/dev/null | tr -d ' '; }
now() { cut -d' ' -f1 /proc/uptime; }
operation() { dd if=$list bs=1 skip=28 count=64 2>/dev/null | tr -d '\0'; }
end=$(($(date +%s) + 60))
before=$(operation)  # a freezer that was killed leaves its list as it was
while [ "$(state)" != 2 ] || [ "$(operation)" = "$before" ]; do
    [ $(date +%s) -lt $end ] || { echo never; exit 0; }
    usleep 2000
done
"""
# After the blow: when was every file system writable again? A write to a frozen one does not return.
PROBE = r"""
for n in clear luks2 luks1 plain lvm; do
    ( touch /mnt/$n/probe && echo "$n $(now)" ) > /run/probe.$n &
done
wait
cat /run/probe.*
"""
BLOWS = {
    "agent": "kill -9 $(agent-unit main)",
    "freezer": "kill -9 $(agent-unit pids | grep -vx $(agent-unit main) | head -n 1)",
    "both": "agent-unit kill-all",
}


def backup(lab):
    """Starts a backup; the job's id."""
    return lab.cli("backup", "web1", "--detach")["job_id"]


def ended(lab, job_id):
    status, out, err = lab.cli("job", "watch", job_id, "--json", check=False, timeout=300)
    assert status in (0, 3), (status, out, err)
    return json.loads(out)


def check_thawed(lines, within_s, what):
    start = float(lines[0])
    times = {l.split()[0]: float(l.split()[1]) - start for l in lines[1:] if l.strip()}
    assert set(times) == set(NAMES), (what, lines)
    assert max(times.values()) <= within_s, f"{what}: thawed after {times}"
    return max(times.values())


def blow_in_the_guest(lab, g, what):
    for _ in range(10):
        ticket = g.begin(HELD + BLOWS[what] + "\nnow\n" + PROBE)
        job_id = backup(lab)
        lines = g.finish(ticket, timeout=180).out.split("\n")
        job = ended(lab, job_id)
        lab.wait_for("the agent to be back", lambda: lab.machine("web1")["agent"]["connected"], timeout=120)
        assert lines[0] != "never", f"{what}: the guest was not frozen\n{lab.logs()}"
        slowest = check_thawed(lines, 1.0 if what != "both" else 3.0, what)
        if job["grade"] == "GRADE_FILESYSTEM":
            continue  # the thaw was under way already: the blow came too late to matter
        assert job["grade"] in ("GRADE_CRASH", "GRADE_NONE", "GRADE_UNSPECIFIED"), job
        return slowest
    raise AssertionError(f"{what}: ten blows, each after the thaw")


def controller_gone(lab, g):
    for _ in range(10):
        ticket = g.begin(HELD + "now")
        job_id = backup(lab)
        start = g.finish(ticket).out.strip()
        lab.kill_controller()
        lines = [start] + g.run(HELD.split("end=")[0] + PROBE, timeout=60).out.split("\n")
        lab.start_controller()
        job = ended(lab, job_id)
        lab.wait_for("the agent to be back", lambda: lab.machine("web1")["agent"]["connected"], timeout=120)
        slowest = check_thawed(lines, 11.0, "controller")
        if job["grade"] == "GRADE_FILESYSTEM":
            continue
        assert g.traces() == [], g.traces()
        return slowest
    raise AssertionError("controller: ten blows, each after the thaw")


def main():
    with Lab() as lab:
        lab.up()
        scene = Scene(lab.path / "keys")
        g = scene.bring_up(lab)
        scene.import_keys(lab, "web1")
        for number in range(ROUNDS):
            for what in BLOWS:
                slowest = blow_in_the_guest(lab, g, what)
                print(f"round {number + 1}: {what} killed, thawed after {slowest:.2f} s", flush=True)
            slowest = controller_gone(lab, g)
            print(f"round {number + 1}: controller killed, thawed after {slowest:.2f} s", flush=True)
        assert lab.cli("backup", "web1")["grade"] == "GRADE_FILESYSTEM"
        assert lab.cli("vault", "check", "main", json=False, check=False)[0] == 0


main()
