#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Azure Key Vault as a provider, against the fake of tests/lab/keyvault.py: a real BitLocker volume that a .BEK opens and
a real LUKS volume that a passphrase as ADE makes them opens, both wrapped by a KEK that lies in a SoftHSM token. What
'escrow test' says of each thing that is missing, a bare BEK and what becomes of it, a rollover under a kept point, the
mirror, and the vault that is gone. First of all: that SoftHSM and openssl agree on RSA-OAEP."""
import base64
import json
import lzma
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
import escrow  # noqa: E402
from escrow import restart_keeper, verify  # noqa: E402
from idle import IdleMachine, make_images, tool, volume_id  # noqa: E402
from keyvault import FileKek, KeyVault, RIGHTS, TokenKek, run as run_tool  # noqa: E402
from lab import Lab  # noqa: E402

SOURCE = pathlib.Path(os.environ.get("SEALPOINT_SOURCE") or pathlib.Path(__file__).resolve().parents[3])
CORPUS = pathlib.Path(os.environ.get("SEALPOINT_CORPUS") or SOURCE.parent / "shared" / "corpus")
IMAGE = "bitlk-aes-xts-128-startup-key.img.xz"
BEK = "4381F759-C4F8-4DE0-BB61-FC33A831BDA5.BEK"
MODULES = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"]
PIN = "2468"
LONG = bool(os.environ.get("SEALPOINT_LONG"))  # keeper-azure sees every answer, with less around it


def make_token(folder):
    (folder / "tokens").mkdir(parents=True)
    conf = folder / "softhsm.conf"
    conf.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(conf)
    run_tool("softhsm2-util", "--init-token", "--free", "--label", "kek", "--pin", PIN, "--so-pin", PIN)
    module = next(m for m in MODULES if os.path.exists(m))
    return lambda number: TokenKek(module, "kek", PIN, number, folder)


def two_opinions_on_oaep(folder, token):
    """What openssl wraps for a key, SoftHSM unwraps, whether the key was made there or came from a file."""
    made, file = token("01").make(), FileKek(folder / "file.pem")
    run_tool("softhsm2-util", "--import", file.path, "--token", "kek", "--label", "file", "--id", "02", "--pin", PIN)
    bek = (CORPUS / BEK).read_bytes()
    for alg in ("RSA-OAEP", "RSA-OAEP-256"):
        assert made.unwrap(alg, made.wrap(alg, bek)) == bek
        wrapped = file.wrap(alg, bek)
        assert token("02").unwrap(alg, wrapped) == file.unwrap(alg, wrapped) == bek
    try:
        made.unwrap("RSA-OAEP", made.wrap("RSA-OAEP-256", bek))
    except RuntimeError:
        return made
    raise AssertionError("a block of the other hash was unwrapped")


def section(lab, vault, name, **changes):
    secret = lab.path / f"password-{name}"
    secret.write_text(changes.pop("secret", vault.client_secret) + "\n")
    secret.chmod(0o600)
    settings = {"url": vault.url, "ca_file": vault.ca, "login_url": vault.url, "tenant": vault.tenant,
                "client_id": vault.client, "secret_file": secret, "canary": "canary", "timeout": "15s", **changes}
    return escrow.section("azure-key-vault", name, settings)


def what_is_missing_is_named(lab, vault):
    client = {"tenant": None, "client_id": None, "secret_file": None}
    restart_keeper(lab, section(lab, vault, "corp"), section(lab, vault, "vm", metadata_url=vault.metadata_url, **client),
                   section(lab, vault, "wrong", secret="not it"), section(lab, vault, "stranger", client_id="other"))
    cases = [
        ("corp", {"throttle": 1}, None, None),
        ("vm", {}, None, None),
        ("wrong", {}, "log-on", "secret is wrong"),
        ("corp", {"rights": RIGHTS - {"secrets/list"}}, "permission", "lacks secrets/list"),
        ("corp", {"rights": RIGHTS - {"keys/unwrapKey"}, "rbac": True}, "canary",
         "role 'Key Vault Crypto Service Encryption User'"),
    ]
    more = [
        ("corp", {}, None, None),
        ("vm", {"identity": False}, "log-on", "no managed identity"),
        ("stranger", {}, "log-on", "no application of this client_id"),
        ("corp", {"rights": RIGHTS - {"secrets/get"}}, "canary", "lacks secrets/get"),
        ("corp", {"rights": RIGHTS - {"keys/unwrapKey"}}, "canary", "lacks keys/unwrapKey"),
        ("corp", {"rights": RIGHTS - {"secrets/get"}, "rbac": True}, "canary", "role 'Key Vault Secrets User'"),
        ("corp", {"firewall": True}, "permission", "network rules"),
    ]
    if LONG:
        cases += more
    for name, state, stage, says in cases:
        before = {k: getattr(vault, k) for k in state}
        for k, v in state.items():
            setattr(vault, k, v)
        status, out, err = lab.cli("escrow", "test", name, check=False)
        for k, v in before.items():
            setattr(vault, k, v)
        last = (out + err).strip().splitlines()[-1]
        if stage is None:
            assert status == 0 and (out + err).count(" ok") == 5, (name, state, status, out, err)
        else:
            assert status == 3 and last.startswith(stage) and says in last, (name, state, status, out, err)
        assert vault.client_secret not in out + err and vault.token not in out + err
        print(f"{name:9} {last}", flush=True)


def reasons(job):
    """What stands against it; that nothing held the machine still only lowers the grade."""
    found = {f["reason"] for f in job["findings"] if not f.get("note") and not f.get("allowed_by")}
    return found - {"REASON_AGENT_ABSENT"}


def records(lab, holding=None):
    found = lab.cli("key", "list", "--all")["records"]
    return [k for k in found if holding is None or k["holding"] == f"RECORD_HOLDING_{holding}"]


def put_all(vault, kek, bek, passphrase, wrapped=True):
    return {"win": vault.put_bek("win-1", bek, BEK, "IDLE1", kek, VolumeLetter="E:\\\\", VolumeLabel="Data"),
            "linux": vault.put_bek("linux-1", passphrase, "LinuxPassPhraseFileName_1_0", "IDLE1",
                                   kek if wrapped else None, "RSA-OAEP-256")}


def a_rollover_leaves_kept_points_alone(lab, vault, point, keks, bek, passphrase):
    """At the provider's mercy: a point rests on the very versions that it was proved with."""
    restart_keeper(lab, section(lab, vault, "corp", mirror="no"))
    old = put_all(vault, keks[0], bek, passphrase)
    mercy = verify(lab, point)
    assert mercy["state"] == "POINT_STATE_UNPROVEN" and reasons(mercy) == {"REASON_ESCROW_NOT_PINNABLE"}, mercy
    first = records(lab, "AT_PROVIDER")
    assert {k["note"] for k in first} == {f"{old['win']} wrapped by {keks[0]} with RSA-OAEP",
                                          f"{old['linux']} wrapped by {keks[0]} with RSA-OAEP-256"}, first
    assert {k["version"] for k in first} == {u.rsplit("/", 1)[1] for u in old.values()}, first
    new = put_all(vault, keks[1], bek, passphrase)
    vault.requests.clear()
    assert reasons(verify(lab, point)) == {"REASON_ESCROW_NOT_PINNABLE"}
    asked = " ".join(vault.requests)
    assert all(u[len(vault.url):] in asked for u in old.values()), asked
    assert not any(u[len(vault.url):] in asked for u in new.values()), asked
    assert len(records(lab)) == 2
    return new


def a_bare_key_needs_an_admin(lab, vault, point, keks, passphrase, luks):
    """Linux again, with nothing around the passphrase: copied and proved, and not good enough."""
    del vault.secrets["linux-1"]
    vault.put_bek("linux-2", passphrase, "LinuxPassPhraseFileName", "idle1")
    restart_keeper(lab, section(lab, vault, "corp"))
    bare = verify(lab, point)
    assert bare["state"] == "POINT_STATE_INVALID" and reasons(bare) == {"REASON_ESCROW_UNWRAPPED"}, bare
    shown = [k for k in records(lab, "MIRRORED") if k.get("unwrapped")]
    assert [k["volume_id"] for k in shown] == [luks], shown
    assert "without a KEK" in lab.cli("key", "show", shown[0]["record_id"], check=False)[1]
    lab.cli("machine", "set-policy", "idle1", "--allow", f"escrow-unwrapped:{luks}", "--why", "test machine", json=False)
    allowed = verify(lab, point)
    assert allowed["state"] == "POINT_STATE_VALID", allowed
    kept = [f for f in allowed["findings"] if f["reason"] == "REASON_ESCROW_UNWRAPPED"]
    assert len(kept) == 1 and "admin" in kept[0]["allowed_by"], allowed
    lab.cli("machine", "set-policy", "idle1", "--forget-allowed", json=False)
    assert verify(lab, point)["state"] in ("POINT_STATE_INVALID", "POINT_STATE_AT_RISK")
    # The same passphrase, wrapped since: nobody has to be asked any more.
    vault.put_bek("linux-2", passphrase, "LinuxPassPhraseFileName", "idle1", keks[1])
    good = verify(lab, point)
    assert good["state"] == "POINT_STATE_VALID" and not reasons(good), good


def what_was_mirrored_needs_no_vault(lab, vault, point):
    vault.stop()
    again = verify(lab, point)
    assert again["state"] == "POINT_STATE_VALID" and not reasons(again), again
    pinned = [k for k in records(lab, "MIRRORED") if k.get("pins")]
    assert {k["provider"] for k in pinned} == {"corp"} and len(pinned) >= 2, pinned
    assert lab.cli("keystore", "check").get("problems", []) == []


def nothing_is_left(lab, *secrets):
    for path in lab.path.rglob("*"):
        if path.is_file() and path.suffix not in (".raw", ".key") and not path.name.startswith("password-"):
            data = path.read_bytes()
            for s in secrets:
                assert s not in data, f"{path} holds a secret"


def main():
    if not (CORPUS / IMAGE).exists():
        print(f"no {IMAGE} in {CORPUS}: set SEALPOINT_CORPUS")
        sys.exit(77)
    bek = (CORPUS / BEK).read_bytes()
    passphrase = base64.b64encode(os.urandom(127))  # as the extension makes them
    with Lab() as lab:
        token = make_token(lab.path / "token")
        made = two_opinions_on_oaep(lab.path / "token", token)
        print("openssl and SoftHSM agree on RSA-OAEP", flush=True)
        bitlocker = lab.path / "bitlocker.raw"
        with lzma.open(CORPUS / IMAGE) as packed, open(bitlocker, "wb") as raw:
            while block := packed.read(1 << 20):
                raw.seek(len(block), 1) if not block.strip(b"\0") else raw.write(block)
            raw.truncate()
        images, keys = make_images(lab.path / "images")
        new_key = lab.path / "images" / "ade.key"
        new_key.write_bytes(passphrase)
        tool("cryptsetup", "-q", "luksChangeKey", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file",
             keys["luks2"], images["luks2"], new_key)
        vault = KeyVault(lab.path / "azure").start()
        keks = [vault.add_key("kek", made), vault.add_key("kek", FileKek(lab.path / "token" / "second.pem"))]
        vault.put_bek("canary", b"tweet", "LinuxPassPhraseFileName", "canary", keks[0])
        vault.put("other", "unrelated", "text/plain", "", "")
        lab.up()
        what_is_missing_is_named(lab, vault)
        restart_keeper(lab, section(lab, vault, "corp"))
        with IdleMachine(lab.path / "idle1", {"bitlocker": bitlocker, "luks2": images["luks2"]}) as machine:
            machine.start()
            lab.cli("machine", "add", "idle1")
            lab.cli("vault", "add", "main", "--dir", lab.vault)
            lab.cli("machine", "set-source", "idle1", "--qmp", machine.qmp_source, "--vault", "main")
            job = json.loads(lab.cli("backup", "idle1", "--no-agent", "--json", check=False)[1])
        assert job["state"] == "POINT_STATE_INVALID" and reasons(job) == {"REASON_ESCROW_MISSING"}, job
        point = job["point_id"]
        a_rollover_leaves_kept_points_alone(lab, vault, point, keks, bek, passphrase)
        a_bare_key_needs_an_admin(lab, vault, point, keks, passphrase, volume_id(images["luks2"]))
        what_was_mirrored_needs_no_vault(lab, vault, point)
        nothing_is_left(lab, passphrase, bek[-60:], vault.client_secret.encode(), vault.token.encode())


main()
