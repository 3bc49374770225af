#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Active Directory as a provider, a real domain controller and a real BitLocker volume: what 'escrow test' says of
each thing that can be wrong, what a backup says of absent, denied and unreachable, and a recovery password that is only
in AD, proved, mirrored, and still there when AD is not."""
import json
import lzma
import os
import pathlib
import re
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
import escrow  # noqa: E402
from domain import UNIT, Domain, own_network  # noqa: E402
from escrow import (escrow_test, mirrored, nothing_is_left, reasons, restart_keeper, run,  # noqa: E402
                    time_used, unproven, verify)
from idle import IdleMachine  # noqa: E402
from lab import Lab  # noqa: E402

SOURCE = pathlib.Path(os.environ.get("SEALPOINT_SOURCE") or pathlib.Path(__file__).resolve().parents[3])
CORPUS = pathlib.Path(os.environ.get("SEALPOINT_CORPUS") or SOURCE.parent / "shared" / "corpus")
IMAGE = "bitlk-aes-xts-128.img.xz"
LONG = bool(os.environ.get("SEALPOINT_LONG"))  # each of these restarts the keeper
CANARY = "01234567-89ab-cdef-0123-456789abcdef"
WRONG = "-".join(["111111"] * 8)
USERS = {"reader": ("Passw0rd-reader", "GA"), "peeker": ("Passw0rd-peeker", "RPLCLORC"),
         "nobody": ("Passw0rd-nobody", "")}


def secret_of_image():
    for line in (CORPUS / "MANIFEST.tsv").read_text().splitlines():
        if line.startswith(IMAGE + "\t"):
            return re.search(r"recovery\[([0-9a-f-]+)\]=([0-9-]+)", line).groups()
    raise LookupError(IMAGE)


def section(lab, domain, name, **changes):
    """One provider's section of keeper.conf."""
    user = changes.pop("user", "reader")
    password = lab.path / f"password-{name}-{user}"
    password.write_text(changes.pop("password", USERS[user][0]) + "\n")
    password.chmod(0o600)
    settings = {"url": "ldaps://127.0.0.1", "ca_file": domain.ca, "base": UNIT, "bind_dn": f"{user}@lab.example",
                "password_file": password, "canary": CANARY, "timeout": "5s", **changes}
    return escrow.section("active-directory", name, settings)


def everything_that_can_be_wrong(lab, domain):
    """Each failure is found at its stage, and the sentence tells what to do."""
    other_ca = lab.path / "other-ca.pem"
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", other_ca)
    reader_dn = f"CN=reader,CN=Users,{UNIT.partition(',')[2]}"
    cases = {
        "corp": ({}, None, None),
        "starttls": ({"url": "ldap://127.0.0.1", "bind_dn": reader_dn}, None, None),
        "down": ({"url": "ldaps://127.0.0.1:1"}, "connection", "nothing listens on 127.0.0.1 port 1"),
        "noname": ({"url": "ldaps://dc9.lab.example"}, "connection", "cannot be resolved"),
        "ca": ({"ca_file": other_ca}, "TLS", "signed by a CA of ca_file"),
        "host": ({"url": "ldaps://localhost"}, "TLS", "must be for the host"),
        "plain": ({"url": "ldaps://127.0.0.1:389"}, "TLS", "no trusted TLS"),
        "password": ({"password": "not it"}, "log-on", "user or password is wrong"),
        "nofile": ({"password_file": lab.path / "missing"}, "log-on", "cannot open the password file"),
        "base": ({"base": "OU=Elsewhere,DC=lab,DC=example"}, "permission", "check 'base'"),
        "blind": ({"user": "nobody"}, "permission", "the canary"),
        "nocanary": ({"canary": None}, "permission", "set canary to the GUID"),
        "peek": ({"user": "peeker"}, "canary", "but not its password"),
    }
    if not LONG:
        for name in ("noname", "host", "plain", "nofile", "nocanary"):
            del cases[name]
    restart_keeper(lab, *(section(lab, domain, name, **changes) for name, (changes, _, _) in cases.items()))
    for name, (_, stage, says) in cases.items():
        escrow_test(lab, name, stage, says, never=[USERS["reader"][0]])
    status, out, _ = lab.cli("escrow", "test", "peek", "--json", check=False, json=False)
    answer = json.loads(out)
    assert status == 3 and not answer["good"], answer
    assert [s["stage"] for s in answer["steps"]][-1] == "PROVIDER_STAGE_CANARY" and len(answer["steps"]) == 5
    listed = {p["name"]: p for p in lab.cli("escrow", "list")["providers"]}
    assert set(listed) == set(cases) and listed["corp"]["type"] == "active-directory" and listed["corp"]["mirror"]
    assert run(lab, "escrow", "test", "other")[0] == 1


def answers_are_kept_apart(lab, domain):
    """The same volume, whose key AD does not have (yet)."""
    restart_keeper(lab, section(lab, domain, "corp"))
    job = json.loads(lab.cli("backup", "idle1", "--no-agent", "--json", check=False)[1])
    assert job["state"] == "POINT_STATE_INVALID" and "REASON_ESCROW_MISSING" in reasons(job), job
    down = section(lab, domain, "down", url="ldaps://127.0.0.1:1")
    cases = [("DENIED", "corp: the canary", [section(lab, domain, "corp", user="nobody")])]
    if LONG:
        cases += [("UNREACHABLE", "down: nothing listens", [section(lab, domain, "corp"), down]),
                  ("DENIED", "but not its password", [section(lab, domain, "corp", user="peeker")]),
                  ("DENIED", "corp: no canary", [section(lab, domain, "corp", canary=None), down])]
    for reason, says, sections in cases:
        restart_keeper(lab, *sections)
        unproven(lab, job["point_id"], reason, says)
    return job["point_id"]


def a_key_of_ad_is_mirrored(lab, domain, point, guid, password):
    """Two objects of one protector, one of them wrong: both are candidates."""
    domain.fill(["recovery", UNIT, "IDLE1", guid, WRONG, "2026-01-01T00:00:00-00:00"],
                ["recovery", UNIT, "IDLE1", guid, password, "2026-02-01T00:00:00-00:00"])
    if LONG:
        restart_keeper(lab, section(lab, domain, "corp", mirror="no"))
        mercy = verify(lab, point)
        assert mercy["state"] == "POINT_STATE_UNPROVEN" and "REASON_ESCROW_NOT_PINNABLE" in reasons(mercy), mercy
        assert "at the provider's mercy" in run(lab, "key", "list")[1]
    restart_keeper(lab, section(lab, domain, "corp"))
    good = verify(lab, point)
    assert good["state"] == "POINT_STATE_VALID", good
    k = mirrored(lab, "corp")
    assert k["protector_id"] == guid and f"CN=IDLE1,{UNIT}" in k["note"] and guid.upper() in k["note"], k


def ad_may_go(lab, domain, point):
    """What was mirrored does not need it any more, and nothing of the key is where it must not be."""
    domain.stop()
    again = verify(lab, point)
    assert again["state"] == "POINT_STATE_VALID", again
    assert lab.cli("keystore", "check").get("problems", []) == []


def main():
    if not (CORPUS / IMAGE).exists():
        print(f"no {IMAGE} in {CORPUS}: set SEALPOINT_CORPUS")
        sys.exit(77)
    own_network()
    guid, password = secret_of_image()
    with Lab() as lab:
        image = lab.path / "bitlocker.raw"
        with lzma.open(CORPUS / IMAGE) as packed, open(image, "wb") as raw:
            while block := packed.read(1 << 20):
                raw.seek(len(block), 1) if not block.strip(b"\0") else raw.write(block)
            raw.truncate()
        domain = Domain(lab.path / "dc").make()
        domain.fill(["begin", UNIT, USERS], ["computer", UNIT, "IDLE1"], ["computer", UNIT, "CANARY"],
                    ["recovery", UNIT, "CANARY", CANARY, WRONG, "2026-01-01T00:00:00-00:00"])
        time_used("domain made")
        domain.start()
        try:
            lab.up()
            time_used("lab up")
            everything_that_can_be_wrong(lab, domain)
            time_used("escrow test")
            with IdleMachine(lab.path / "idle1", {"bitlocker": image}) as machine:
                machine.start()
                lab.cli("machine", "add", "idle1")
                lab.cli("vault", "add", "main", "--dir", lab.vault)
                lab.cli("machine", "set-source", "idle1", "--qmp", machine.qmp_source, "--vault", "main")
                point = answers_are_kept_apart(lab, domain)
            time_used("answers")
            a_key_of_ad_is_mirrored(lab, domain, point, guid, password)
            ad_may_go(lab, domain, point)
            time_used("mirror")
            nothing_is_left(lab, password, USERS["reader"][0], USERS["peeker"][0],
                            but=lambda path: path.name.startswith("password-"))
        finally:
            domain.stop()


main()
