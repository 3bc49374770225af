# SPDX-License-Identifier: GPL-3.0-or-later
"""A device in use without a file system: dm-crypt on a disk of its own, with a writer on it as a database is (it keeps
the device open, writes a block, syncs it, counts, some twenty times a second), while its guest is frozen."""
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from guest import Disk  # noqa: E402
from scene import Scene  # noqa: E402

RAW = "/dev/mapper/raw0"
WRITER = rf"""
exec 3<>{RAW}
i=0
while :; do
    i=$((i + 1))
    dd if=/dev/urandom of={RAW} bs=4096 count=1 seek=$((i % 1000)) conv=notrunc,fsync 2>/dev/null || exit
    echo $i > /run/raw.new && mv /run/raw.new /run/raw.count
    usleep 50000
done
"""
# While the agent stands still, so that nobody thaws: "suspended? sectors that reached the disk", and again: when some
# more did, or else after a while. Goes into the script that waits for the freeze.
WATCH = r"""
look() { echo "$(dmsetup info -c --noheadings -o suspended raw0) $(sectors)"; }
sectors() { awk '{print $7}' /sys/block/%s/stat; }
kill -STOP $(agent-unit main)
first=$(sectors) n=0
look
while [ $(sectors) = $first ] && [ $n -lt %d ]; do n=$((n + 1)); usleep 100000; done
look
kill -CONT $(agent-unit main)
"""
# FreezeResult.raw_device in a manifest.
RESULT = bytes([10 << 3 | 2, len(RAW)]) + RAW.encode()
LOOKS_WHEN_HELD, LOOKS_WHEN_NOT = 10, 50
# Before a blow, and with the probe after it (test_never_frozen.py).
BEFORE = "dmsetup info -c --noheadings -o suspended raw0\n"
PROBE = f"""
( dd if=/dev/zero of={RAW} bs=4096 count=1 seek=1001 conv=notrunc,fsync 2>/dev/null && echo "raw $(now)" ) > /run/probe.raw &
"""
# A suspension that waits for a write of a minute, in a freeze of a second; then a read of the device.
SLOW = r"""
head -c 8388608 /dev/zero > /run/slow.img && losetup /dev/loop0 /run/slow.img
echo "0 16384 delay /dev/loop0 0 0 /dev/loop0 0 60000 /dev/loop0 0 0" | dmsetup create slow
cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 512 --key-file /run/raw.key /dev/mapper/slow slow0
dd if=/dev/zero of=/dev/mapper/slow0 bs=4096 count=1 oflag=direct conv=notrunc </dev/null >/dev/null 2>&1 &
usleep 200000
sealpoint-agent freeze --test --lease 1000 -o freeze.suspend=/dev/mapper/slow0 2>&1
dmsetup info -c --noheadings -o suspended slow0
dd if=/dev/mapper/slow0 of=/dev/null bs=4096 count=1 skip=9 iflag=direct 2>/dev/null && echo read
kill -0 $! && echo "still written"
"""


class RawScene(Scene):
    """The scene, and one disk more."""

    @staticmethod
    def disks():
        return Scene.disks() + [Disk("raw", serial="disk-raw", size="32M")]

    def start_writer(self, g):
        self.disk = g.run("for d in /sys/block/vd*; do [ $(cat $d/serial) = disk-raw ] && basename $d; done; "
                          "true").out.strip()
        g.put("/run/raw.key", bytes(range(64)), 0o600)
        g.put("/run/raw.sh", WRITER)
        g.run(f"""set -e
            cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /run/raw.key \
                /dev/{self.disk}
            cryptsetup open --key-file /run/raw.key /dev/{self.disk} raw0
            sh /run/raw.sh </dev/null >/run/raw.log 2>&1 &
            while [ ! -e /run/raw.count ]; do usleep 20000; done""")


def is_suspended(g):
    return g.run("dmsetup info -c --noheadings -o suspended raw0").out.strip() == "Suspended"


def restart_agent(lab, g, *options):
    def connections():
        return len(re.findall(r"\bconnected\b", lab.agent_log(g)))

    g.run("agent-unit stop")
    before = connections()
    lab.agent_start(g, *options)
    lab.wait_for("the agent to be back", lambda: connections() > before, timeout=120)
