#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens to a guest's disks and volumes is on the fleet stream of a foreign client within two seconds.
No udevd runs in this guest. Then the agent rests, and what it takes is measured.

With SEALPOINT_LONG the rest is longer."""
import lzma
import os
import pathlib
import struct
import sys
import time
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from foreign import FleetStream  # noqa: E402
from lab import SOURCE, Disk, Lab  # noqa: E402

WITHIN_S = 2.0  # as the product promises
GIVE_UP_S = 60.0
RSS_MOST_KB, WAKEUPS_MOST = 16 * 1024, 1.0
FAST = "--pbkdf pbkdf2 --pbkdf-force-iterations 1000"
CORPUS = pathlib.Path(os.environ.get("SEALPOINT_CORPUS") or SOURCE / "../shared/corpus")
BITLOCKER = CORPUS / "bitlk-aes-xts-128.img.xz"


class Scene:
    def __init__(self, lab, guest, stream):
        self.lab, self.guest, self.stream = lab, guest, stream
        self.slowest = 0.0

    def expect(self, kind, act, check=lambda e: True):
        """Runs act(), which returns once it has happened; the event of this kind must not be later than it by
        more than two seconds."""
        wanted = self.stream.kinds.Value("CHANGE_KIND_" + kind)
        self.stream.drop()
        act()
        done = time.monotonic()
        got = self.stream.wait(lambda e: e.HasField("volume") and e.volume.change == wanted and check(e.volume),
                               GIVE_UP_S)
        assert got, f"no {kind}\n{self.lab.agent_log(self.guest)}"
        late = got[0] - done
        print(f"{kind}: {late:+.2f} s", flush=True)
        assert late <= WITHIN_S, f"{kind} came {late:.2f} s after it had happened"
        self.slowest = max(self.slowest, late)
        return got[1].volume

    def run(self, script):
        return lambda: self.guest.run(script)


def device_of(guest, serial):
    return guest.run(f"for d in /sys/block/vd*; do [ \"$(cat $d/serial)\" = {serial} ] && echo /dev/${{d##*/}}; done; "
                     "true").out.strip()


# ── LUKS ──

def keyslots(s, disk):
    added = s.expect("PROTECTOR_ADDED", s.run(f"cryptsetup -q luksAddKey {FAST} --key-file /run/k0 {disk} /run/k1"))
    assert added.protector_id == "1" and added.kind == "protector-added", added
    assert [p.id for p in added.before.header.protectors] == ["0"], added
    assert [p.id for p in added.after.header.protectors] == ["0", "1"], added
    removed = s.expect("PROTECTOR_REMOVED", s.run(f"cryptsetup -q luksKillSlot --key-file /run/k0 {disk} 1"))
    assert removed.protector_id == "1" and removed.subject == added.subject, removed


def open_and_close(s, disk):
    opened = s.expect("VOLUME_OPENED", s.run(f"cryptsetup open --key-file /run/k0 {disk} secret"))
    assert not opened.before.open and opened.after.open and opened.after.mapped_name == "secret", opened
    s.expect("VOLUME_CLOSED", s.run("cryptsetup close secret"))


def a_writer_that_keeps_the_node_open(s, disk):
    """No IN_CLOSE_WRITE comes, no uevent: the old header is written back and the node stays open."""
    s.guest.run(f"dd if={disk} of=/run/old bs=64k count=256 2>/dev/null")
    s.expect("PROTECTOR_ADDED", s.run(f"cryptsetup -q luksAddKey {FAST} --key-file /run/k0 {disk} /run/k1"))
    s.expect("PROTECTOR_REMOVED", s.run(f"""
        rm -f /run/written
        (exec 3<>{disk}; dd if=/run/old bs=64k conv=notrunc >&3 2>/dev/null; sync; touch /run/written; sleep 5; \
            rm /run/written) </dev/null >/dev/null 2>&1 &
        while [ ! -e /run/written ]; do usleep 20000; done"""))
    assert s.guest.run("[ -e /run/written ]", check=False).status == 0, "the node was closed before the event came"
    s.guest.run("while [ -e /run/written ]; do usleep 100000; done")


def re_encryption(s, disk):
    started = s.expect("CONVERSION_STARTED", s.run(
        f"cryptsetup -q reencrypt --init-only --force-offline-reencrypt --resilience none {FAST} "
        f"--key-file /run/k0 {disk}"))
    assert not started.before.header.conversion_in_progress and started.after.header.conversion_in_progress, started


# ── BitLocker ──

def suspended(image):
    """[(offset, bytes)] that turn the first protector of each metadata copy into a clear key: what suspending
    protection leaves behind."""
    patches = []
    with open(image, "rb") as f:
        boot = f.read(512)
        for offset in struct.unpack_from("<3Q", boot, 176):
            f.seek(offset)
            head = f.read(64)
            assert head[:8] == b"-FVE-FS-"
            size = struct.unpack_from("<H", head, 8)[0] * 16
            f.seek(offset)
            block = bytearray(f.read((size + 8 + 511) // 512 * 512))
            at = 64 + 48
            while struct.unpack_from("<3H", block, at)[1:] != (2, 8):  # a VMK
                at += struct.unpack_from("<H", block, at)[0]
            struct.pack_into("<H", block, at + 8 + 26, 0)  # protection type: clear key
            struct.pack_into("<I", block, size + 4, zlib.crc32(block[:size]))
            patches.append((offset, bytes(block)))
    return patches


def bitlocker(s, disk, image):
    script = ""
    for i, (offset, data) in enumerate(suspended(image)):
        s.guest.put(f"/run/fve{i}", data)
        script += f"dd if=/run/fve{i} of={disk} bs=512 seek={offset // 512} conv=notrunc 2>/dev/null; "
    event = s.expect("PROTECTION_SUSPENDED", s.run(script))
    assert event.subject.startswith("bitlocker:"), event
    assert not event.before.header.protection_suspended and event.after.header.protection_suspended, event


# ── Disks ──

def hot_plug(s, work):
    (work / "new.raw").write_bytes(bytes(8 << 20))
    qmp = s.guest.qmp()

    def plug():
        qmp.command("blockdev-add", {"driver": "raw", "node-name": "node-new",
                                     "file": {"driver": "file", "filename": str(work / "new.raw")}})
        qmp.command("device_add", {"driver": "scsi-hd", "bus": "scsi0.0", "id": "new", "drive": "node-new",
                                   "serial": "disk-new"})

    added = s.expect("DISK_ADDED", plug)
    assert added.subject == "disk-new" and added.disk_after.size_bytes == 8 << 20, added
    assert not added.HasField("disk_before"), added
    s.expect("DISK_REMOVED", lambda: qmp.command("device_del", {"id": "new"}))


# ── What was missed is told later; what is stored ──

def away(s, disk):
    """A change while no agent runs is told when it is back."""
    s.guest.run("agent-unit stop")
    s.guest.run(f"cryptsetup open --key-file /run/k0 {disk} secret")
    s.stream.drop()
    s.lab.agent_start(s.guest)
    opened = s.stream.wait(lambda e: e.HasField("volume") and e.volume.kind == "volume-opened", GIVE_UP_S)
    assert opened, s.lab.agent_log(s.guest)
    s.guest.run("cryptsetup close secret")


def stored(s):
    out = s.lab.cli("machine", "events", "web1", json=False)
    print(out)
    for kind in ("protector-added", "protector-removed", "volume-opened", "volume-closed", "disk-added",
                 "disk-removed"):
        assert kind in out, (kind, out)


# ── At rest ──

def rest(s, seconds):
    """Memory, wake-ups and time of an agent to which nothing happens."""
    time.sleep(5)
    main = s.guest.run("agent-unit main").out.strip()
    look = (f"cat /proc/uptime; awk '{{print $14 + $15}}' /proc/{main}/stat; "
            f"awk '/VmRSS/ {{print $2}}' /proc/{main}/status; for t in /proc/{main}/task/*; do "
            "echo $(cat $t/comm):${t##*/} $(awk '/^voluntary/ {print $2}' $t/status); done")

    def measure():
        uptime, ticks, resident, *threads = s.guest.run(look).out.strip().split("\n")
        woken = {t.rsplit(" ", 1)[0]: int(t.rsplit(" ", 1)[1]) for t in threads}
        return float(uptime.split()[0]), int(ticks), int(resident), woken

    first = measure()
    time.sleep(seconds)
    last = measure()
    passed, resident = last[0] - first[0], last[2]
    woken = {t: n - first[3].get(t, 0) for t, n in last[3].items()}
    wakeups, processor = sum(woken.values()) / passed, (last[1] - first[1]) / 100 / passed
    print(f"at rest for {passed:.0f} s: {resident} kB, {wakeups:.2f} wake-ups/s, {processor:.3%} of this emulated core; "
          f"{woken}", flush=True)
    assert wakeups <= WAKEUPS_MOST, wakeups
    if os.environ.get("SEALPOINT_GUEST_AGENT"):  # a build with sanitizers is another thing
        assert resident <= RSS_MOST_KB, resident


def main():
    with Lab() as lab:
        lab.up()
        image = lab.path / "bitlk.raw"
        disks = [Disk("luks", serial="disk-luks", size="64M")]
        if BITLOCKER.exists():
            image.write_bytes(lzma.decompress(BITLOCKER.read_bytes()))
            disks.append(Disk("bitlk", serial="disk-bitlk", file=image))
        g = lab.guest("web1", disks=disks, extra=["-device", "virtio-scsi-pci,id=scsi0"])
        g.start()
        g.put("/run/k0", "the first key", 0o600)
        g.put("/run/k1", "the second key", 0o600)
        disk = device_of(g, "disk-luks")
        g.run(f"cryptsetup -q luksFormat --type luks2 {FAST} --key-file /run/k0 {disk}")
        lab.enrol(g)
        lab.agent_start(g)
        lab.wait_for("the inventory", lambda: lab.machine("web1").get("inventory", {}).get("volumes"))
        stream = FleetStream(lab)
        stream.wait(lambda e: e.HasField("machine"), GIVE_UP_S)
        s = Scene(lab, g, stream)
        keyslots(s, disk)
        open_and_close(s, disk)
        hot_plug(s, lab.path)
        if BITLOCKER.exists():
            bitlocker(s, device_of(g, "disk-bitlk"), image)
        a_writer_that_keeps_the_node_open(s, disk)
        away(s, disk)
        rest(s, 120 if os.environ.get("SEALPOINT_LONG") else 40)
        re_encryption(s, disk)
        stored(s)
        stream.close()
        print(f"the slowest event came {s.slowest:+.2f} s after it had happened")
    if not BITLOCKER.exists():
        print(f"no corpus at {CORPUS}: BitLocker was left out")
        sys.exit(77)


main()
