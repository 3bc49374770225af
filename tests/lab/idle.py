# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine without a guest: a QEMU that runs its firmware and does nothing, over disks that were made on the
host. For tests of what happens around the data: seconds instead of a boot. No device-mapper is needed.

    clear    ext4
    luks2    LUKS2 (pbkdf2), ext4 in it     passphrase
    luks1    LUKS1, made by qemu-img        passphrase
"""
import os
import pathlib
import shutil
import subprocess
import time

from guest import Disk, Guest, GuestError


def tool(*command, **more):
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}")
    return done.stdout


def make_luks1(plain, image, key):
    """What `plain` holds, as a LUKS1 image that the passphrase in `key` opens. qemu-img measures how fast
    it hashes before it begins, and gives up when a busy machine lets it measure nothing: asked again then."""
    command = ["qemu-img", "convert", "--object", f"secret,id=s,file={key}", "-O", "luks",
               "-o", "key-secret=s,iter-time=10", plain, image]
    for _ in range(20):
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if "accurate CPU usage" not in done.stderr:
            break
    if done.returncode != 0:
        raise RuntimeError(f"qemu-img could not make {image}: {done.stderr}")


def make_images(folder, ballast_mib=4):
    """{"clear": path, "luks2": …, "luks1": …} and {"luks2": key file, "luks1": …}; raw images."""
    folder = pathlib.Path(folder)
    tree = folder / "tree"
    tree.mkdir(parents=True)
    (tree / "hello").write_text("what is in here\n")
    (tree / "ballast").write_bytes(os.urandom(ballast_mib << 20))
    size = f"{ballast_mib + 16}M"
    images, keys = {}, {}
    for name in ("clear", "luks2", "luks1"):
        images[name] = folder / f"{name}.raw"
        keys[name] = folder / f"{name}.key"
        keys[name].write_text(f"lab-{name}-{os.urandom(8).hex()}")
        keys[name].chmod(0o600)
    del keys["clear"]
    tool("mke2fs", "-q", "-t", "ext4", "-d", tree, images["clear"], size)
    tool("mke2fs", "-q", "-t", "ext4", "-d", tree, images["luks2"], size)
    tool("truncate", "-s", "+32M", images["luks2"])
    tool("cryptsetup", "-q", "reencrypt", "--encrypt", "--type", "luks2", "--resilience", "none", "--pbkdf", "pbkdf2",
         "--pbkdf-force-iterations", "1000", "--reduce-device-size", "32M", "--force-offline-reencrypt", "--key-file",
         keys["luks2"], images["luks2"])
    plain = folder / "plain.raw"
    tool("mke2fs", "-q", "-t", "ext4", "-d", tree, plain, size)
    make_luks1(plain, images["luks1"], keys["luks1"])
    plain.unlink()
    shutil.rmtree(tree)
    return images, keys


def volume_id(image):
    return "luks:" + tool("cryptsetup", "luksUUID", image).strip()


class IdleMachine(Guest):
    """The disks are `images`; start() does not wait for any guest."""

    def __init__(self, work, images, name="idle1"):
        disks = [Disk(n, serial=f"disk-{n}", file=p) for n, p in images.items()]
        super().__init__(work, kernel=work, disks=disks, name=name)

    def start(self, timeout=20):
        line = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-m", "64M", "-nodefaults",
                "-no-user-config", "-display", "none", "-name", self.name,
                "-qmp", f"unix:{self.qmp_source},server=on,wait=off",
                "-qmp", f"unix:{self.qmp_test},server=on,wait=off"]
        for disk in self.disks:
            line += disk.arguments()
        self._spawn(line)
        end = time.monotonic() + timeout
        while not self.qmp_test.exists() or not self.qmp_source.exists():
            if not self.running() or time.monotonic() > end:
                raise GuestError(f"QEMU did not come up\n{self.log()}")
            time.sleep(0.02)
        return self

    def io(self, disk, command):
        """One qemu-io command through the device, as a guest's request: it passes Sealpoint's filters."""
        said = self.qmp()("human-monitor-command",
                          command_line=f'qemu-io -d /machine/peripheral/{disk}/virtio-backend "{command}"')
        if "rror" in said or "failed" in said:
            raise GuestError(f"qemu-io {disk} {command}: {said}")

    def write(self, disk, offset, pattern, length):
        self.io(disk, f"write -P {pattern} {offset} {length}")
