# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's inventory of a machine with 200 loop devices: a quarter each of ext4, LUKS2, swap and
nothing. The limit is a second; the whole `inspect --json` is timed, start of the program included."""
import os
import statistics
import subprocess
import time

DEVICES, LIMIT_S = 200, 1.0
KINDS = (["mkfs.ext4", "-q", "-F"],
         ["cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2",
          "--pbkdf-force-iterations", "1000", "--key-file", "/dev/urandom", "--keyfile-size", "32"],
         ["mkswap", "-q"],
         None)


def images(folder):
    """One image of each kind, 64 MiB and sparse; every device gets its own copy."""
    for kind, command in enumerate(KINDS):
        path = os.path.join(folder, f"kind{kind}")
        with open(path, "wb") as f:
            f.truncate(64 << 20)
        if command:
            subprocess.run([*command, path], check=True, stdout=subprocess.DEVNULL)
    for i in range(DEVICES):
        path = os.path.join(folder, f"disk{i}")
        subprocess.run(["cp", "--sparse=always", os.path.join(folder, f"kind{i % len(KINDS)}"), path],
                       check=True)
        yield path


def measure(build, args, folder):
    agent = os.path.join(os.path.dirname(build("sealpoint-agent")), "../../agent/sealpoint-agent")
    loops, times = [], []
    try:
        for path in images(folder):
            done = subprocess.run(["losetup", "-f", "--show", path], check=True, text=True,
                                  stdout=subprocess.PIPE)
            loops.append(done.stdout.strip())
        for _ in range(args.rounds + 1):  # the first one brings the files into memory
            start = time.monotonic()
            done = subprocess.run([agent, "inspect", "--json"], check=True, text=True,
                                  stdout=subprocess.PIPE)
            times.append(time.monotonic() - start)
    finally:
        for loop in loops:
            subprocess.run(["losetup", "-d", loop], check=False)
    seen = done.stdout.count('"type": "loop"')
    volumes = done.stdout.count('"kind": "LUKS2"')
    if seen < DEVICES or volumes < DEVICES // len(KINDS):
        raise SystemExit(f"bench: the inventory shows {seen} loop devices, {volumes} volumes")
    median = statistics.median(times[1:])
    return (f"inventory of {DEVICES} loop devices: {median:.2f} s (limit {LIMIT_S:.0f} s, worst "
            f"{max(times[1:]):.2f} s)", LIMIT_S / median, 1.0)
