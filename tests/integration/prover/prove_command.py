#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""`sealpoint prove` as an admin runs it on the first day: images of the corpus and self-made ones,
each container format, NBD, each form of keys; exit code, table and JSON."""
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time

SOURCE = os.environ["SEALPOINT_SOURCE"]
BUILD = os.environ["SEALPOINT_BUILD"]
CORPUS = os.environ.get("SEALPOINT_CORPUS", os.path.join(SOURCE, "..", "shared", "corpus"))
RECOVERY = "042647-302313-590458-071500-554323-116567-412181-516978"
GUID = "3fd763f9-74c7-4e90-8fa2-1f6a2e2b4e0c"
CLEAR_KEY = "f99f18e8-0348-4a6b-afdf-58b1dd71f0d1"


def run(*arguments, keys=()):
    command = [f"{BUILD}/controller/cli/sealpoint", "prove",
               "--prover", f"{BUILD}/controller/keeper/prover/sealpoint-prover"]
    for k in keys:
        command += ["--keys", k]
    done = subprocess.run(command + list(arguments), capture_output=True, text=True, timeout=240)
    assert RECOVERY not in done.stdout + done.stderr, "a secret was printed"
    return done


def prove(*arguments, keys=(), code=0):
    done = run("--json", *arguments, keys=keys)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def volumes(answer, encrypted=True):
    return {v["volume_id"].split(":", 1)[0]: v for i in answer["images"] for v in i["volumes"]
            if v["encrypted"] == encrypted}


def unpack(name):
    subprocess.run(f"xz -dc '{CORPUS}/{name}.xz' > '{name}'", shell=True, check=True)
    return name


def write(name, data):
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())
    return name


def sha(name):
    with open(name, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if sys.version_info >= (3, 11) else \
            hashlib.sha256(f.read()).hexdigest()


def a_folder_of_keys_opens_what_it_holds():
    windows = ("BitLocker Drive Encryption recovery key\r\n\r\nIdentifier:\r\n\r\n      " +
               GUID.upper() + "\r\n\r\nRecovery Key:\r\n\r\n      " + RECOVERY + "\r\n")
    write("keys/saved by windows.txt", b"\xff\xfe" + windows.encode("utf-16le"))
    write("keys/linux.txt", "nothing\na-4k-66c3b032e0df\na-qemu-9bc48d49ff56\n")
    before = sha(unpack("a-disk-gpt.qcow2"))
    answer = prove("a-disk-gpt.qcow2", unpack("a-disk-mbr.vmdk"), keys=["keys"])
    assert answer["summary"] == {"images": 2, "images_failed": 0, "encrypted": 3, "open": 3,
                                 "not_encrypted": 2}, answer["summary"]
    gpt = {v["volume_id"].split(":")[0]: v for v in answer["images"][0]["volumes"]}
    assert gpt["bitlocker"]["protector_id"] == GUID
    assert gpt["bitlocker"]["key"] == "keys/saved by windows.txt"
    assert gpt["bitlocker"]["content"]["type"] == "ntfs"
    assert gpt["bitlocker"]["offset_bytes"] == 9 << 20
    assert gpt["luks"]["key"] == "keys/linux.txt" and gpt["luks"]["content"]["label"] == "a4k"
    assert sha("a-disk-gpt.qcow2") == before, "the image was written to"


def a_raw_image_and_nbd_say_the_same():
    raw = "gpt.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", "a-disk-gpt.qcow2", raw], check=True)
    server = subprocess.Popen(["qemu-nbd", "--read-only", "--persistent", "--format=raw",
                               "--socket", os.path.abspath("s"), raw])
    try:
        while not os.path.exists("s"):
            assert server.poll() is None
            time.sleep(0.02)
        a = prove(raw, keys=["keys"])
        b = prove(f"nbd+unix:///?socket={os.path.abspath('s')}", keys=["keys"])
    finally:
        server.terminate()
        server.wait()
    assert a["images"][0]["volumes"] == b["images"][0]["volumes"]
    assert a["summary"]["open"] == 2


def a_csv_names_volumes_and_types():
    write("c/k.csv", "machine,volume,type,secret,secret_file\n"
                     f"web1,e9726fab-7656-4bc5-bb9e-adf115953328,recovery-password,{RECOVERY},\n"
                     "web1,,passphrase,,pw\n")
    write("c/pw", "a-4k-66c3b032e0df\n")
    v = volumes(prove("a-disk-gpt.qcow2", keys=["c/k.csv"]))
    assert v["bitlocker"]["key"] == "c/k.csv:2" and v["luks"]["key"] == "c/k.csv:3"
    write("c/bad.csv", "type,secret\nnonsense,x\n")
    assert run("a-disk-gpt.qcow2", keys=["c/bad.csv"]).returncode == 2


def what_does_not_open_is_told_with_what_to_do():
    v = volumes(prove("a-disk-gpt.qcow2", keys=[write("wrong.txt", "wrong\n")], code=3))
    assert v["bitlocker"]["reason"] == "ESCROW_KEY_WRONG" and GUID in v["bitlocker"]["advice"]
    assert not v["luks"]["opens"] and v["luks"]["key"] == ""
    v = volumes(prove("a-disk-gpt.qcow2", code=3))
    assert v["luks"]["reason"] == "ESCROW_MISSING" and v["luks"]["keys_tried"] == 0
    table = run("a-disk-gpt.qcow2", "missing.img", keys=["wrong.txt"])
    assert table.returncode == 3
    for word in "NOT OPENED", "ESCROW_KEY_WRONG", GUID, "missing.img", "could not be read":
        assert word in table.stdout, (word, table.stdout)
    # One digit wrong: named by its group, and never tried.
    write("typo.csv", "type,secret\nrecovery-password,042648" + RECOVERY[6:] + "\n")
    v = volumes(prove("a-disk-gpt.qcow2", keys=["typo.csv"], code=3))
    assert "group 1" in v["bitlocker"]["text"], v["bitlocker"]


def a_suspended_volume_opens_and_is_told():
    v = volumes(prove(unpack("bitlk-aes-xts-128-clearkey-only.img"), code=3))["bitlocker"]
    assert v["opens"] and v["reason"] == "PROTECTION_SUSPENDED"
    assert v["protector_id"] == CLEAR_KEY and v["content"]["type"] == "ntfs"


def a_startup_key_opens():
    bek = "4381F759-C4F8-4DE0-BB61-FC33A831BDA5.BEK"
    v = volumes(prove(unpack("bitlk-aes-xts-128-startup-key.img"), keys=[f"{CORPUS}/{bek}"]))
    assert v["bitlocker"]["key"].endswith(bek)


def only_a_tpm_is_no_escrow():
    v = volumes(prove(unpack("a-bitlk-tpm-recovery.qcow2"), code=3))["bitlocker"]
    assert v["reason"] == "ESCROW_MISSING" and "dfa599ae-ccd4-482d-bc04-48c16fe85b0d" in v["advice"]


def an_empty_volume_is_not_recognised():
    write("pass", "secret words")
    with open("made.img", "wb") as f:
        f.truncate(20 << 20)
    subprocess.run(["cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations",
                    "1000", "made.img", "pass"], check=True)
    before = sha("made.img")
    v = volumes(prove("made.img", keys=["pass"], code=3))["luks"]
    assert v["reason"] == "PLAINTEXT_NOT_RECOGNISED" and v["key"] == "pass", v
    assert sha("made.img") == before


def a_detached_header_opens_its_data():
    write("det.txt", "a-det-f55188a12582\n")
    data, header = unpack("a-luks2-detached.data"), unpack("a-luks2-detached.hdr")
    answer = prove(data, keys=["det.txt"], code=3)
    assert "--header" in answer["images"][0]["error"]
    answer = prove("--header", header, data, keys=["det.txt"])
    assert answer["images"][0]["volumes"][0]["content"]["label"] == "adet"


def wrong_usage_is_told():
    assert run().returncode == 2
    assert run("x", keys=[os.path.join(os.getcwd(), "no-such-keys")]).returncode == 1
    assert "--keys" in run("--help").stdout


def main():
    if not os.access(os.path.join(CORPUS, "MANIFEST.tsv"), os.R_OK):
        print(f"skipped: no corpus at {CORPUS}")
        return 77
    with tempfile.TemporaryDirectory(prefix="sealpoint-prove-") as folder:
        os.chdir(folder)
        for test in (a_folder_of_keys_opens_what_it_holds, a_raw_image_and_nbd_say_the_same,
                     a_csv_names_volumes_and_types, what_does_not_open_is_told_with_what_to_do,
                     a_suspended_volume_opens_and_is_told, a_startup_key_opens,
                     only_a_tpm_is_no_escrow, an_empty_volume_is_not_recognised,
                     a_detached_header_opens_its_data, wrong_usage_is_told):
            test()
            print("ok", test.__name__, flush=True)
        os.chdir("/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
