#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real KMIP server (PyKMIP) as a provider, and a LUKS2 volume: what 'escrow test' says of each thing that can be
wrong, the canary that it makes, what a backup says of absent, denied, expired and unreachable, and a passphrase that is
only at the server, proved, mirrored, and still there when the server has destroyed it."""
import json
import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
import escrow  # noqa: E402
from escrow import (escrow_test, mirrored, nothing_is_left, reasons, restart_keeper, run,  # noqa: E402
                    time_used, unproven, verify)
from idle import IdleMachine, make_images, tool, volume_id  # noqa: E402
from key_server import KmipServer  # noqa: E402
from lab import Lab, free_port  # noqa: E402

LONG = bool(os.environ.get("SEALPOINT_LONG"))  # each of these restarts the keeper
CANARY = "sealpoint-canary"


def section(server, name, who="keeper", **changes):
    """One provider's section of keeper.conf."""
    return escrow.section("kmip", name, {
        "host": "127.0.0.1", "port": server.port, "ca_file": server.certificate("ca"),
        "certificate_file": server.certificate(who), "key_file": server.key(who), "canary": CANARY, "timeout": "5s",
        **changes})


def everything_that_can_be_wrong(lab, server):
    """Each failure is found at its stage, and the sentence tells what to do."""
    server.make_certificate("bare", "basicConstraints=CA:FALSE")
    if LONG:
        server.make_certificate("nouse", "extendedKeyUsage=serverAuth")
        server.make_certificate("expired", "extendedKeyUsage=clientAuth", days=0)
    server.make_ca("strange")
    server.make_certificate("stranger", "extendedKeyUsage=clientAuth", ca="strange")
    server.key("keeper").with_name("open.key").write_text(server.key("keeper").read_text())
    state = {name: server.do(["register", "secret", f"canary-{name}", "00"])[0] for name in ("late", "early")}
    server.do(["activate", state["late"]], ["deactivate", state["late"]])
    cases = {
        "hsm": ({}, None, None),
        "down": ({"port": 1}, "connection", "nothing listens on 127.0.0.1 port 1"),
        "ca": ({"ca_file": server.certificate("strange")}, "TLS", "signed by a CA of ca_file"),
        "host": ({"host": "localhost"}, "TLS", "must be for 'host'"),
        "stranger": ({"who": "stranger"}, "log-on", "refuses the client certificate"),
        "expired": ({"who": "expired"}, "log-on", "refuses the client certificate"),
        "bare": ({"who": "bare"}, "log-on", "extended key usage clientAuth"),
        "nouse": ({"who": "nouse"}, "log-on", ""),
        "nokey": ({"key_file": lab.path / "missing"}, "TLS", "cannot open the private key file"),
        "openkey": ({"key_file": server.folder / "open.key"}, "TLS", "make its mode 0600"),
        "wrongkey": ({"key_file": server.key("server")}, "TLS", "is not that of certificate_file"),
        "nokeyin": ({"certificate_file": server.key("keeper")}, "TLS", "cannot read a certificate"),
        "blind": ({"who": "other"}, "permission", "is not shown"),
        "nocanary": ({"canary": None}, "permission", "set canary to the Name"),
        "early": ({"canary": "canary-early"}, "canary", f"object {state['early']} is Pre-Active: activate it"),
        "late": ({"canary": "canary-late"}, "canary", f"object {state['late']} is Deactivated"),
    }
    if not LONG:
        for name in ("down", "ca", "host", "expired", "nouse", "nokey", "openkey", "nokeyin", "nocanary", "early"):
            del cases[name]
    restart_keeper(lab, *(section(server, name, **changes) for name, (changes, _, _) in cases.items()))
    escrow_test(lab, "hsm", "permission", "'sealpoint escrow test --make-canary' makes it")
    for _ in range(2 if LONG else 1):  # one that is there stays
        status, said = run(lab, "escrow", "test", "hsm", "--make-canary")
        assert status == 0 and said.count(" ok") == 5, said
    for name, (_, stage, says) in cases.items():
        escrow_test(lab, name, stage, says)
    listed = {p["name"]: p for p in lab.cli("escrow", "list")["providers"]}
    assert set(listed) == set(cases) and listed["hsm"]["type"] == "kmip" and listed["hsm"]["mirror"]


def answers_are_kept_apart(lab, server, volume, secret):
    """The same volume, whose key the server does not have, or not as a key that counts. Its point, and the object."""
    hsm = section(server, "hsm", value="lab/{machine}/{uuid}")
    restart_keeper(lab, hsm)
    job = json.loads(lab.cli("backup", "idle1", "--no-agent", "--json", check=False)[1])
    assert job["state"] == "POINT_STATE_INVALID" and "REASON_ESCROW_MISSING" in reasons(job), job
    point = job["point_id"]
    name = f"lab/idle1/{volume.partition(':')[2]}"
    object_id = server.do(["register", "secret", name, secret.encode().hex()])[0]
    unproven(lab, point, "EXPIRED", f"object {object_id} is Pre-Active")
    cases = [("DENIED", "the canary", section(server, "hsm", who="other", value="lab/{machine}/{uuid}"))]
    if LONG:
        compromised = server.do(["register", "secret", name + "-old", secret.encode().hex()])[0]
        server.do(["activate", compromised], ["compromise", compromised])
        cases += [("EXPIRED", f"object {compromised} is Compromised",
                   section(server, "hsm", value="lab/{machine}/{uuid}-old")),
                  ("UNREACHABLE", "nothing listens", section(server, "hsm", port=1)),
                  ("DENIED", "refuses the client certificate", section(server, "hsm", who="stranger")),
                  ("DENIED", "no canary is configured", section(server, "hsm", canary=None))]
    for reason, says, one in cases:
        restart_keeper(lab, one)
        unproven(lab, point, reason, says)
    restart_keeper(lab, hsm)
    return point, object_id


def other_objects_are_other_keys(lab, server, point, volume, image, key_file):
    """The same volume by its volume key, a Symmetric Key, and by the key file as an Opaque Object."""
    dumped = lab.path / "volume-key"
    tool("cryptsetup", "-q", "luksDump", "--dump-volume-key", "--volume-key-file", dumped, "--key-file", key_file, image)
    objects = {"key": (dumped.read_bytes(), "SECRET_TYPE_VOLUME_KEY"),
               "opaque": (key_file.read_bytes(), "SECRET_TYPE_KEY_FILE")}
    dumped.unlink()
    for kind, (key, secret_type) in objects.items():
        object_id = server.do(["register", kind, f"{kind} {volume}", key.hex()])[0]
        if kind == "key":
            server.do(["activate", object_id])
        restart_keeper(lab, section(server, kind, value=f"{kind} {{volume}}", mirror="no"))
        mercy = verify(lab, point)
        assert mercy["state"] == "POINT_STATE_UNPROVEN" and "REASON_ESCROW_NOT_PINNABLE" in reasons(mercy), mercy
        record = [k for k in lab.cli("key", "list")["records"] if k["provider"] == kind][0]
        assert record["secret_type"] == secret_type and record["version"] == object_id, record
        print(f"{kind}: opens as {secret_type}", flush=True)


def a_key_of_the_server_is_mirrored(lab, server, point, object_id):
    server.do(["activate", object_id])
    if LONG:
        restart_keeper(lab, section(server, "hsm", value="lab/{machine}/{uuid}"))
    good = verify(lab, point)
    assert good["state"] == "POINT_STATE_VALID", good
    k = mirrored(lab, "hsm")
    assert k["version"] == object_id and k["note"] == f"object {object_id} at 127.0.0.1", k
    assert k["secret_type"] == "SECRET_TYPE_PASSPHRASE", k


def the_object_may_go(lab, server, point, object_id):
    """What was mirrored needs neither the object nor the server any more."""
    server.do(["deactivate", object_id], ["destroy", object_id])
    assert verify(lab, point)["state"] == "POINT_STATE_VALID"
    server.stop()
    assert verify(lab, point)["state"] == "POINT_STATE_VALID"
    assert lab.cli("keystore", "check").get("problems", []) == []


def main():
    with Lab() as lab:
        images, keys = make_images(lab.path / "images")
        secret, volume = keys["luks2"].read_text(), volume_id(images["luks2"])
        server = KmipServer(lab.path / "kmip", free_port()).make("keeper", "other").start()
        time_used("server")
        try:
            lab.up()
            time_used("lab up")
            everything_that_can_be_wrong(lab, server)
            time_used("escrow test")
            with IdleMachine(lab.path / "idle1", {"luks2": images["luks2"]}) as machine:
                machine.start()
                lab.cli("machine", "add", "idle1")
                lab.cli("vault", "add", "main", "--dir", lab.vault)
                lab.cli("machine", "set-source", "idle1", "--qmp", machine.qmp_source, "--vault", "main")
                point, object_id = answers_are_kept_apart(lab, server, volume, secret)
            time_used("answers")
            if LONG:
                other_objects_are_other_keys(lab, server, point, volume, images["luks2"], keys["luks2"])
            a_key_of_the_server_is_mirrored(lab, server, point, object_id)
            the_object_may_go(lab, server, point, object_id)
            time_used("mirror")
            key = re.sub(r"-----.*?-----", "", server.key("keeper").read_text()).split()[0]
            nothing_is_left(lab, secret, key,
                            but=lambda path: server.folder in path.parents or path == keys["luks2"])
        finally:
            server.stop()


main()
