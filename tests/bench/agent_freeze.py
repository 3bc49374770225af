# SPDX-License-Identifier: GPL-3.0-or-later
"""The freeze window, first FIFREEZE call to last FITHAW return, of Sealpoint's agent and of
qemu-guest-agent (Debian's package), in one guest with five file systems that are written to.

Both are asked to freeze and, as soon as they say that it is done, to thaw: the same work between, none.
What each does by itself in between is in its window: Sealpoint reads its inventory again. A shim
(freeze_shim.c) takes the times of the system calls in both programs."""
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/lab"))
from guest import Guest  # noqa: E402
from scene import NAMES, Scene  # noqa: E402


class GuestAgent:
    """The host's end of qemu-guest-agent's channel."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rw", encoding="utf-8", newline="\n")

    def __call__(self, name):
        self.file.write(json.dumps({"execute": name}) + "\n")
        self.file.flush()
        reply = json.loads(self.file.readline())
        if "error" in reply:
            sys.exit(f"bench: {name}: {reply['error']['desc']}")
        return reply["return"]


def channel_arguments(path):
    """QEMU's, for a guest with qemu-guest-agent's channel."""
    return ["-chardev", f"socket,id=ga,path={path},server=on,wait=off",
            "-device", "virtserialport,bus=vs0.0,chardev=ga,name=org.qemu.guest_agent.0"]


# Shell: makes /run/ga.port, where no udev does.
CHANNEL_IN_GUEST = ("for p in /sys/class/virtio-ports/*; do [ $(cat $p/name) = org.qemu.guest_agent.0 ] && "
                    "ln -s /dev/${p##*/} /run/ga.port; done; mkdir -p /run/ga;")


def window(g):
    """(window, freezing, thawing) in ms, of what the shim saw since the last call."""
    lines = [line.split() for line in g.run("cat /run/shim; rm /run/shim").out.splitlines()]
    calls = {what: [(int(a), int(b)) for w, a, b, error in lines if w == what and error == "0"]
             for what in ("freeze", "thaw")}
    if len(calls["freeze"]) != len(NAMES) or len(calls["thaw"]) < len(NAMES):
        sys.exit(f"bench: {len(calls['freeze'])} file systems were frozen, not {len(NAMES)}")
    first, frozen = min(a for a, _ in calls["freeze"]), max(b for _, b in calls["freeze"])
    thawing, last = min(a for a, _ in calls["thaw"]), max(b for _, b in calls["thaw"])
    return [(b - a) / 1e6 for a, b in ((first, last), (first, frozen), (thawing, last))]


def measure(agent, shim, folder, rounds):
    """{"sealpoint": [(window, freezing, thawing) …], "qemu-ga": …}, and the sync before, in ms."""
    folder = pathlib.Path(folder)
    subprocess.run([ROOT / "packaging/guest/build", "--agent", agent, "--out", folder / "guest",
                    "--add", f"{shim}=/usr/lib/freeze-shim.so"], check=True)
    scene = Scene(folder / "keys")
    channel = folder / "ga"
    results, syncs = {"sealpoint": [], "qemu-ga": []}, []
    with Guest(folder / "g", kernel=folder / "guest", disks=scene.disks(), extra=channel_arguments(channel)) as g:
        g.start()
        if g.run("command -v qemu-ga", check=False).status:
            sys.exit("bench: the guest has no qemu-ga: apt-get install qemu-guest-agent")
        scene.put_keys(g)
        scene.format(g)
        g.run("lvm vgchange -q -ay vg0")
        scene.mount(g)
        g.run(f"{CHANNEL_IN_GUEST} "
              "FREEZE_SHIM=/run/shim LD_PRELOAD=/usr/lib/freeze-shim.so qemu-ga -m virtio-serial -p /run/ga.port "
              "-t /run/ga -f /run/ga/pid </dev/null >/run/ga/log 2>&1 &")
        peer = GuestAgent(channel)
        peer("guest-ping")
        scene.writer_start(g)
        time.sleep(3)
        for _ in range(rounds):
            peer("guest-fsfreeze-freeze")
            peer("guest-fsfreeze-thaw")
            results["qemu-ga"].append(window(g))
            out = g.run("FREEZE_SHIM=/run/shim LD_PRELOAD=/usr/lib/freeze-shim.so sealpoint-agent freeze --test "
                        "-o agent.runtime=/run/sealpoint-agent").out
            results["sealpoint"].append(window(g))
            syncs += [float(line.split()[-2]) for line in out.splitlines() if line.startswith("sync before")]
        scene.writer_stop(g)
    return results, syncs


def report(results, syncs):
    """Text and ratios (median, worst): ours to theirs."""
    of = {name: [[r[i] for r in rows] for i in range(3)] for name, rows in results.items()}
    text = []
    for name, (whole, freezing, thawing) in of.items():
        text.append(f"{name} {statistics.median(whole):.0f} ms, worst {max(whole):.0f} (freezing "
                    f"{statistics.median(freezing):.0f}, thawing {statistics.median(thawing):.0f})")
    before = f", after a sync of {statistics.median(syncs):.0f} ms" if syncs else ""
    ours, theirs = of["sealpoint"][0], of["qemu-ga"][0]
    return (f"freeze window of five file systems, {len(ours)} each: {'; '.join(text)}{before}",
            statistics.median(ours) / statistics.median(theirs), max(ours) / max(theirs))
