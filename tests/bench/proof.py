# SPDX-License-Identifier: GPL-3.0-or-later
"""Proofs against `cryptsetup open --test-passphrase`, each pair on the same image in the same run.

The images are copies of the corpus (SEALPOINT_CORPUS), with keyslots of cryptsetup's own defaults added:
a file system inside a LUKS volume cannot be made without device-mapper."""
import os
import secrets
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CORPUS = os.environ.get("SEALPOINT_CORPUS", os.path.join(ROOT, "..", "shared", "corpus"))
LUKS, LUKS_KEY = "a-luks2-4k.img", "a-4k-66c3b032e0df"
BITLOCKER = "bitlk-aes-xts-128.img"
RECOVERY = "235818-357951-253979-013365-241120-245575-342914-591910"


def unpack(folder, name):
    path = os.path.join(folder, name)
    if not os.access(os.path.join(CORPUS, name + ".xz"), os.R_OK):
        sys.exit(f"bench: no corpus at {CORPUS}")
    subprocess.run(f"xz -dc '{CORPUS}/{name}.xz' > '{path}'", shell=True, check=True)
    return path


def write(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="ascii") as f:
        f.write(text)
    return path


class Image:
    """The LUKS image with other keyslots than its own; `keys` are files, by keyslot."""

    def __init__(self, folder, slots):
        self.path = unpack(folder, LUKS)
        first = write(folder, "first", LUKS_KEY)
        self.keys = {}
        for slot, options in slots.items():
            self.keys[slot] = write(folder, f"key{slot}", secrets.token_hex(32))
            subprocess.run(["cryptsetup", "luksAddKey", "-q", "--key-file", first, "--key-slot",
                            str(slot), *options, self.path, self.keys[slot]], check=True)
        subprocess.run(["cryptsetup", "luksKillSlot", "-q", "--key-file", self.keys[slot], self.path,
                        "0"], check=True)


def peer(image, key, *options):
    start = time.monotonic()
    subprocess.run(["cryptsetup", "open", "--test-passphrase", "--key-file", key, *options, image],
                   check=True)
    return time.monotonic() - start


def ours(build, image, key, slot="", kind="passphrase", machines=1, checks=0, prefix=()):
    """Seconds: a whole proof, a check with an unchanged header, all checks."""
    program = build("bench-proof")
    environment = dict(os.environ, SEALPOINT_BUILD=os.path.dirname(os.path.dirname(
        os.path.dirname(program))), SEALPOINT_SOURCE=ROOT)
    done = subprocess.run([*prefix, program, image, key, kind, str(slot), str(machines), str(checks)],
                          check=True, text=True, stdout=subprocess.PIPE, env=environment)
    return [float(x) for x in done.stdout.split()]


def recheck(build, args, folder):
    image = Image(folder, {1: []})
    theirs = statistics.median(peer(image.path, image.keys[1]) for _ in range(args.rounds))
    mine = ours(build, image.path, image.keys[1], 1, checks=200)[1]
    return (f"volume checked again, header unchanged: {mine * 1000:.1f} ms, cryptsetup (argon2id, "
            f"default) {theirs:.2f} s", theirs / mine, 300)


def slots(build, args, folder):
    image = Image(folder, {1: [], 2: []})
    ratios = [peer(image.path, image.keys[2]) / ours(build, image.path, image.keys[2], 2)[0]
              for _ in range(args.rounds)]
    return "LUKS2, argon2id, key in the last of two keyslots", statistics.median(ratios), 1.8


def escrow(build, args, folder):
    image = Image(folder, {1: [], 2: ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]})
    theirs = statistics.median(peer(image.path, image.keys[1]) for _ in range(args.rounds))
    mine = ours(build, image.path, image.keys[2], 2, machines=args.rounds)[0]
    return (f"escrow keyslot (pbkdf2, 1000): {mine * 1000:.0f} ms, cryptsetup (argon2id, default) "
            f"{theirs:.2f} s", theirs / mine, 20)


def bitlocker(build, args, folder):
    image, key = unpack(folder, BITLOCKER), write(folder, "recovery", RECOVERY)
    ratios = [peer(image, key, "--type", "bitlk") /
              ours(build, image, key, kind="recovery-password")[0] for _ in range(args.rounds)]
    return "BitLocker, recovery password", statistics.median(ratios), 1


def fleet(build, _args, folder):
    image = Image(folder, {1: ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]})
    took = ours(build, image.path, image.keys[1], 1, machines=50, checks=10000,
                prefix=["taskset", "-c", "0"])[2]
    return f"10,000 volumes checked again on one core, all of it: {took:.0f} s; of 60 s", 60 / took, 1
