# SPDX-License-Identifier: GPL-3.0-or-later
"""A keystore of 1,000,000 records (SEALPOINT_BENCH_RECORDS: another number): the look-up that every proof makes."""
import os
import subprocess


def measure(build, args, folder):
    records = int(os.environ.get("SEALPOINT_BENCH_RECORDS", 1000000))
    program = build("bench-keystore")
    out = subprocess.run([program, folder, str(records), "20000"], check=True, stdout=subprocess.PIPE,
                         text=True).stdout
    figures = {line.split()[0]: [float(f) for f in line.split()[1:]] for line in out.splitlines()}
    find, opened = figures["find"], figures["open"]
    size = os.path.getsize(os.path.join(folder, "state", "keystore.db")) / 2**20
    return (f"keystore of {records:,} records ({size:.0f} MiB): "
            f"records of a volume found in {find[0]:.0f} µs (99 %: {find[1]:.0f}), found and decrypted in "
            f"{opened[0]:.0f} µs (99 %: {opened[1]:.0f}); 1 ms over the median of both", 1000 / opened[0], 1.0)
