# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine of the demo and of the end-to-end tests: five disks, four of them encrypted, each in another
way, with a writer that tells one point in time from several.

    disk      what lies on it                           key
    clear     ext4                                      -
    luks2     LUKS2 (argon2id), ext4                    passphrase
    luks1     LUKS1, XFS                                key file
    plain     plain dm-crypt (aes-xts-plain64), ext4    key file
    lvm       LUKS2, LVM, ext4 on a logical volume      passphrase

The writer appends number N to a log on the first disk, syncs it, then to the second, and so on. In one
point in time the logs' lengths are therefore c ≥ c' ≥ c'' …, and the first is ahead of the last by one
at the most.
"""
import os
import pathlib

from guest import Disk

NAMES = ["clear", "luks2", "luks1", "plain", "lvm"]
SIZES = {"clear": "64M", "luks2": "64M", "luks1": "360M", "plain": "64M", "lvm": "96M"}
PLAIN = "--cipher aes-xts-plain64 --key-size 512"
# What 'sealpoint key import' is told of each encrypted disk, and what makes a secret of that kind.
SECRETS = {
    "luks2": ("--passphrase-file", lambda: b"lab-" + os.urandom(12).hex().encode()),
    "luks1": ("--key-file", lambda: os.urandom(512)),
    "plain": ("--key-file", lambda: os.urandom(64)),
    "lvm": ("--passphrase-file", lambda: b"lab-" + os.urandom(12).hex().encode()),
}


class Scene:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.keys = {}
        for name, (_, make) in SECRETS.items():
            path = self.folder / f"{name}.key"
            path.write_bytes(make())
            path.chmod(0o600)
            self.keys[name] = path

    @staticmethod
    def disks():
        return [Disk(n, serial=f"disk-{n}", size=SIZES[n]) for n in NAMES]

    def bring_up(self, lab, name="web1"):
        """A running guest with its five disks open and mounted, its agent enrolled and connected, its volumes
        known, and the vault "main" to back it up into. No key is in escrow yet."""
        g = lab.guest(name, disks=self.disks())
        g.start()
        self.put_keys(g)
        self.format(g)
        g.run("lvm vgchange -q -ay vg0")
        self.mount(g)
        self.fill(g)
        lab.enrol(g)
        lab.agent_start(g)
        lab.wait_for("the agent to connect", lambda: lab.machine(name)["agent"]["connected"])
        lab.wait_for("the inventory", lambda: len(self.volume_ids(lab.machine(name))) == len(SECRETS))
        lab.cli("vault", "add", "main", "--dir", lab.vault)
        lab.cli("machine", "set-source", name, "--qmp", g.qmp_source, "--vault", "main")
        return g

    # ── In the guest ──

    def put_keys(self, g, folder="/run/keys"):
        """The keys of `self.keys` into the guest's memory."""
        for name, path in self.keys.items():
            g.put(f"{folder}/{name}.key", path.read_bytes(), 0o600)

    @staticmethod
    def devices(g):
        """{"clear": "/dev/vda", …} by serial number."""
        out = g.run("for d in /sys/block/vd*; do echo \"$(cat $d/serial) /dev/${d##*/}\"; done").out
        found = dict(line.split() for line in out.splitlines() if line.count(" ") == 1)
        return {n: found[f"disk-{n}"] for n in NAMES if f"disk-{n}" in found}

    def format(self, g):
        d = self.devices(g)
        fast = "--pbkdf pbkdf2 --pbkdf-force-iterations 1000"
        g.run(f"""set -e
            cryptsetup -q luksFormat --type luks2 --pbkdf argon2id --pbkdf-memory 32768 --pbkdf-parallel 1 \
                --pbkdf-force-iterations 4 --key-file /run/keys/luks2.key {d['luks2']}
            cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 \
                --key-file /run/keys/luks1.key {d['luks1']}
            cryptsetup -q luksFormat --type luks2 {fast} --key-file /run/keys/lvm.key {d['lvm']}""", timeout=180)
        self.open(g, activate=False)
        g.run(f"""set -e
            lvm pvcreate -q -y /dev/mapper/lvm0 && lvm vgcreate -q vg0 /dev/mapper/lvm0
            lvm lvcreate -q -y -Wn -Zn -L 40M -n lv0 vg0
            mke2fs -q -t ext4 {d['clear']} && mke2fs -q -t ext4 /dev/mapper/luks2
            mkfs.xfs -q -f /dev/mapper/luks1
            mke2fs -q -t ext4 /dev/mapper/plain0 && mke2fs -q -t ext4 /dev/vg0/lv0""", timeout=180)

    def open(self, g, activate=True):
        d = self.devices(g)
        g.run(f"""set -e
            cryptsetup open --key-file /run/keys/luks2.key {d['luks2']} luks2
            cryptsetup open --key-file /run/keys/luks1.key {d['luks1']} luks1
            cryptsetup open --type plain {PLAIN} --key-file /run/keys/plain.key {d['plain']} plain0
            cryptsetup open --key-file /run/keys/lvm.key {d['lvm']} lvm0""", timeout=180)
        if activate:
            g.run("lvm vgchange -q -ay vg0")

    def mount(self, g, options="noatime"):
        d = self.devices(g)
        for name, device in (("clear", d["clear"]), ("luks2", "/dev/mapper/luks2"), ("luks1", "/dev/mapper/luks1"),
                             ("plain", "/dev/mapper/plain0"), ("lvm", "/dev/vg0/lv0")):
            g.run(f"mkdir -p /mnt/{name} && mount -o {options} {device} /mnt/{name}")

    @staticmethod
    def fill(g):
        """Files that do not change any more, on every disk."""
        for name in NAMES:
            g.run(f"mkdir -p /mnt/{name}/files && cd /mnt/{name}/files && for i in 1 2 3; do "
                  f"head -c 70000 /dev/urandom > f$i; done; echo '{name}' > name; sync -f . 2>/dev/null || sync")

    @staticmethod
    def checksums(g):
        """{"clear": "…", …}: one digest over names and contents of each disk's files."""
        out = g.run("for n in " + " ".join(NAMES) + "; do cd /mnt/$n/files && "
                    "echo \"$n $(sha256sum * | sha256sum | cut -d' ' -f1)\"; done").out
        return dict(line.split() for line in out.splitlines())

    @staticmethod
    def writer_start(g):
        logs = " ".join(f"/mnt/{n}/log" for n in NAMES)
        g.run(f"""cat > /run/writer <<'END'
i=0
while [ ! -e /run/writer.stop ]; do
    i=$((i + 1))
    for f in {logs}; do echo $i >> $f; fsync $f 2>/dev/null || sync; done
done
END
            rm -f /run/writer.stop
            sh /run/writer </dev/null >/run/writer.log 2>&1 & echo $! > /run/writer.pid""")

    @staticmethod
    def writer_stop(g):
        g.run("touch /run/writer.stop; while kill -0 $(cat /run/writer.pid) 2>/dev/null; do usleep 50000; done")

    @staticmethod
    def counts(g):
        """Lines in each log, in the writer's order; a log whose numbers do not run 1, 2, 3 … raises."""
        counts = []
        for n in NAMES:
            numbers = g.run(f"cat /mnt/{n}/log 2>/dev/null", check=False).out.split()
            if numbers != [str(i + 1) for i in range(len(numbers))]:
                raise AssertionError(f"the log on {n} is not what the writer wrote: …{numbers[-5:]}")
            counts.append(len(numbers))
        return counts

    # ── Escrow ──

    @staticmethod
    def volume_ids(machine):
        """{"luks2": "luks:…", …} from 'sealpoint machine show'."""
        found = {}
        for v in machine.get("inventory", {}).get("volumes", []):
            name = v.get("mapped_name", "")
            for disk, mapped in (("luks2", "luks2"), ("luks1", "luks1"), ("plain", "plain0"), ("lvm", "lvm0")):
                if name == mapped:
                    found[disk] = v["volume_id"]
        return found

    def import_keys(self, lab, machine, only=None):
        ids = self.volume_ids(lab.machine(machine))
        for name, (option, _) in SECRETS.items():
            if only is None or name in only:
                lab.cli("key", "import", machine, ids[name], option, self.keys[name])
        return ids


def one_point_in_time(counts):
    """True if the writer's logs can be of one moment."""
    return all(a >= b for a, b in zip(counts, counts[1:])) and counts[0] - counts[-1] <= 1
