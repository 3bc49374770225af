# SPDX-License-Identifier: GPL-3.0-or-later
"""What Sealpoint's agent takes of a guest in which nothing happens, beside qemu-guest-agent (Debian's package) in the
same guest: both are connected and were asked once. Memory, wake-ups and processor time of all their processes."""
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/lab"))
from agent_freeze import CHANNEL_IN_GUEST, GuestAgent, channel_arguments  # noqa: E402
from guest import Disk  # noqa: E402

RESIDENT_KB, BINARY_BYTES, WAKEUPS_S, PROCESSOR = 16 * 1024, 12 << 20, 1.0, 0.001
REST_S = 60


def taken(g, name):
    """(seconds since boot, [resident kB of each process], times woken, processor seconds) of a program."""
    out = g.run("cat /proc/uptime; for p in /proc/[0-9]*; do "
                f"case $(readlink $p/exe) in */{name}) ;; *) continue ;; esac; "
                "echo $(awk '/VmRSS/ {print $2}' $p/status) "
                "$(cat $p/task/*/status | awk '/^voluntary/ {n += $2} END {print n}') "
                "$(awk '{print $14 + $15}' $p/stat); done").out.strip().split("\n")
    rows = [[int(n) for n in line.split()] for line in out[1:]]
    if not rows:
        sys.exit(f"bench: {name} does not run in the guest")
    return float(out[0].split()[0]), sorted((r[0] for r in rows), reverse=True), sum(r[1] for r in rows), \
        sum(r[2] for r in rows) / 100


def at_rest(g, names):
    """{name: (resident kB of each process, wake-ups a second, part of a core)}."""
    first = {n: taken(g, n) for n in names}
    time.sleep(REST_S)
    last = {n: taken(g, n) for n in names}
    return {n: (last[n][1], (last[n][2] - first[n][2]) / (last[n][0] - first[n][0]),
                (last[n][3] - first[n][3]) / (last[n][0] - first[n][0])) for n in names}


def measure(agent, folder):
    """Needs the controller's programs of the same build (SEALPOINT_BUILD)."""
    os.environ["SEALPOINT_GUEST_AGENT"] = str(agent)
    from lab import Lab  # finds the programs by the environment
    channel = pathlib.Path(folder) / "ga"
    with Lab() as lab:
        lab.up()
        g = lab.guest("web1", disks=[Disk("data", serial="disk-data", size="64M")], extra=channel_arguments(channel))
        g.start()
        if g.run("command -v qemu-ga", check=False).status:
            sys.exit("bench: the guest has no qemu-ga: apt-get install qemu-guest-agent")
        lab.enrol(g)
        lab.agent_start(g)
        lab.wait_for("the inventory", lambda: "inventory" in lab.machine("web1"))
        g.run(f"{CHANNEL_IN_GUEST} qemu-ga -m virtio-serial -p /run/ga.port -t /run/ga -f /run/ga/pid "
              "</dev/null >/run/ga/log 2>&1 &")
        GuestAgent(channel)("guest-get-osinfo")
        time.sleep(5)
        return at_rest(g, ("sealpoint-agent", "qemu-ga"))


def report(agent, folder, rest):
    stripped = os.path.join(folder, "stripped")
    subprocess.run(["strip", "-o", stripped, agent], check=True)
    size = os.path.getsize(stripped)
    resident, wakeups, processor = rest["sealpoint-agent"]
    theirs = rest["qemu-ga"]
    # The guest's core is an emulated one, a small part of a real one: its time is told, not judged.
    parts = [resident[0] / RESIDENT_KB, size / BINARY_BYTES, wakeups / WAKEUPS_S]
    text = (f"agent at rest, connected: {resident[0]} kB resident (limit {RESIDENT_KB}; the freezer beside it "
            f"{sum(resident[1:])} kB), {resident[0] / theirs[0][0]:.2f}x of qemu-ga's {theirs[0][0]} kB; "
            f"{size / (1 << 20):.1f} MiB without symbols (limit {BINARY_BYTES >> 20}); {wakeups:.2f} wake-ups/s (limit "
            f"{WAKEUPS_S:.0f}; qemu-ga {theirs[1]:.2f}); {processor:.3%} of an emulated core (limit {PROCESSOR:.1%}; "
            f"qemu-ga {theirs[2]:.3%}); the least room below a limit")
    return text, 1 / max(parts), 1.0
