#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The API from a client that is not ours and means no good: who may call what, lengths that lie, huge and odd
texts, enum values that nobody knows, noise. Each is refused in words, nothing is stored, and the next honest call
is served. A stranger who is refused all day does not fill the audit."""
import json
import pathlib
import random
import re
import sys

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from lab import SOURCE, Lab  # noqa: E402

PACKAGE = "/sealpoint.v1."
CALL_S = 60  # far more than any call takes


# ── Messages by hand ──

def varint(n):
    out = b""
    while n > 0x7f:
        out, n = out + bytes([n & 0x7f | 0x80]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def methods():
    """{"Backup/Start": "operator", …} from the contract's comments."""
    found = {}
    for path in sorted((SOURCE / "proto/sealpoint/v1").glob("*.proto")):
        service = ""
        for line in path.read_text().splitlines():
            if m := re.match(r"service (\w+)", line):
                service = m.group(1)
            elif m := re.match(r"\s+rpc (\w+)\(.*;\s*(?:// (\w+))?", line):
                found[f"{service}/{m.group(1)}"] = m.group(2)
    assert len(found) > 30 and found["Backup/AddVault"] == "admin", found
    return found


class Client:
    def __init__(self, lab, profile=None):
        trust = (lab.profile / "trust.pem").read_bytes()
        keys = [(profile / n).read_bytes() for n in ("user.key", "user.pem")] if profile else []
        self.channel = grpc.secure_channel(
            f"127.0.0.1:{lab.port}", grpc.ssl_channel_credentials(trust, *keys),
            [("grpc.ssl_target_name_override", "controller.sealpoint.internal"), ("grpc.max_send_message_length", -1)])

    def call(self, method, request=b""):
        """(status, words or the first answer); a stream is left after its first message."""
        call = self.channel.stream_stream(PACKAGE + method)(iter([request]), timeout=CALL_S)
        try:
            first = next(iter(call))
            call.cancel()
            return "OK", first
        except StopIteration:
            return "OK", b""
        except grpc.RpcError as e:
            return e.code().name, e.details()

    def refused(self, method, request, codes, *words):
        status, said = self.call(method, request)
        assert status in codes, (method, request[:60], status, said)
        assert all(w in said for w in words), (method, said)
        return said


# ── Cases ──

def who_may_call_what(lab, admin):
    """Every method of the contract, by nobody and by a viewer, with nothing in it."""
    lab.cli("user", "add", "eve", "--role", "viewer", "--out", lab.path / "eve")
    eve, nobody = Client(lab, lab.path / "eve"), Client(lab)
    denied = 0
    for method, role in methods().items():
        if method != "Enrolment/Enrol":
            nobody.refused(method, b"", {"UNAUTHENTICATED", "PERMISSION_DENIED"})
        if role in ("operator", "admin", "custodian") or method == "AgentLink/Session":
            said = eve.refused(method, b"", {"PERMISSION_DENIED"})
            assert "eve" in said or "agent" in said, (method, said)
            denied += 1
    assert denied > 15, denied
    assert eve.call("Fleet/ListMachines")[0] == "OK"
    print(f"a viewer is denied {denied} methods, nobody gets anything", flush=True)


def names_and_texts(lab, admin):
    bad = {"INVALID_ARGUMENT"}
    for name in ("", " ", "a b", "a\n", "\x1b[31m", "x" * 129, "n" * (3 << 20), "11111111-2222-4333-8444-555555555555"):
        admin.refused("Fleet/AddMachine", field(1, name), bad, "name")
    admin.refused("Fleet/AddMachine", field(1, "m1") + field(2, "g" * 5000), bad, "group")
    admin.refused("Fleet/AddMachine", field(1, "n" * (5 << 20)), {"RESOURCE_EXHAUSTED"})
    for name in ("", "v" * 4000, "a b", "11111111-2222-4333-8444-555555555555"):
        admin.refused("Backup/AddVault", field(1, name) + field(2, field(1, field(1, str(lab.path / "v1")))), bad)
    for path in ("", "relative/x"):
        admin.refused("Backup/AddVault", field(1, "v1") + field(2, field(1, field(1, path))), bad, "absolute")
    for path in ("/dev/null", "/proc/self", "/" + "d" * 5000, "/dev/full/x"):
        status, said = admin.call("Backup/AddVault", field(1, "v1") + field(2, field(1, field(1, path))))
        assert status != "OK" and said, (path, status)
    admin.refused("Backup/AddVault", field(1, "v1"), bad, "kind")
    admin.refused("Backup/AddVault", field(1, "v1") + field(2, field(9, field(1, "/x"))), bad, "kind")
    for method in ("Backup/GetPoint", "Backup/ReadManifest", "Backup/VerifyPoint", "Backup/ReadDisk"):
        for point in ("", "%", "0" * 36, "z" * 100000, "'; DROP TABLE point; --", "a\0b"):
            said = admin.refused(method, field(1, point), {"NOT_FOUND", "INVALID_ARGUMENT"})
            assert len(said) < 500, (method, len(said))
    admin.refused("Backup/ListPoints", field(2, 0xffffffff) + field(3, "no token"), bad, "page token")
    admin.refused("Backup/WatchJob", field(1, "j" * 1000), {"NOT_FOUND"})
    print("names and texts: refused in words", flush=True)


def values_nobody_knows(lab, admin):
    bad = {"INVALID_ARGUMENT"}
    lab.cli("machine", "add", "m1")
    set_policy = lambda policy: ("Fleet/SetPolicy", field(1, "m1") + field(2, policy))  # noqa: E731
    exception = field(2, "disk-0") + field(5, "why")
    admin.refused(*set_policy(field(1, 77)), bad, "grade")
    admin.refused(*set_policy(field(2, field(1, 999) + exception)), bad, "no reason")
    admin.refused(*set_policy(field(2, field(1, 1) + exception)), bad, "ESCROW_MISSING")
    admin.refused(*set_policy(field(2, field(1, 8))), bad, "names the volume")
    admin.refused(*set_policy(field(2, field(1, 8) + exception) * 300), bad, "at most")
    admin.refused(*set_policy(field(2, field(1, 8) + field(2, "x" * 100000))), bad, "at most")
    # Who allowed it is who calls, whatever the request says.
    status, said = admin.call(*set_policy(field(2, field(1, 8) + exception + field(3, "somebody else"))))
    assert status == "OK" and b"somebody else" not in said and b"admin" in said, (status, said)
    admin.refused("Fleet/SetSource", field(1, "m1") + field(2, field(1, field(1, "relative"))), bad, "absolute")
    admin.refused("Fleet/SetSource", field(1, "m1") + field(3, "no-vault"), {"NOT_FOUND"}, "no-vault")
    admin.refused("Keys/Import", b"", bad, "1 to 1000")
    admin.refused("Keys/Import", field(1, b"") * 1001, bad, "1 to 1000")
    empty = field(1, field(1, "m1") + field(2, "luks:x") + field(4, field(1, 77)))
    status, said = admin.call("Keys/Import", empty * 1000)
    assert status != "OK" or b"\x0a" in said, (status, said)
    assert not lab.cli("key", "list", "m1").get("records"), "something was imported"
    print("unknown values: never taken for anything", flush=True)


def lengths_that_lie(lab, admin):
    for method in methods():
        for request in (b"\x0a\xe8\x07abc", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x0a", b"\xff" * 20,
                        b"\x0b\x0b\x0b\x0b", b"\x08" + b"\x80" * 30):
            if method == "AgentLink/Session":
                continue
            status, said = admin.call(method, request)
            assert status not in ("OK", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN"), (method, request, status, said)
    noise = random.Random(1)
    for method in methods():
        for _ in range(20):
            admin.call(method, noise.randbytes(noise.randrange(200)))
    assert lab.controller.running(), lab.logs()
    assert admin.call("Fleet/GetStatus")[0] == "OK"
    print("lengths that lie, and noise: the controller lives", flush=True)


def a_stranger_all_day(lab):
    """Each refusal would be a durable entry: a few are, the rest is one number."""
    stranger, tries = Client(lab), 300
    request = (field(1, "00000000-0000-4000-8000-000000000000") + field(2, b"csr") + field(3, b"k" * 32) +
               field(4, "m9") + field(6, b"p" * 32))
    for _ in range(tries):
        status, said = stranger.call("Enrolment/Enrol", request)
        assert status not in ("OK", "UNAVAILABLE"), (status, said)
    lab.controller.stop()  # what was counted is told at the latest now
    lab.start_controller()
    out = lab.cli("audit", "list", "--json", check=False)[1]
    entries, at, decoder = [], 0, json.JSONDecoder()
    while at < len(out.strip()):
        entry, at = decoder.raw_decode(out, at)
        entries.append(entry)
        at += len(out[at:]) - len(out[at:].lstrip())
    own = [e for e in entries if e["log"] == "controller"]
    # Calls without a certificate, of the tests above, count against the same address.
    written = [e for e in own if e["what"] == "enrol.refused" or "needs a client certificate" in e["text"]]
    more = [e for e in own if e["what"] == "refused.more" and "127.0.0.1" in e["text"]]
    assert 0 < len(written) <= 20, len(written)
    counted = sum(int(e["text"].split()[0]) for e in more)
    assert len(written) + counted >= tries, (len(written), counted)
    assert lab.cli("audit", "verify", json=False, check=False)[0] == 0
    print(f"{tries} refusals: {len(written)} entries, and '{more[-1]['text']}'", flush=True)


def main():
    with Lab() as lab:
        lab.up()
        admin = Client(lab, lab.profile)
        who_may_call_what(lab, admin)
        names_and_texts(lab, admin)
        values_nobody_knows(lab, admin)
        lengths_that_lie(lab, admin)
        a_stranger_all_day(lab)


main()
