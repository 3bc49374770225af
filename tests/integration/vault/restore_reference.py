#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores a disk from a directory vault. Written from controller/mover/vault/FORMAT.md alone, with
the standard library; sealed chunks also need python3-cryptography and the zstd program.

    restore_reference.py VAULT MACHINE POINT DISK OUT [--key HEXKEY]

It checks every hash, but no signature."""
import argparse
import hashlib
import hmac
import os
import struct
import subprocess
import sys

CHUNK = 65536


class Damaged(Exception):
    pass


def hkdf(key, info, size=32):
    prk = hmac.new(bytes(32), key, hashlib.sha256).digest()
    out, block, n = b"", b"", 1
    while len(out) < size:
        block = hmac.new(prk, block + info + bytes([n]), hashlib.sha256).digest()
        out, n = out + block, n + 1
    return out[:size]


def fields(data):
    """A protobuf message as (number, value) pairs."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise Damaged("protobuf cut short")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while at < len(data):
        tag = varint()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, varint()
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}.get(kind)
        if size is None or at + size > len(data):
            raise Damaged("protobuf cut short")
        yield tag >> 3, data[at:at + size]
        at += size


class Vault:
    def __init__(self, path, key):
        self.path, self.key, self.places = path, key, {}
        for folder, _, files in os.walk(os.path.join(path, "packs")):
            for name in sorted(files):
                self.load(os.path.join(folder, name))

    def load(self, pack):
        size = os.path.getsize(pack)
        with open(pack, "rb") as f:
            f.seek(size - 256)
            footer = f.read(256)
            magic, version, count, index_at = struct.unpack_from("<8sIIQ", footer)
            if magic != b"SPPKEND1" or version != 1 or index_at + 48 * count + 256 != size:
                raise Damaged(f"{pack}: no footer")
            f.seek(index_at)
            index = f.read(48 * count)
        if hashlib.sha256(index + footer[:224]).digest() != footer[224:]:
            raise Damaged(f"{pack}: index damaged")
        for i in range(count):
            address, offset, stored, plain, storage = struct.unpack_from("<32sIIIB", index, 48 * i)
            self.places.setdefault(address, []).append((pack, offset, stored, plain, storage))

    def fetch(self, kind, address):
        for pack, offset, stored, plain, storage in self.places.get(address, []):
            if (storage == 1) != (kind == 1):
                continue
            with open(pack, "rb") as f:
                f.seek(offset)
                data = f.read(stored)
            chunk = data if kind == 1 else self.open(address, data, storage)
            is_address = (hashlib.sha256(chunk).digest() if kind == 1 else
                          hmac.new(hkdf(self.key, b"sealpoint address 1"), chunk,
                                   hashlib.sha256).digest())
            if len(chunk) == plain and is_address == address:
                return chunk
        raise Damaged(f"chunk {address.hex()} is lost")

    def open(self, address, data, storage):
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        if self.key is None:
            sys.exit("sealed chunks need --key")
        key = hkdf(self.key, b"sealpoint chunk 1" + address)
        body = AESGCM(key).decrypt(data[:12], data[12:], address + struct.pack("<IB", 1, storage))
        if storage == 3:
            body = subprocess.run(["zstd", "-d", "-c"], input=body, stdout=subprocess.PIPE,
                                  check=True).stdout
        return body

    def disk(self, machine, point, disk):
        """(size, root) from the newest revision."""
        folder = os.path.join(self.path, "manifests", machine)
        revisions = [int(n.rsplit(".", 1)[1]) for n in os.listdir(folder)
                     if n.rsplit(".", 1)[0] == point]
        with open(os.path.join(folder, f"{point}.{max(revisions)}"), "rb") as f:
            payload = dict(fields(f.read()))[1]
        for number, value in fields(payload):
            if number == 11:
                image = dict(fields(value))
                if image.get(1, b"").decode() == disk:
                    return image[2], image[3]
        raise Damaged(f"no disk {disk} in point {point}")

    def write(self, out, level, address, first):
        node = self.fetch(1, address)
        magic, version, its_level, count = struct.unpack_from("<4sBBH", node)
        if magic != b"SPMN" or version != 1 or its_level != level or len(node) != 8 + 34 * count:
            raise Damaged("not a node")
        for i in range(count):
            slot, kind, child = struct.unpack_from("<BB32s", node, 8 + 34 * i)
            start = first + slot * 256 ** level
            if level > 0:
                self.write(out, level - 1, child, start)
            else:
                out.seek(start * CHUNK)
                out.write(self.fetch(kind, child))

    def restore(self, size, root, path):
        record = self.fetch(1, root)
        magic, version, height, top_kind, _, chunk, fan_out, its_size, top = struct.unpack(
            "<4sBBBBIIQ32s", record)
        if (magic, version, chunk, fan_out, its_size) != (b"SPMR", 1, CHUNK, 256, size):
            raise Damaged("not the root of this disk")
        with open(path, "wb") as out:
            if top_kind:
                self.write(out, height - 1, top, 0)
            out.truncate(size)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("vault", "machine", "point", "disk", "out"):
        parser.add_argument(name)
    parser.add_argument("--key", type=bytes.fromhex)
    args = parser.parse_args()
    try:
        vault = Vault(args.vault, args.key)
        vault.restore(*vault.disk(args.machine, args.point, args.disk), args.out)
    except Damaged as e:
        sys.exit(f"restore_reference: {e}")


if __name__ == "__main__":
    main()
