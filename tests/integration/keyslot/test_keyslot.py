#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Escrow keyslots on this host. What a dry run says of a fleet; a volume opened by crypttab's key file, one by a
passphrase typed on a terminal; then helper, agent, controller and keeper are killed while an order is at each of its
steps: old keys open all the time, and nothing half done is left, neither in the header nor in the keystore.
SEALPOINT_LONG: 200 kills instead of some."""
import json
import os
import pathlib
import random
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from rig import STEPS, Host, Lab, Volume, binary, kill, tool  # noqa: E402

PARTIES = ("helper", "agent", "controller", "keeper")


def command(lab, *arguments):
    return [str(binary("sealpoint")), "--profile", str(lab.profile), "key", "enrol", *map(str, arguments), "--json"]


def enrol(lab, *arguments):
    done = subprocess.run(command(lab, *arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    assert done.stdout.strip(), done
    answer = json.loads(done.stdout)
    return answer["outcome"].removeprefix("KEYSLOT_OUTCOME_"), answer


def dry_run(lab):
    """Outcome by volume, of the fleet."""
    done = subprocess.run(command(lab, "--all", "--dry-run"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done
    return {a["volume_id"]: (a["outcome"].removeprefix("KEYSLOT_OUTCOME_"), a["text"])
            for a in json.loads(done.stdout)["volumes"]}


def records(lab, volume):
    """State of the volume's escrow keyslot records by id."""
    return {r["record_id"]: r["state"].removeprefix("RECORD_STATE_")
            for r in lab.cli("key", "list", "host", "--all")["records"]
            if r["volume_id"] == volume.id and r["version"] == "escrow-keyslot"}


def is_enrolled(lab, volume):
    """One token, which names the one keyslot that is new and the one record that is pending."""
    metadata, (token,) = volume.metadata(), volume.tokens()
    assert token["keyslots"] == [token["keyslot"]] and set(metadata["keyslots"]) == {"0", token["keyslot"]}, metadata
    kdf = metadata["keyslots"][token["keyslot"]]["kdf"]
    assert (kdf["type"], kdf["iterations"]) == ("pbkdf2", 1000), kdf
    pending = [r for r, state in records(lab, volume).items() if state == "PENDING"]
    assert pending == [token["record"]], (pending, token)


def a_fleet(lab, host, with_file, typed, old):
    said = dry_run(lab)
    assert said[with_file.id] == ("WOULD_ENROL", f"by crypttab's key file {with_file.key}"), said
    assert said[typed.id][0] == "NEEDS_PASSPHRASE" and said[old.id][0] == "NOT_SUPPORTED", said
    assert "LUKS1" in said[old.id][1], said
    assert not with_file.tokens() and not records(lab, with_file), "a dry run did something"

    outcome, answer = enrol(lab, "host", with_file.loop, "--why", "the passphrase changes hands")
    assert outcome == "ENROLLED" and answer["record"]["note"] == "the passphrase changes hands", answer
    is_enrolled(lab, with_file)
    assert with_file.opens()
    saved = host.state / "keyslots" / f"{with_file.uuid}.header"
    assert saved.stat().st_mode & 0o077 == 0
    tool("cryptsetup", "open", "--test-passphrase", "--header", saved, "--key-file", with_file.key, with_file.loop)
    assert enrol(lab, "host", with_file.loop)[0] == "ALREADY"
    is_enrolled(lab, with_file)
    assert enrol(lab, "host", old.loop)[0] == "NOT_SUPPORTED"


def typed_by_a_person(lab, host, typed):
    status, shown = host.type([])
    assert status == 1 and "no order waits" in shown, shown
    assert enrol(lab, "host", typed.loop)[0] == "NEEDS_PASSPHRASE"
    assert enrol(lab, "host", typed.loop)[0] == "NEEDS_PASSPHRASE" and len(records(lab, typed)) == 1
    status, shown = host.type(["wrong"] * 3, typed.loop)
    assert status == 1 and "no keyslot" in shown and "wrong" not in shown, shown
    assert not typed.tokens()
    status, shown = host.type(["nonsense", "correct horse"], typed.id)
    assert status == 0 and "horse" not in shown, shown
    is_enrolled(lab, typed)
    assert typed.opens() and host.left_over() == []
    assert enrol(lab, "host", typed.loop)[0] == "ALREADY"
    # A header that somebody changed meanwhile is not the one that the order is for.
    typed.reset()
    assert enrol(lab, "host", typed.loop)[0] == "NEEDS_PASSPHRASE"
    tool("cryptsetup", "config", typed.loop, "--label", "changed")
    status, shown = host.type(["correct horse"])
    assert status == 1 and "has changed" in shown and not typed.tokens(), shown
    assert host.left_over() == []


def not_without_leave(lab, host, volume):
    host.agent.stop()
    lab.wait_for("the agent to be gone", lambda: not host.connected(), every=0.05)
    assert dry_run(lab)[volume.id][0] == "NOT_CONNECTED"
    host.allowed = False
    host.start_agent()
    lab.wait_for("the agent", host.connected, every=0.05)
    said = dry_run(lab)[volume.id]
    assert said[0] == "NOT_ALLOWED" and "agent.conf" in said[1], said
    host.agent.stop()
    host.allowed = True
    host.start_agent()
    lab.wait_for("the agent", host.connected, every=0.05)


# ── Kills ──

def settled(lab, host, volume):
    """Nothing half done: no order under way, every token with its keyslot, no pending record without a token."""
    if host.left_over() or not host.connected():
        return False
    tokens, keyslots = volume.tokens(), volume.metadata()["keyslots"]
    if any(t["keyslots"] != [t["keyslot"]] or t["keyslot"] not in keyslots for t in tokens):
        return False
    if set(keyslots) != {"0"} | {t["keyslot"] for t in tokens}:
        return False
    return {t["record"] for t in tokens} == {r for r, s in records(lab, volume).items() if s == "PENDING"}


def kill_party(lab, host, party):
    if party == "agent":
        kill(host.agent)
    elif party == "controller":
        lab.kill_controller()
    else:
        lab.kill_keeper()


def start_party(lab, host, party):
    if party == "agent":
        host.start_agent()
    elif party == "controller":
        lab.start_controller()
    else:
        lab.start_keeper()


def cut_short(lab, host, volume, step, party):
    volume.reset()
    assert enrol(lab, "host", volume.id, "--dry-run")[0] == "WOULD_ENROL", (step, party)  # takes the last one back
    host.stop_at(step, "kill" if party == "helper" else "wait")
    p = subprocess.Popen(command(lab, "host", volume.id), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    if party != "helper":
        lab.wait_for(f"step {step}", host.reached, every=0.01)
        assert volume.opens(), (step, party)
        kill_party(lab, host, party)
        host.go()
        start_party(lab, host, party)
    p.communicate(timeout=300)
    assert volume.opens(), (step, party)
    try:
        lab.wait_for("what was half done to be settled", lambda: settled(lab, host, volume), every=0.4)
    except Exception:
        print(step, party, host.left_over(), volume.tokens(), records(lab, volume), file=sys.stderr)
        raise
    lab.wait_for("the agent", host.connected, every=0.05)
    outcome, answer = enrol(lab, "host", volume.id)
    assert outcome in ("ENROLLED", "ALREADY"), (step, party, answer)
    is_enrolled(lab, volume)
    assert volume.opens(), (step, party)


def kills(lab, host, volume):
    if os.environ.get("SEALPOINT_CUTS"):  # "added:agent token:keeper"
        cuts = [tuple(c.split(":")) for c in os.environ["SEALPOINT_CUTS"].split()]
    elif os.environ.get("SEALPOINT_LONG"):
        cuts = [(s, p) for _ in range(5) for s in STEPS for p in PARTIES]
    else:
        # Where something is in the header at the helper's end, and one place for each of the others.
        cuts = [("added", "helper"), (random.choice(STEPS), "agent"), (random.choice(STEPS), "controller"),
                (random.choice(STEPS), "keeper")]
    for step, party in cuts:
        cut_short(lab, host, volume, step, party)
        print(f"killed {party} at {step}", flush=True)


def main():
    with Lab() as lab:
        lab.up()
        host = Host(lab).enrol()
        volumes = []
        try:
            volumes += [Volume(lab.path, "file", "luks2", b"\x00a key file\xff" * 9),
                        Volume(lab.path, "typed", "luks2", b"correct horse"),
                        Volume(lab.path, "old", "luks1", b"battery staple")]
            with_file, typed, old = volumes
            host.crypttab.write_text(f"# name device key options\nother UUID={typed.uuid} none\n"
                                     f"data UUID={with_file.uuid} {with_file.key} luks\n")
            host.start_helper()
            host.start_agent()
            host.wait_for_volumes(*volumes)
            if not os.environ.get("SEALPOINT_CUTS"):
                a_fleet(lab, host, with_file, typed, old)
                typed_by_a_person(lab, host, typed)
                not_without_leave(lab, host, with_file)
            kills(lab, host, with_file)
        except BaseException:
            for p in (host.agent, host.helper):
                if p:
                    print(p.tail(), file=sys.stderr)
            raise
        finally:
            host.close()
            for v in volumes:
                v.close()


main()
