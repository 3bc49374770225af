#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 of agent, freezer, both, and controller while a real guest is frozen: it thaws within the time that is
promised, and no such point is called consistent for file systems. 2 rounds each; 50 with SEALPOINT_LONG=1.

With them a device that is in use without a file system, which the agent suspends when it is told to, and only then."""
import json
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
import raw  # noqa: E402
from lab import Lab  # noqa: E402
from scene import NAMES  # noqa: E402

ROUNDS = 50 if os.environ.get("SEALPOINT_LONG") else 2
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
cat /run/probe.* && rm /run/probe.*
"""
BLOWS = {
    "agent": "kill -9 $(agent-unit main)",
    "freezer": "kill -9 $(agent-unit pids | grep -vx $(agent-unit main) | head -n 1)",
    "both": "agent-unit kill-all",
}
# Ends the freeze that the first signal waits for.
TERMINATED = "main=$(agent-unit main); kill -TERM $main; usleep 100000; kill -TERM $main"


def backup(lab):
    """Starts a backup; the job's id."""
    return lab.cli("backup", "web1", "--detach")["job_id"]


def ended(lab, job_id):
    status, out, err = lab.cli("job", "watch", job_id, "--json", check=False, timeout=300)
    assert status in (0, 3), (status, out, err)
    return json.loads(out)


def check_thawed(lines, within_s, what, names=(*NAMES, "raw")):
    start = float(lines[0])
    times = {l.split()[0]: float(l.split()[1]) - start for l in lines[1:] if l.strip()}
    assert set(times) == set(names), (what, lines)
    assert max(times.values()) <= within_s, f"{what}: thawed after {times}"
    return max(times.values())


def blow_while_held(lab, g, blow, probe):
    """What the guest says before the blow and after it, and the job's id."""
    ticket = g.begin(HELD + raw.BEFORE + blow + "\nnow\n" + probe)
    job_id = backup(lab)
    return g.finish(ticket, timeout=180).out.split("\n"), job_id


def blow_without_thaw(lab, g, blow, probe):
    """The same, for a blow that takes longer than a freeze: the controller stands still, so that it sends no thaw."""
    ticket = g.begin(HELD + raw.BEFORE)
    job_id = backup(lab)
    before = g.finish(ticket, timeout=180).out.strip()
    os.kill(lab.controller.pid(), signal.SIGSTOP)
    try:
        after = g.run(HELD.split("end=")[0] + blow + "\nnow\n" + probe, timeout=60).out
    finally:
        os.kill(lab.controller.pid(), signal.SIGCONT)
    return [before, *after.split("\n")], job_id


def blow_in_the_guest(lab, g, what, blow, names=(*NAMES, "raw"), strike=blow_while_held):
    for _ in range(10):
        probe = (raw.PROBE if "raw" in names else "") + PROBE
        (held, *lines), job_id = strike(lab, g, blow, probe)
        job = ended(lab, job_id)
        lab.wait_for("the agent to be back", lambda: lab.machine("web1")["agent"]["connected"], timeout=120)
        assert held != "never", f"{what}: the guest was not frozen\n{lab.logs()}"
        slowest = check_thawed(lines, 1.0 if what != "both" else 3.0, what, names)
        if job["grade"] == "GRADE_FILESYSTEM":
            continue  # the thaw was under way already: the blow came too late to matter
        assert held == "Suspended", f"{what}: the raw device was not held"
        assert job["grade"] in ("GRADE_CRASH", "GRADE_NONE", "GRADE_UNSPECIFIED"), job
        return slowest
    raise AssertionError(f"{what}: ten blows, each after the thaw")


def controller_gone(lab, g):
    for _ in range(10):
        ticket = g.begin(HELD + "now")
        job_id = backup(lab)
        start = g.finish(ticket).out.strip()
        lab.kill_controller()
        lines = [start] + g.run(HELD.split("end=")[0] + raw.PROBE + PROBE, timeout=60).out.split("\n")
        lab.start_controller()
        job = ended(lab, job_id)
        lab.wait_for("the agent to be back", lambda: lab.machine("web1")["agent"]["connected"], timeout=120)
        slowest = check_thawed(lines, 11.0, "controller")
        if job["grade"] == "GRADE_FILESYSTEM":
            continue
        assert g.traces() == [], g.traces()
        return slowest
    raise AssertionError("controller: ten blows, each after the thaw")


# ── The device without a file system ──

def watched_backup(lab, g, scene, looks):
    """A backup; what the device did meanwhile, twice, and whether the point tells of it. No point of this guest is
    valid: nothing in the raw device can be recognised."""
    for _ in range(5):
        ticket = g.begin(HELD + raw.WATCH % (scene.disk, looks))
        job = ended(lab, backup(lab))
        out = g.finish(ticket, timeout=120).out
        if job["grade"] != "GRADE_FILESYSTEM":
            continue  # a host that is busy with other things: the freeze came too late, or took too long
        first, last = [line.split() for line in out.splitlines()]
        shown = json.loads(lab.cli("point", "show", job["point_id"], "--json", check=False)[1])
        return first, last, raw.RESULT in bytes.fromhex(shown["manifest"]["payload"])
    raise AssertionError(f"five backups, none of a frozen guest: {job} {out}")


def held_only_when_asked_for(lab, g, scene):
    first, last, told = watched_backup(lab, g, scene, raw.LOOKS_WHEN_NOT)
    assert first[0] == last[0] == "Active" and int(last[1]) > int(first[1]) and not told, (first, last, told)
    print("freeze.suspend not set: the raw device was written to while the guest was frozen", flush=True)
    raw.restart_agent(lab, g, "-o", "freeze.suspend=all")
    first, last, told = watched_backup(lab, g, scene, raw.LOOKS_WHEN_HELD)
    assert first == last and first[0] == "Suspended" and told, (first, last, told)
    assert not raw.is_suspended(g)
    print("freeze.suspend=all: nothing reached the raw device's disk", flush=True)


def somebody_else_s(lab, g):
    """What another program suspended stays so."""
    g.run("dmsetup suspend raw0")
    blow_in_the_guest(lab, g, "both", BLOWS["both"], NAMES)
    assert raw.is_suspended(g), "it was resumed after agent and freezer had been killed"
    out = g.run("sealpoint-agent freeze --test -o freeze.suspend=all").out
    assert f"{raw.RAW}         raw      suspended by somebody else, left alone" in out, out
    assert raw.is_suspended(g), "it was resumed with the thaw"
    g.run("dmsetup resume raw0")


def one_that_does_not_come_to_rest(g):
    out = g.run(raw.SLOW, timeout=180).out
    assert "/dev/mapper/slow0        raw      did not freeze in time" in out, out
    assert out.splitlines()[-3:] == ["Active", "read", "still written"], out


def main():
    with Lab() as lab:
        lab.up()
        scene = raw.RawScene(lab.path / "keys")
        g = scene.bring_up(lab)
        scene.import_keys(lab, "web1")
        scene.start_writer(g)
        held_only_when_asked_for(lab, g, scene)
        for number in range(ROUNDS):
            for what, blow in BLOWS.items():
                slowest = blow_in_the_guest(lab, g, what, blow)
                print(f"round {number + 1}: {what} killed, thawed after {slowest:.2f} s", flush=True)
            slowest = controller_gone(lab, g)
            print(f"round {number + 1}: controller killed, thawed after {slowest:.2f} s", flush=True)
        blow_in_the_guest(lab, g, "terminated twice", TERMINATED, strike=blow_without_thaw)
        somebody_else_s(lab, g)
        assert ended(lab, backup(lab))["grade"] == "GRADE_FILESYSTEM"
        one_that_does_not_come_to_rest(g)  # last: its write is under way for a minute
        assert lab.cli("vault", "check", "main", json=False, check=False)[0] == 0


main()
