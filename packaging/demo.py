# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo after the build (packaging/demo starts it): every command that it shows is the one it runs."""
import os
import pathlib
import subprocess
import sys
import time

SOURCE = pathlib.Path(__file__).resolve().parents[1]
os.environ.setdefault("SEALPOINT_SOURCE", str(SOURCE))
sys.path.insert(0, str(SOURCE / "tests/lab"))
from lab import Disk, Lab, binary  # noqa: E402
from scene import NAMES, SECRETS, Scene, one_point_in_time  # noqa: E402

begun = time.monotonic() - float(os.environ.get("SEALPOINT_DEMO_SECONDS", 0))


def step(text):
    print(f"\n━━ {text} ({time.monotonic() - begun:.0f} s)", flush=True)


class Demo(Lab):
    def show(self, *words, ok=(0,)):
        """Runs and shows one command of the product."""
        print("$ sealpoint " + " ".join(str(w) for w in words), flush=True)
        done = subprocess.run([binary("sealpoint"), "--profile", self.profile, *map(str, words)],
                              stdin=subprocess.DEVNULL)
        if done.returncode not in ok:
            sys.exit(f"demo: that was not expected (exit code {done.returncode})\n{self.logs()}")
        return done.returncode


def in_guest(g, command, **more):
    print(f"guest# {command}")
    out = g.run(command, **more).out.strip()
    if out:
        print(out, flush=True)


def newest(lab):
    return lab.cli("machine", "show", "web1")["last_point_id"]


def demo(lab, keep):
    step("Keeper and controller start; the keeper makes the CA")
    lab.up()
    print(f"recovery kit (printed once, stored nowhere): {lab.kit[:22]}…\nCA fingerprint: {lab.ca_fingerprint}")

    step("A guest boots, with five disks of its own: clear, LUKS2, LUKS1, plain dm-crypt, LVM on LUKS2")
    scene = Scene(lab.path / "keys")
    g = lab.guest("web1", disks=scene.disks())
    g.start()
    scene.put_keys(g)
    scene.format(g)
    g.run("lvm vgchange -q -ay vg0")
    scene.mount(g)
    scene.fill(g)
    in_guest(g, "lsblk -o NAME,SIZE,TYPE,FSTYPE,MOUNTPOINT")

    step("Its agent enrols with a token, over mutual TLS")
    token = lab.path / "web1.token"
    lab.show("token", "create", "--machine", "web1", "--out", token)
    print(f"guest# sealpoint-agent enrol --controller {g.controller} --token-file web1.token --ca-fingerprint …")
    lab.enrol(g, token.read_text())
    lab.agent_start(g)
    lab.wait_for("the inventory", lambda: len(scene.volume_ids(lab.machine("web1"))) == 4)
    lab.show("machine", "show", "web1")

    step("A vault, and where the disks are: QEMU's own snapshot, no pause")
    lab.show("vault", "add", "main", "--dir", lab.vault)
    lab.show("machine", "set-source", "web1", "--qmp", g.qmp_source, "--vault", "main")

    step("A backup while a program writes, with no key in escrow: the copy is there, but it is not valid")
    scene.writer_start(g)
    lab.show("backup", "web1", ok=(3,))
    first = newest(lab)

    step("The keys go into escrow, sealed to the keeper: the controller cannot read them")
    ids = scene.volume_ids(lab.machine("web1"))
    for name, (option, _) in SECRETS.items():
        lab.show("key", "import", "web1", ids[name], option, scene.keys[name])

    step("No new backup: the stored snapshot is proved with the keys that are there now")
    lab.show("point", "verify", first)
    lab.show("point", "show", first)

    step("Seven years later: the guest is gone, the disks come back as they were, still encrypted")
    scene.writer_stop(g)
    sums = scene.checksums(g)
    g.stop()
    out = lab.path / "restored"
    lab.show("point", "restore", first, "--to", out)

    step("A custodian asks for the keys of that very point")
    lab.show("key", "release", first, "--to", lab.path / "released", "--why", "demo")
    for name, volume in ids.items():
        plain_name = "".join(c if c.isalnum() or c in "-." else "_" for c in volume) + ".key"
        scene.keys[name] = lab.path / "released" / plain_name

    step("Another guest boots from the restored disks and unlocks them")
    second = lab.guest("restored", disks=[Disk(n, serial=f"disk-{n}", file=out / f"disk-{n}.raw") for n in NAMES])
    second.start()
    scene.put_keys(second)
    scene.open(second)
    scene.mount(second)
    in_guest(second, "lsblk -o NAME,SIZE,TYPE,FSTYPE,MOUNTPOINT")
    same, counts = scene.checksums(second) == sums, scene.counts(second)
    print(f"files: {'every checksum is the same' if same else 'DIFFERENT'}")
    print(f"writer's logs on the five disks: {counts}: "
          f"{'one point in time' if one_point_in_time(counts) else 'TORN'}")
    if not same or not one_point_in_time(counts):
        sys.exit("demo: the restored disks are not what was backed up")
    lab.show("audit", "verify")

    step("Done")
    print("""What to try next:
  README.md               how the parts work together, and where to read on
  packaging/demo --keep   the same, and everything stays up to play with
  sudo tests/run          every test, guests included
  sealpoint --help        what else there is""")
    if keep:
        print(f"\nStill up, until Ctrl-C:\n  export SEALPOINT_PROFILE={lab.profile} PATH={binary('sealpoint').parent}:$PATH\n"
              f"  sealpoint point list")
        try:
            while True:
                time.sleep(60)
        except KeyboardInterrupt:
            print()


with Demo() as the_lab:
    demo(the_lab, "--keep" in sys.argv)
