#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packages on a real systemd: a Debian that boots in QEMU, our units under their hardening.

1. Keeper, controller and agent start as their man pages say, on one machine; the agent enrols over loopback, and
   what it sees through its sandbox is what there is: a LUKS disk that is opened while it looks.
2. The agent of that machine serves a controller outside, which freezes it through QEMU backups, the root file
   system included: kill -9 of agent and freezer at once, and of each, thaws; `systemctl stop` waits for the thaw.
"""
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "lab"))
from guest import Disk  # noqa: E402
from lab import SOURCE, Lab  # noqa: E402

RELEASE = pathlib.Path(os.environ.get("SEALPOINT_RELEASE", SOURCE / "build/release"))
AGENT = "sealpoint-agent.service"
MOUNTS = "/ /mnt/data"
# Waits until the agent's list of frozen file systems says "holding", in an operation that was not there before, and
# stops the agent there, so that nobody thaws before the blow: the freezer holds on until its deadline.
HELD = r"""
list=/run/sealpoint-agent/frozen main=$(systemctl show -P MainPID sealpoint-agent.service)
perl -e '
    my ($list, $main) = @ARGV;
    sub look { my $b = ""; if (open(my $f, "<", $list)) { binmode $f; read $f, $b, 92 }
        return length $b == 92 ? (unpack("V", substr($b, 16, 4)), substr($b, 28, 64)) : (0, "") }
    my (undef, $before) = look();
    open(my $f, ">", "/run/waiting") and close $f;
    for (1 .. 30000) {
        my ($state, $operation) = look();
        if ($state == 2 && $operation ne $before) { kill "STOP", $main; exit 0 }
        select undef, undef, undef, 0.002;
    }
    print "never\n"; exit 1' $list $main || exit 0
"""
# Seconds from now until each file system takes a write again; one that stays frozen never answers.
PROBE = r"""
from=$(cut -d' ' -f1 /proc/uptime)
for at in %s; do
    ( echo x > $at/probe && sync $at/probe && echo "$at $(cut -d' ' -f1 /proc/uptime)" ) > /run/probe.$(echo $at | tr / _) &
done
wait
echo $from; cat /run/probe.*
""" % MOUNTS


def said(what):
    print(f"{time.monotonic() - BEGIN:6.1f} s  {what}", flush=True)


def active(g, unit):
    return g.run(f"systemctl show -P ActiveState {unit}").out.strip()


def journal(g, unit):
    return g.run(f"journalctl -b --no-pager -o cat -u {unit} | tail -n 60", check=False).out


def start(g, unit):
    """With the configuration as it is now: the package may have started it with another."""
    done = g.run(f"systemctl restart {unit}", check=False)
    assert done.status == 0 and active(g, unit) == "active", done.err + journal(g, unit)


def wait_for(what, probe, timeout=60):
    end = time.monotonic() + timeout
    while not (value := probe()):
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(0.3)
    return value


# ── One machine with everything ──

def units_start(g):
    g.run("mkdir -p /etc/credstore.encrypted && chmod 700 /etc/credstore.encrypted && echo -n 'opens the keystore' | "
          "systemd-creds encrypt --name=kek - /etc/credstore.encrypted/sealpoint-kek")
    g.run("sed -i 's/^#credential = kek/credential = kek/' /etc/sealpoint/keeper.conf")
    start(g, "sealpoint-keeper.service")
    out = g.run("sealpointd init --domain lab --name ctl --host 127.0.0.1 --user admin --profile /root/.config/sealpoint "
                "2>&1").out
    fingerprint = next(l.split(": ")[1] for l in out.splitlines() if l.startswith("CA fingerprint"))
    start(g, "sealpointd.service")
    g.run("sed -i 's/^controller *=.*/controller = 127.0.0.1:9443/' /root/.config/sealpoint/client.conf")
    wait_for("the controller to answer", lambda: g.run("sealpoint status", check=False).status == 0)
    said("keeper and controller run under their units")
    g.run("sealpoint token create --machine guest --out /run/token && sealpoint-agent enrol --controller 127.0.0.1:9443 "
          f"--token-file /run/token --ca-fingerprint {fingerprint}")
    start(g, AGENT)
    wait_for("the agent to connect", lambda: machine_in(g)["agent"]["connected"])
    said("the agent runs under its unit and is connected")


def machine_in(g):
    return json.loads(g.run("sealpoint machine show guest --json").out)


def inventory_is_right(g):
    """What udev and device-mapper show reaches the controller through the sandbox."""
    device = g.run("readlink -f /dev/disk/by-id/virtio-data").out.strip()
    g.run(f"echo -n secret > /run/key && cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "
          f"{device} /run/key && cryptsetup open {device} data -d /run/key && mkfs.ext4 -q /dev/mapper/data && "
          "mkdir -p /mnt/data && chmod 700 /mnt && mount /dev/mapper/data /mnt/data")
    uuid = g.run(f"cryptsetup luksUUID {device}").out.strip()

    def seen():
        return next((v for v in machine_in(g)["inventory"]["volumes"] if uuid in json.dumps(v)), None)
    volume = wait_for("the LUKS volume to be seen", seen, timeout=20)
    wait_for("it to be seen open", lambda: seen().get("open"), timeout=20)
    volume = seen()
    assert "LUKS2" in json.dumps(volume), volume
    systems = machine_in(g)["inventory"]["file_systems"]
    points = {f["mount_point"]: f for f in systems}
    assert {"/", "/mnt/data"} <= set(points), points
    assert not points["/"].get("read_only") and not points["/mnt/data"].get("read_only"), points
    said("the LUKS volume, opened while the agent ran, is in the inventory")


def keys_stay_apart(g):
    """Each state folder is its owner's; the controller's user cannot read the keystore."""
    assert g.run("runuser -u sealpoint -- ls /var/lib/sealpoint-keeper", check=False).status != 0
    owner = g.run("stat -c %U /var/lib/sealpoint/controller.key").out.strip()
    assert owner == "sealpoint", f"controller.key belongs to {owner}"
    g.run("systemctl restart sealpoint-keeper.service && systemctl is-active sealpoint-keeper.service")
    wait_for("the controller to answer again", lambda: g.run("sealpoint status", check=False).status == 0)
    g.run("systemctl stop sealpointd.service sealpoint-keeper.service")


# ── A controller outside, which freezes ──

def move_to(lab, g):
    g.run(f"systemctl stop {AGENT}; rm -rf /var/lib/sealpoint-agent/*")
    lab.enrol(g)
    g.run("printf '[freeze]\\nmax_lease = 30s\\n' >> /etc/sealpoint/agent.conf")
    start(g, AGENT)
    lab.wait_for("the agent to connect", lambda: lab.machine(g.name)["agent"]["connected"], timeout=60)
    lab.cli("vault", "add", "main", "--dir", lab.vault)
    lab.cli("machine", "set-source", g.name, "--qmp", g.qmp_source, "--vault", "main")
    said("the agent serves the controller outside")


def begin_when_held(lab, g, script):
    """Starts a backup once the guest waits for it; the script's ticket, and the job."""
    g.run("rm -f /run/waiting")
    ticket = g.begin(HELD + script)
    g.run("while [ ! -e /run/waiting ]; do sleep 0.1; done")
    return ticket, lab.cli("backup", g.name, "--detach")["job_id"]


def held_then(lab, g, script):
    """Runs the script when a backup holds the guest; its output, and the job."""
    for _ in range(10):
        ticket, job = begin_when_held(lab, g, script)
        out = g.finish(ticket, timeout=120).out
        status, text, err = lab.cli("job", "watch", job, "--json", check=False, timeout=300)
        assert status in (0, 3), (status, text, err)
        assert not out.startswith("never"), "the guest was not held\n" + journal(g, AGENT) + lab.logs()
        lab.wait_for("the agent to be back", lambda: lab.machine(g.name)["agent"]["connected"], timeout=60)
        if json.loads(text)["grade"] != "GRADE_FILESYSTEM":
            return out
    raise AssertionError("ten times, each after the thaw")


def thawed_after(out):
    start_at, *lines = [l for l in out.splitlines() if l.strip()]
    times = {l.split()[0]: float(l.split()[1]) - float(start_at) for l in lines}
    assert set(times) == set(MOUNTS.split()), out
    return max(times.values())


def freezes(lab, g):
    grade = json.loads(lab.cli("backup", g.name, "--json", check=False)[1])["grade"]
    assert grade == "GRADE_FILESYSTEM", grade + journal(g, AGENT)
    said("a backup froze root and data under the sandbox: grade file system")


def kills(lab, g):
    freezer = f"$(grep -vx $main /sys/fs/cgroup/system.slice/{AGENT}/cgroup.procs | head -n 1)"
    blows = {
        "agent and freezer": f"systemctl kill --signal=KILL {AGENT}",
        "agent": "kill -9 $main",
        "freezer": f"kill -9 {freezer}; kill -CONT $main",
    }
    for what, blow in blows.items():
        slowest = thawed_after(held_then(lab, g, blow + PROBE))
        assert slowest < 10, f"{what}: thawed after {slowest} s: by the deadline at the best"
        wait_for("the unit to run again", lambda: active(g, AGENT) == "active")
        said(f"kill -9 of {what}: thawed after {slowest:.2f} s")


def stop_waits(lab, g):
    """`systemctl stop` (SIGTERM, then SIGCONT) while frozen comes back with the guest thawed, by the agent itself: it is
    not killed, and nothing is left for thaw-left-over."""
    ticket, _ = begin_when_held(lab, g, f"systemctl stop {AGENT}" + PROBE)
    out = g.finish(ticket, timeout=180).out
    assert not out.startswith("never"), journal(g, AGENT)
    assert active(g, AGENT) == "inactive"
    assert g.run(f"systemctl show -P Result {AGENT}").out.strip() == "success", journal(g, AGENT)
    assert thawed_after(out) < 5, out
    said("systemctl stop waited for the thaw")


def main():
    with Lab() as lab:
        lab.up()
        disk = lab.path / "root.raw"
        if made := os.environ.get("SEALPOINT_DISK"):  # one that make_disk.sh made before
            subprocess.run(["cp", "--sparse=always", made, disk], check=True)
        else:
            subprocess.run([HERE / "make_disk.sh", RELEASE, disk], check=True)
        said("the disk is made")
        g = lab.guest("guest", disks=[Disk("root", file=disk), Disk("data", serial="data", size="64M")], memory="768M",
                      files={"/init": ((HERE / "init").read_bytes(), 0o755)}, append="systemd.show_status=0")
        g.start(timeout=300)
        g.run("systemctl is-system-running --wait", timeout=300, check=False)
        said("systemd is up")
        units_start(g)
        inventory_is_right(g)
        keys_stay_apart(g)
        move_to(lab, g)
        freezes(lab, g)
        kills(lab, g)
        stop_waits(lab, g)


BEGIN = time.monotonic()
main()
