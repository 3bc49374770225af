#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keystore over the command line and over disasters, with a machine without a guest: a key rollover and what the
old key still opens, an old keystore put back in place of a newer one, and at last the host that burned: everything
but the vault and the recovery kit is deleted, and every point restores and unlocks again."""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from idle import IdleMachine, make_images, volume_id  # noqa: E402
from lab import Lab, binary  # noqa: E402

IMAGES = ("luks2", "luks1")


def sha(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else \
            hashlib.sha256(f.read()).hexdigest()


def refused(lab, *words, status, text):
    done = lab.cli(*words, json=False, check=False)
    assert done[0] == status and text in done[1] + done[2], (words, done)


def records(lab):
    return {k["volume_id"]: k for k in lab.cli("key", "list", "idle1")["records"]}


def backup(lab):
    """The point of a backup that must be valid."""
    status, out, err = lab.cli("backup", "idle1", "--no-agent", "--json", check=False)
    assert status == 0, (status, out, err, lab.logs())
    listed = lab.cli("point", "list", "idle1", json=False)
    status, out, err = lab.cli("point", "list", "idle1", "--json", check=False)
    decoder, at, found = json.JSONDecoder(), 0, []
    out = out.strip()
    while at < len(out):
        one, at = decoder.raw_decode(out, at)
        found += one.get("points", [one])
        while at < len(out) and out[at].isspace():
            at += 1
    assert all(p["state"] == "POINT_STATE_VALID" for p in found), listed
    return max(found, key=lambda p: p.get("created_unix_ms", p.get("taken_unix_ms", 0)))["point_id"]


def life(lab, point, images):
    """What the old key still opens; what may not be destroyed."""
    old = records(lab)[volume_id(images["luks2"])]["record_id"]
    refused(lab, "key", "destroy", old[:8], "--why", "tidy up", status=1, text="kept points rest on")
    shown = lab.cli("key", "compromise", old, "--why", "copied by a contractor")
    assert shown["record"]["state"] == "RECORD_STATE_COMPROMISED", shown
    assert [p["point_id"] for p in shown["points"] if p.get("proved")] == [point], shown
    assert shown["points"][0]["machine_name"] == "idle1" and len(shown["volumes"]) == 1, shown
    assert lab.cli("key", "show", old[:8])["history"][-1]["why"] == "copied by a contractor"
    # Another key that nothing rests on: the first command starts the waiting time.
    spare = lab.path / "spare"
    spare.write_text("never used anywhere")
    spare.chmod(0o600)
    lab.cli("key", "import", "idle1", "luks:00000000-0000-4000-8000-000000000000", "--passphrase-file", spare,
            json=False)
    unused = records(lab)["luks:00000000-0000-4000-8000-000000000000"]["record_id"]
    for _ in range(2):
        asked = lab.cli("key", "destroy", unused, "--why", "a mistake")
        assert int(asked["destruction"]["not_before_unix_ms"]) > int(asked["destruction"]["asked_unix_ms"]), asked
    lab.cli("key", "destroy", unused, "--withdraw", json=False)
    print("states, exposure, destruction", flush=True)


def keks(lab):
    """One more KEK; the first one goes; the keeper opens by the new one alone."""
    key_file = lab.path / "key-file"
    key_file.write_bytes(os.urandom(48))
    key_file.chmod(0o600)
    conf = lab.keeper_conf.read_text()
    lab.keeper.stop()
    lab.start_keeper("-o", f"kek.key_file={key_file}")
    assert int(lab.cli("kek", "add", "key-file")["deks"]) > 4
    first = next(k["kek_id"] for k in lab.cli("kek", "list")["keks"] if k["kind"] == "scrypt")
    lab.cli("kek", "remove", first, json=False)
    lab.keeper.stop()
    lab.keeper_conf.write_text(conf.split("[kek]")[0] + f"[kek]\nkey_file = {key_file}\n")
    lab.start_keeper()
    checked = lab.cli("keystore", "check")
    assert int(checked["secrets"]) >= 6 and not checked.get("problems"), checked
    # A new kit; the old one is paper from now on.
    kit = lab.cli("kek", "add", "recovery-kit", json=False).strip()
    assert kit.startswith("sealpoint-kit-1:") and kit != lab.kit, kit
    lab.kit = kit
    print("a second KEK, the first one gone, a new recovery kit", flush=True)


def old_keystore(lab):
    """The keeper's disk comes back from last week's backup of the host."""
    lab.keeper.stop()
    aside = lab.path / "last-week"
    shutil.copytree(lab.keeper_state, aside)
    lab.start_keeper()
    backup(lab)
    lab.keeper.stop()
    shutil.rmtree(lab.keeper_state)
    shutil.copytree(aside, lab.keeper_state)
    lab.start_keeper()
    lab.controller.stop()
    lab.start_controller()
    status = lab.cli("status", json=False)
    assert "older copy" in status, status
    unused = records(lab)["luks:00000000-0000-4000-8000-000000000000"]["record_id"]
    refused(lab, "key", "destroy", unused, "--why", "x", status=1, text="keystore reconcile")
    done = lab.cli("keystore", "reconcile")
    assert done["was_needed"] and int(done["manifests"]) == 2 and int(done["pins_added"]) == 2, done
    assert "older copy" not in lab.cli("status", json=False)
    lab.cli("key", "destroy", unused, "--why", "x")
    print("an old keystore is noticed, destroys nothing, and is reconciled", flush=True)


def export(lab):
    """On another machine the file and the kit make the same keystore."""
    file, kit = lab.path / "export", lab.path / "kit-for-import"
    lab.cli("keystore", "export", file, json=False)
    refused(lab, "keystore", "export", file, status=1, text="exists")
    kit.write_text(lab.kit + "\n")
    state, conf = lab.path / "second", lab.path / "second.conf"
    conf.write_text(lab.keeper_conf.read_text().replace(str(lab.keeper_state), str(state)))
    command = [binary("sealpoint-keeper"), "--config", conf, "--import", file, "--recovery-kit", kit]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    again = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert again.returncode == 1 and "already" in again.stderr, again

    def rows(folder):
        sql = ("select record_id, generation, state, hex(ciphertext) from records order by 1;"
               "select point_id, record_id from pins order by 1, 2;"
               "select record_id, number, state, who, why from states order by 1, 2;"
               "select count(*) from audit where number <= 20;")
        return subprocess.run(["sqlite3", f"file:{folder}/keystore.db?mode=ro", sql], check=True,
                              stdout=subprocess.PIPE, text=True).stdout
    assert rows(state) == rows(lab.keeper_state)
    kit.unlink()
    shutil.rmtree(state)
    print("export and import: every generation, state, pin and audit entry", flush=True)


def burn_and_return(lab, points, images, keys):
    kit = lab.path / "kit"
    kit.write_text(lab.kit + "\n")
    kit.chmod(0o600)
    lab.controller.stop()
    lab.keeper.stop()
    key_file = lab.path / "key-file"
    for folder in (lab.keeper_state, lab.state, lab.profile, lab.fleece):
        shutil.rmtree(folder)
    for file in (key_file, lab.path / "kek", lab.path / "export"):
        file.unlink(missing_ok=True)
    for path in keys.values():
        path.unlink()
    # A new host: other KEK, empty folders.
    for folder in (lab.keeper_state, lab.state, lab.fleece):
        folder.mkdir(mode=0o700)
    key_file.write_bytes(os.urandom(48))
    key_file.chmod(0o600)
    lab.start_keeper()
    environment = dict(os.environ, PATH=f"{pathlib.Path(binary('sealpointd')).parent}:{os.environ['PATH']}")

    def attach(kit_file):
        return subprocess.run(
            [binary("sealpoint"), "--profile", lab.profile, "vault", "attach", lab.vault, "--recovery-kit", kit_file,
             "--user", "admin", "--name", "ctl", "--host", "127.0.0.1", "--config", lab.controller_conf],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    wrong = lab.path / "wrong-kit"
    wrong.write_text("sealpoint-kit-1:" + "A" * 43 + "\n")
    done = attach(wrong)
    assert done.returncode == 1 and "recovery kit" in done.stderr, done
    done = attach(kit)
    assert done.returncode == 0 and "CA fingerprint: " + lab.ca_fingerprint in done.stdout, done
    kit.unlink()
    lab.start_controller()

    listed = lab.cli("point", "list", json=False)
    assert all(p[:8] in listed for p in points) and "valid" in listed, listed
    status = lab.cli("status", json=False)
    assert "restored from a copy" in status, status
    lab.cli("keystore", "reconcile", json=False)
    checked = lab.cli("keystore", "check")
    assert not checked.get("problems") and int(checked["pins"]) >= 2 * len(points), checked
    for number, point in enumerate(points):
        to, released = lab.path / f"restored-{number}", lab.path / f"released-{number}"
        lab.cli("point", "restore", point, "--to", to, "--format", "raw", json=False)
        lab.cli("key", "release", point, "--to", released, "--why", "the host burned", json=False)
        for name in IMAGES:
            image = next(f for f in to.rglob("*") if f.is_file() and f"disk-{name}" in f.name)
            assert sha(image) == sha(images[name]), f"{name} of {point} is not what it was"
            key = released / (volume_id(image).replace(":", "_") + ".key")
            subprocess.run(["cryptsetup", "open", "--test-passphrase", "--key-file", key, image], check=True,
                           stdin=subprocess.DEVNULL)
    status, out, err = lab.cli("point", "verify", points[0], json=False, check=False)
    assert status == 0, out + err
    assert lab.cli("audit", "verify", json=False, check=False)[0] == 0
    print(f"vault and kit alone: {len(points)} points restored and unlocked", flush=True)


def main():
    with Lab() as lab:
        lab.up()
        images, keys = make_images(lab.path / "images")
        machine = IdleMachine(lab.path / "idle1", images)
        lab.guests.append(machine)
        machine.start()
        lab.cli("machine", "add", "idle1", json=False)
        lab.cli("vault", "add", "main", "--dir", lab.vault)
        lab.cli("machine", "set-source", "idle1", "--qmp", machine.qmp_source, "--vault", "main")
        for name in IMAGES:
            lab.cli("key", "import", "idle1", volume_id(images[name]), "--passphrase-file", keys[name])
        first = backup(lab)
        life(lab, first, images)
        keks(lab)
        old_keystore(lab)
        export(lab)
        third = backup(lab)
        points = sorted({first, third})
        burn_and_return(lab, points, images, keys)


main()
