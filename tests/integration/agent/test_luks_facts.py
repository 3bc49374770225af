#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `inspect --json` says of LUKS images of every kind that cryptsetup makes here, against what cryptsetup
itself says of each: header sizes, key sizes, tokens, unbound keyslots, detached headers, re-encryption at several
places, damaged copies, partition tables around them. Nothing in this list is written down twice: the other
program is the expectation."""
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from lab import binary  # noqa: E402

MIB = 1 << 20
FAST = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
ENVIRONMENT = {**os.environ, "LC_ALL": "C"}


def tool(*command, stdin=None, good=(0,)):
    done = subprocess.run([str(c) for c in command], input=stdin or b"", stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert done.returncode in good, (command, done)
    return done.stdout.decode()


# ── What cryptsetup says ──

def between(text, first, last):
    return text.split(first, 1)[1].split(last, 1)[0]


def expected_luks1(header):
    text = tool("cryptsetup", "luksDump", header)

    def field(name):
        return re.search(rf"^{name}:\s*(.*)$", text, re.M).group(1).strip()
    slots = {}
    for number, rest in re.findall(r"^Key Slot (\d): ENABLED\n\s*Iterations:\s*(\d+)", text, re.M):
        slots[number] = {"kdf_iterations": int(rest), "kdf": "pbkdf2", "usable": True}
    return {"kind": "LUKS1", "version": 1, "uuid": field("UUID"), "hash": field("Hash spec"),
            "cipher": field("Cipher name") + "-" + field("Cipher mode"), "key_bits": int(field("MK bits")),
            "payload_offset_bytes": int(field("Payload offset")) * 512, "slots": slots}


def slot_of(number, slot, text):
    kdf = slot["kdf"]
    pbkdf2 = kdf["type"] == "pbkdf2"
    return {"kdf": kdf["type"], "kdf_iterations": kdf["iterations" if pbkdf2 else "time"],
            "kdf_memory_kib": kdf.get("memory", 0), "kdf_parallel": kdf.get("cpus", 0),
            "hash": kdf["hash"] if pbkdf2 else "", "priority": slot.get("priority", 1),
            "key_bits": slot["key_size"] * 8,
            "usable": re.search(rf"^  {number}: luks2 \(unbound\)", text, re.M) is None}


def segment_of(segment):
    size = segment["size"]
    return {"offset_bytes": int(segment["offset"]), "length_bytes": 0 if size == "dynamic" else int(size),
            "type": segment["type"], "cipher": segment.get("encryption", ""),
            "sector_bytes": segment.get("sector_size", 0), "iv_offset_sectors": int(segment.get("iv_tweak", "0")),
            "integrity": segment.get("integrity", {}).get("type", ""), "flags": segment.get("flags", [])}


def expected_luks2(header):
    text = tool("cryptsetup", "luksDump", header)
    data = json.loads(tool("cryptsetup", "luksDump", "--dump-json-metadata", header))
    told = {k: "" if v.startswith("(no ") else v
            for k, v in re.findall(r"^(UUID|Label|Subsystem|Epoch):\s*(.*?)\s*$", text, re.M)}
    live = [s for s in data["segments"].values() if not any(f.startswith("backup-") for f in s.get("flags", []))]
    return {"kind": "LUKS2", "version": 2, "uuid": told["UUID"], "label": told["Label"],
            "subsystem": told["Subsystem"], "sequence": int(told["Epoch"]),
            "payload_offset_bytes": min(int(s["offset"]) for s in live),
            "slots": {n: slot_of(n, s, text) for n, s in data["keyslots"].items() if s["type"] == "luks2"},
            "tokens": {int(n): (t["type"], sorted(map(int, t["keyslots"]))) for n, t in data["tokens"].items()},
            "segments": {int(n): segment_of(s) for n, s in data["segments"].items()},
            "digest_count": len(data["digests"]),
            "requirements": data["config"].get("requirements", {}).get("mandatory", [])}


# ── What the agent says ──

def inspect(agent, images):
    done = subprocess.run([agent, "inspect", "--json", *map(str, images)], stdout=subprocess.PIPE, check=True)
    told = json.loads(done.stdout)["images"]
    return {pathlib.Path(i["path"]).name: i for i in told}


def compare(name, volume, expected):
    header = volume["header"]
    for key, value in expected.items():
        if key == "slots":
            told = {p["id"]: {k: p[k] for k in value.get(p["id"], {})} for p in header["protectors"]}
        elif key == "tokens":
            told = {t["number"]: (t["type"], sorted(t["keyslots"])) for t in header["tokens"]}
        elif key == "segments":
            told = {s.pop("number"): s for s in map(dict, header["segments"])}
        elif key == "sequence":
            told = max(c["sequence"] for c in header["copies"])
        else:
            told = volume[key] if key == "kind" else header[key]
        assert told == value, (name, key, told, value)


# ── The images ──

class Images:
    """Each method makes images in the folder; `all` has name → (what to expect, what else must hold)."""

    def __init__(self, folder):
        self.folder, self.all = folder, {}
        self.keys = [folder / "key0", folder / "key1"]
        for i, key in enumerate(self.keys):
            key.write_text(f"key {i}")

    def file(self, name, mib):
        path = self.folder / name
        with open(path, "wb") as f:
            f.truncate(mib * MIB)
        return path

    def copy(self, source, name):
        shutil.copy(source, self.folder / name)
        return self.folder / name

    def format(self, name, *options, mib=40, version=2):
        path = self.file(name, mib)
        fast = FAST if version == 2 else FAST[2:]
        tool("cryptsetup", "-q", "luksFormat", "--type", f"luks{version}", *fast, "--key-file", self.keys[0], *options,
             path)
        return path

    def expect(self, path, version=2, **more):
        self.all[path.name] = ({1: expected_luks1, 2: expected_luks2}[version](path), more)

    def with_second_key(self, path, *options, version=2):
        tool("cryptsetup", "-q", "luksAddKey", *(FAST if version == 2 else FAST[2:]), "--key-file", self.keys[0],
             *options, path, self.keys[1])

    def luks1(self):
        for bits, cipher, hashed in ((128, "aes-cbc-essiv:sha256", "sha1"), (192, "aes-cbc-plain64", "sha512"),
                                     (256, "aes-cbc-null", "sha256"),
                                     (512, "aes-xts-plain", "ripemd160")):
            name = f"luks1-{bits}"
            path = self.format(name, "-s", bits, "-c", cipher, "--hash", hashed, version=1)
            self.expect(path, 1)
        path = self.format("luks1-far", "--offset", 24 * 2048, version=1)  # a payload far behind the keys
        for slot in (1, 3, 6, 7):
            self.with_second_key(path, "--key-slot", slot, version=1)
        for slot in (0, 3):
            tool("cryptsetup", "-q", "luksKillSlot", path, slot)
        self.expect(path, 1)
        path = self.copy(path, "luks1-erased")
        tool("cryptsetup", "-q", "erase", path)
        self.expect(path, 1, findings={"REASON_NO_ESCROWABLE_PROTECTOR"})
        header = self.file("luks1-detached", 4)
        tool("cryptsetup", "-q", "luksFormat", "--type", "luks1", *FAST[2:], "--key-file", self.keys[0], "--header",
             header, self.file("luks1-data", 4))
        self.expect(header, 1, detached=True)
        self.all["luks1-data"] = (None, {})

    def luks2_of_all_sizes(self):
        for i, (metadata, keyslots, sector) in enumerate(((16, 252, 512), (32, 16384, 1024), (64, 4096, 2048),
                                                          (512, 8192, 4096), (4096, 16128, 512))):
            path = self.format(f"luks2-{metadata}k", "--luks2-metadata-size", f"{metadata}k", "--luks2-keyslots-size",
                               f"{keyslots}k", "--sector-size", sector, "--label", f"label {i}", "--subsystem", "vm",
                               mib=44)
            self.expect(path)
            for lost, length in ((0, 4096), (metadata << 10, 4096), (0, metadata << 10)):
                broken = self.copy(path, f"{path.name}-lost-{lost}-{length}")
                with open(broken, "r+b") as f:
                    f.seek(lost)
                    f.write(bytes(length))
                self.all[broken.name] = (self.all[path.name][0], {"findings": {"REASON_HEADER_DAMAGED"}})

    def luks2_full(self):
        path = self.format("luks2-full", "--luks2-keyslots-size", "15m")
        self.with_second_key(path, "--key-slot", 31)
        self.with_second_key(path, "--key-slot", 5, "--unbound", "--key-size", 320)
        self.with_second_key(path, "--key-slot", 9, "--pbkdf", "argon2i", "--pbkdf-force-iterations", 4,
                             "--pbkdf-memory", 32, "--pbkdf-parallel", 1)
        tool("cryptsetup", "config", "--key-slot", 31, "--priority", "prefer", path)
        tool("cryptsetup", "config", "--key-slot", 0, "--priority", "ignore", path)
        for number, token in ((0, {"type": "clevis", "keyslots": ["31"], "jwe": {"a": [1, 2.5, None]}}),
                              (17, {"type": "in-house", "keyslots": ["0", "9"]}),
                              (31, {"type": "with \"quotes\" and \u00fc", "keyslots": []})):
            tool("cryptsetup", "token", "import", "--token-id", number, "--json-file", "-", path,
                 stdin=json.dumps(token, ensure_ascii=False).encode())
        self.expect(path)
        header = self.file("luks2-detached", 20)
        tool("cryptsetup", "-q", "luksFormat", *FAST, "--key-file", self.keys[0], "--header", header,
             self.file("luks2-data", 4))
        self.expect(header, detached=True)
        self.all["luks2-data"] = (None, {})
        header = self.file("luks2-detached-offset", 20)  # of data that do not begin at 0
        tool("cryptsetup", "-q", "luksFormat", *FAST, "--key-file", self.keys[0], "--header", header, "--offset", 8192,
             self.file("luks2-data-offset", 8))
        self.expect(header)
        path = self.format("luks2-erased")
        tool("cryptsetup", "-q", "erase", path)
        self.expect(path, findings={"REASON_NO_ESCROWABLE_PROTECTOR"})

    def luks2_under_way(self):
        under_way, small = {"REASON_CONVERSION_IN_PROGRESS"}, ("--luks2-keyslots-size", "1m")
        slow = ("--resilience", "journal", "--hotzone-size", "256k")
        path = self.format("luks2-reencrypt", "--sector-size", 512, *small, mib=16)
        tool("cryptsetup", "-q", "reencrypt", *FAST, "--key-file", self.keys[0], "--init-only", path)
        self.expect(path, findings=under_way, percent=0)
        self.stopped_half_way(self.copy(path, "luks2-reencrypt-half"), 16, "--resume-only", *slow)
        path = self.file("luks2-encrypt", 16)
        tool("cryptsetup", "-q", "reencrypt", "--encrypt", *FAST, "--reduce-device-size", "4M", *small, "--key-file",
             self.keys[0], "--init-only", path)
        self.expect(path, findings=under_way | {"REASON_NO_ESCROWABLE_PROTECTOR"})
        self.stopped_half_way(self.copy(path, "luks2-encrypt-half"), 16, "--resume-only")
        path = self.format("luks2-decrypt", *small, mib=16)
        header = self.folder / "luks2-decrypt-header"
        self.stopped_half_way(path, 14, "--decrypt", "--header", header, of=header, detached=True)

    def stopped_half_way(self, path, mib, *options, of=None, **more):
        """Killed when its header says that it is somewhere in the middle. Not in the first zone: what is being worked
        on counts for the first of its two digests only with cryptsetup, and the new key has no other data yet."""
        of, before = of or path, path.read_bytes()
        for _ in range(20):  # it may be at its end before it was seen half way
            if self.was_stopped(path, of, mib, options):
                break
            path.write_bytes(before)
            if of != path:
                of.unlink(missing_ok=True)
        else:
            raise AssertionError(f"{path.name}: never seen half way")
        percent = {} if more else {"half_way": True}  # of what, a header that lies apart does not know
        self.expect(of, findings={"REASON_CONVERSION_IN_PROGRESS"}, **percent, **more)

    def was_stopped(self, path, of, mib, options):
        program = subprocess.Popen([str(c) for c in (
            "cryptsetup", "-q", "reencrypt", "--force-offline-reencrypt", "--key-file", self.keys[0], *options, path)])
        def is_half_way():
            return of.exists() and 0.3 < self.place_of(of) / (mib * MIB) < 0.9

        while not is_half_way() and program.poll() is None:
            pass
        program.kill()
        program.wait()
        return is_half_way()

    @staticmethod
    def place_of(path):
        """Where the segment lies that is under way."""
        with open(path, "rb") as f:
            f.seek(4096)
            text = f.read(12288).split(b"\0")[0]
        try:
            segments = json.loads(text)["segments"].values()
        except ValueError:  # in the middle of a write
            return 0
        return sum(int(s["offset"]) for s in segments if "in-reencryption" in s.get("flags", []))

    def in_tables(self):
        """GPT (whole, only its first copy, only its last), and MBR with a logical partition."""
        for table, parts in (("gpt", "start=2048,size=8MiB\nstart=20480\n"),
                             ("dos", "start=2048,size=8MiB,type=83\nstart=20480,type=5\nstart=22528,type=83\n")):
            disk = self.file(f"disk-{table}", 64)
            tool("sfdisk", "-q", disk, stdin=f"label: {table}\n{parts}".encode())
            start = json.loads(tool("sfdisk", "--json", disk))["partitiontable"]["partitions"][-1]["start"] * 512
            volume = self.format(f"in-{table}", mib=20)
            with open(disk, "r+b") as f:
                f.seek(start)
                f.write(volume.read_bytes())
            expected = expected_luks2(volume)
            self.all[disk.name] = (expected, {"at": start})
            if table == "gpt":
                for lost, offset in (("first", 512), ("last", 64 * MIB - 512), ("mbr-and-first", 0)):
                    broken = self.copy(disk, f"disk-gpt-without-{lost}")
                    with open(broken, "r+b") as f:
                        f.seek(offset)
                        f.write(bytes(1024 if offset == 0 else 512))
                    self.all[broken.name] = (expected, {"at": start, "findings": {"REASON_HEADER_DAMAGED"}})

    def none_at_all(self):
        """What must not be taken for a volume: noise, text about LUKS, a file system over an old header."""
        noise = self.file("noise", 8)
        noise.write_bytes(random.Random(7).randbytes(8 * MIB))
        text = self.file("text", 8)
        text.write_bytes(b"\n" + b"LUKS\xba\xbe LUKS SKUL -FVE-FS- " * 20000 + bytes(4 * MIB))
        old = self.format("over")
        with open(old, "r+b") as f:
            f.write(bytes(4096))
        tool("mkfs.ext4", "-q", "-F", old)
        for path in (noise, text, old):
            self.all[path.name] = (None, {})


def check(name, told, expected, more):
    volumes = [v for v in told["volumes"] if v["kind"] != "CLEAR"]
    assert len(volumes) == (expected is not None), (name, volumes)
    if expected is None:
        return
    compare(name, volumes[0], expected)
    header = volumes[0]["header"]
    assert header["detached"] == more.get("detached", False), name
    assert not header["damaged"], (name, header["damage"])
    assert volumes[0]["extents"][0]["on"]["offset_bytes"] == more.get("at", 0), name
    assert {"REASON_" + f["reason"].removeprefix("REASON_") for f in told["findings"]} == more.get("findings", set()), \
        (name, told["findings"])
    if "half_way" in more:
        assert 0 < header["conversion_percent"] < 100, (name, header["conversion_percent"])
    if "percent" in more:
        assert header["conversion_percent"] == more["percent"], name


def main():
    agent = binary("sealpoint-agent")
    with tempfile.TemporaryDirectory(prefix="sp", dir="/dev/shm") as folder:
        images = Images(pathlib.Path(folder))
        for make in (images.luks1, images.luks2_of_all_sizes, images.luks2_full, images.luks2_under_way,
                     images.in_tables, images.none_at_all):
            make()
        told = inspect(agent, [images.folder / name for name in images.all])
        for name, (expected, more) in images.all.items():
            check(name, told[name], expected, more)
        print(f"{len(images.all)} images")
        assert len(images.all) > 35


main()
