#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packages on a real systemd: a Debian that boots in QEMU, our units under their hardening.

1. Keeper, controller and agent start as their man pages say, on one machine; the agent enrols over loopback, and
   what it sees through its sandbox is what there is: a LUKS disk that is opened while it looks. A machine of that
   host is backed up and proved: QMP, vault and prover, with argon2id, under the units.
2. The agent of that machine serves a controller outside, which freezes it through QEMU backups, the root file
   system included: kill -9 of agent and freezer at once, and of each, thaws, but not what somebody else froze;
   `systemctl stop` waits for the thaw. Hooks run under the unit, the ready-made one for PostgreSQL as its user.
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
# Root, LUKS; /home lies on a loop file of the root and /tmp/late is mounted while the agent runs.
MOUNTS = "/ /mnt/data /home /tmp/late"
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
# The file systems that are not frozen: a write to them comes back.
WRITABLE = r"""
rm -f /run/blow
for at in MOUNTS; do ( echo x > $at/held && [ ! -e /run/blow ] && echo "not frozen: $at" ) & done
sleep 1
touch /run/blow
"""
# Seconds from now until each file system takes a write again; one that stays frozen never answers.
PROBE = r"""
from=$(cut -d' ' -f1 /proc/uptime)
rm -f /run/probe.*
for at in MOUNTS; do
    ( echo x > $at/probe && sync $at/probe && echo "$at $(cut -d' ' -f1 /proc/uptime)" ) > /run/probe.$(echo $at | tr / _) &
done
wait
echo from $from; cat /run/probe.*
"""
# A hook that runs as nobody: its folder is its own, the rest is read-only for it, /var/tmp too.
LOOK = r"""#!/bin/sh
[ "$1" = post-thaw ] && exec grep -q kept mine
[ "$(id -un)" = nobody ] && echo kept > mine && mkfifo fifo && ! touch /var/tmp/x
"""


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
    device = next(d for d in machine_in(g)["inventory"]["devices"] if d["name"] == "vda")
    assert device["mount_points"] == ["/"], device  # nothing that only the sandbox mounts
    said("the LUKS volume, opened while the agent ran, is in the inventory")


def keyslot_is_enrolled(g):
    """By sealpoint-enrol-volume under its unit, which the agent's pulls in: it writes to the device, the agent may not."""
    device = g.run("readlink -f /dev/disk/by-id/virtio-data").out.strip()
    g.run(f"printf '[escrow]\\nenrol = on\\n' >> /etc/sealpoint/agent.conf && "
          f"echo data UUID=$(cryptsetup luksUUID {device}) /run/key luks > /etc/crypttab")
    start(g, AGENT)
    assert active(g, "sealpoint-enrol-volume.socket") == "active", journal(g, "sealpoint-enrol-volume.socket")
    wait_for("the agent to connect", lambda: machine_in(g)["agent"]["connected"])
    done = g.run("sealpoint key enrol guest data --json", check=False, timeout=300)
    said_of = json.loads(done.out) if done.out.strip() else {}
    assert said_of.get("outcome") == "KEYSLOT_OUTCOME_ENROLLED", done.out + done.err + \
        journal(g, "'sealpoint-enrol-volume@*'")
    tokens = json.loads(g.run(f"cryptsetup luksDump --dump-json-metadata {device}").out)["tokens"]
    assert [t["record"] for t in tokens.values()] == [said_of["record"]["record_id"]], tokens
    said("a recovery key was put into a keyslot of its own, under the unit")


def proves(g):
    """A backup of a machine on this host, which another user runs: the controller has that user's group by drop-in."""
    g.run("""set -e; d=/etc/systemd/system/sealpointd.service.d
        mkdir -p $d && printf '[Service]\\nSupplementaryGroups=kvm\\n' > $d/kvm.conf
        systemctl daemon-reload && systemctl restart sealpointd.service
        mkdir /srv/vm && cd /srv/vm && truncate -s 32M vm.img && echo -n secret > /run/key
        cryptsetup -q luksFormat --type luks2 --pbkdf argon2id --pbkdf-memory 131072 --pbkdf-parallel 1 \\
            --pbkdf-force-iterations 4 vm.img /run/key
        cryptsetup open vm.img vm -d /run/key && mkfs.ext4 -q /dev/mapper/vm && cryptsetup close vm
        chown -R nobody:kvm /srv/vm
        systemd-run -q --unit=vm --uid=nobody --gid=kvm -p UMask=0007 -p RuntimeDirectory=vm -p RuntimeDirectoryMode=0750 \\
            qemu-system-x86_64 -accel tcg -machine q35 -S -m 64M -nodefaults -no-user-config -display none \\
            -qmp unix:/run/vm/vm.qmp,server=on,wait=off \\
            -blockdev driver=raw,node-name=n0,file.driver=file,file.filename=/srv/vm/vm.img \\
            -device virtio-blk-pci,id=d0,drive=n0,serial=D0
        until [ -S /run/vm/vm.qmp ]; do sleep 0.2; done""", timeout=300)
    wait_for("the controller to answer", lambda: g.run("sealpoint status", check=False).status == 0)
    said("a machine runs on the host, its LUKS2 with argon2id over 128 MiB")
    g.run("""sealpoint vault add main --dir /var/lib/sealpoint/vault && sealpoint machine add vm &&
        sealpoint machine set-source vm --qmp /run/vm/vm.qmp --vault main &&
        sealpoint key import vm luks:$(cryptsetup luksUUID /srv/vm/vm.img) --passphrase-file /run/key""")
    done = g.run("sealpoint backup vm --no-agent --json", check=False, timeout=300)
    assert done.status == 0, done.out + done.err + journal(g, "sealpoint-keeper") + journal(g, "sealpointd")
    assert json.loads(done.out)["state"] == "POINT_STATE_VALID", done.out
    g.run("systemctl stop vm.service; rm -r /srv/vm")
    said("a point is taken, and proved by the keeper's prover, under the units")


def exposure(g):
    for unit, most in ("sealpoint-agent", 30), ("sealpoint-keeper", 20), ("sealpointd", 25):
        out = g.run(f"systemd-analyze security --no-pager --threshold={most} {unit}.service").out
        said(next(l for l in out.splitlines() if "Overall" in l).strip("→ "))


def keys_stay_apart(g):
    """Each state folder is its owner's; the controller's user cannot read the keystore."""
    assert g.run("runuser -u sealpoint -- ls /var/lib/sealpoint-keeper", check=False).status != 0
    owner = g.run("stat -c %U /var/lib/sealpoint/controller.key").out.strip()
    assert owner == "sealpoint", f"controller.key belongs to {owner}"
    g.run("systemctl restart sealpoint-keeper.service && systemctl is-active sealpoint-keeper.service")
    wait_for("the controller to answer again", lambda: g.run("sealpoint status", check=False).status == 0)
    g.run("systemctl stop sealpointd.service sealpoint-keeper.service")


# ── A controller outside, which freezes ──

def mount_file(g, point):
    image = f"/srv/{pathlib.Path(point).name}.img"
    g.run(f"truncate -s 16M {image} && mkfs.ext4 -q {image} && mkdir -p {point} && mount -o loop {image} {point}")


def connected(lab, g):
    lab.wait_for("the agent to connect", lambda: lab.machine(g.name)["agent"]["connected"], timeout=120)


def move_to(lab, g):
    g.run(f"systemctl stop {AGENT}; rm -rf /var/lib/sealpoint-agent/*")
    mount_file(g, "/home")
    lab.enrol(g)
    g.run("printf '[freeze]\\nmax_lease = 30s\\n' >> /etc/sealpoint/agent.conf")
    start(g, AGENT)
    mount_file(g, "/tmp/late")
    connected(lab, g)
    lab.cli("vault", "add", "main", "--dir", lab.vault)
    lab.cli("machine", "set-source", g.name, "--qmp", g.qmp_source, "--vault", "main")
    said("the agent serves the controller outside")


def begin_when_held(lab, g, script):
    """Starts a backup once the guest waits for it; the script's ticket, and the job."""
    g.run("rm -f /run/waiting")
    ticket = g.begin(HELD + script)
    g.run("while [ ! -e /run/waiting ]; do sleep 0.1; done")
    return ticket, lab.cli("backup", g.name, "--detach")["job_id"]


def held_then(lab, g, blow, mounts=MOUNTS):
    """Strikes when a backup holds the guest, all of these mounts; how long the slowest took to thaw."""
    script = (WRITABLE + blow + PROBE).replace("MOUNTS", mounts)
    for _ in range(10):
        ticket, job = begin_when_held(lab, g, script)
        out = g.finish(ticket, timeout=180).out
        status, text, err = lab.cli("job", "watch", job, "--json", check=False, timeout=300)
        assert status in (0, 3), (status, text, err)
        assert not out.startswith("never"), "the guest was not held\n" + journal(g, AGENT) + lab.logs()
        connected(lab, g)
        if grade_of(text) != "GRADE_FILESYSTEM":
            return thawed_after(out, mounts)
    raise AssertionError("ten times, each after the thaw")


def grade_of(text):
    return json.loads(text)["grade"]


def thawed_after(out, mounts=MOUNTS):
    assert "not frozen" not in out, out
    at = dict(l.split() for l in out.splitlines() if l.strip())
    start_at = float(at.pop("from"))
    assert set(at) == set(mounts.split()), out
    return max(map(float, at.values())) - start_at


def freezes(lab, g, grade):
    said_grade = grade_of(lab.cli("backup", g.name, "--json", check=False)[1])
    assert said_grade == grade, said_grade + journal(g, AGENT)
    said(f"a backup under the sandbox: {grade}")


def kills(lab, g):
    freezer = f"$(grep -vx $main /sys/fs/cgroup/system.slice/{AGENT}/cgroup.procs | head -n 1)"
    blows = {
        "agent and freezer": f"systemctl kill --signal=KILL {AGENT}",
        "agent": "kill -9 $main",
        "freezer": f"kill -9 {freezer}; kill -CONT $main",
    }
    for what, blow in blows.items():
        slowest = held_then(lab, g, blow)
        assert slowest < 10, f"{what}: thawed after {slowest} s: by the deadline at the best"
        wait_for("the unit to run again", lambda: active(g, AGENT) == "active")
        said(f"kill -9 of {what}: all four thawed after {slowest:.2f} s")


def foreign_is_left_alone(lab, g):
    """What somebody else froze before stays so, through a freeze, the death of both and thaw-left-over."""
    g.run("fsfreeze -f /mnt/data")
    held_then(lab, g, f"systemctl kill --signal=KILL {AGENT}", mounts=MOUNTS.replace("/mnt/data ", ""))
    g.run("fsfreeze -u /mnt/data && echo x > /mnt/data/x")  # fails if it is not frozen
    said("what fsfreeze had frozen was left alone when both were killed")


def stop_waits(lab, g):
    """`systemctl stop` (SIGTERM, then SIGCONT) while frozen comes back with the guest thawed, by the agent itself: it is
    not killed, and nothing is left for thaw-left-over."""
    script = (WRITABLE + f"systemctl stop {AGENT}" + PROBE).replace("MOUNTS", MOUNTS)
    ticket, job = begin_when_held(lab, g, script)
    out = g.finish(ticket, timeout=180).out
    lab.cli("job", "watch", job, check=False)
    assert not out.startswith("never"), journal(g, AGENT)
    assert active(g, AGENT) == "inactive"
    assert g.run(f"systemctl show -P Result {AGENT}").out.strip() == "success", journal(g, AGENT)
    assert thawed_after(out) < 5, out
    said("systemctl stop waited for the thaw")


def hooks_run(lab, g):
    g.put("/etc/sealpoint/hooks.d/60-look", LOOK, 0o755)
    g.run("ln -s /usr/share/sealpoint-agent/hooks/postgresql /etc/sealpoint/hooks.d/50-postgresql && "
          "printf '[hooks]\\nrun_as = 50-postgresql:postgres, 60-look:nobody\\n' >> /etc/sealpoint/agent.conf && "
          "systemctl start postgresql@15-main.service", timeout=300)
    checkpoints = "cd / && runuser -u postgres -- psql -Atc 'select checkpoints_req from pg_stat_bgwriter'"
    before = int(g.run(checkpoints).out)
    start(g, AGENT)
    connected(lab, g)
    freezes(lab, g, "GRADE_APPLICATION")
    assert int(g.run(checkpoints).out) > before, journal(g, AGENT)
    assert g.run("ls -d /run/sealpoint-agent/hook*", check=False).status != 0  # no folder, no mark
    said("PostgreSQL made its checkpoint, as its user; a hook of nobody had its folder and no more")


def main():
    with Lab() as lab:
        lab.up()
        disk = lab.path / "root.raw"
        if made := os.environ.get("SEALPOINT_DISK"):  # one that make_disk.sh made before
            subprocess.run(["cp", "--sparse=always", made, disk], check=True)
        else:
            subprocess.run([HERE / "make_disk.sh", RELEASE, disk], check=True)
        said("the disk is made")
        g = lab.guest("guest", disks=[Disk("root", file=disk), Disk("data", serial="data", size="64M")], memory="1G",
                      files={"/init": ((HERE / "init").read_bytes(), 0o755)}, append="systemd.show_status=0")
        g.start(timeout=300)
        g.run("systemctl is-system-running --wait", timeout=300, check=False)
        said("systemd is up")
        units_start(g)
        inventory_is_right(g)
        exposure(g)
        keyslot_is_enrolled(g)
        proves(g)
        keys_stay_apart(g)
        move_to(lab, g)
        freezes(lab, g, "GRADE_FILESYSTEM")
        kills(lab, g)
        foreign_is_left_alone(lab, g)
        stop_waits(lab, g)
        hooks_run(lab, g)


BEGIN = time.monotonic()
main()
