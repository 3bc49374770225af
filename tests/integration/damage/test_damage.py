#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Damage of every kind gives a clear error, and nothing else is lost: a flipped bit in a pack, a truncated, a
swapped and a replayed manifest, a damaged LUKS header, a full vault, a QMP that talks nonsense."""
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from idle import IdleMachine, make_images, volume_id  # noqa: E402
from lab import Lab  # noqa: E402


def run(lab, *words):
    status, out, err = lab.cli(*words, check=False, json=False)
    return status, out + err


def backup(lab, machine="idle1"):
    status, out, err = lab.cli("backup", machine, "--no-agent", "--json", check=False, timeout=300)
    assert status in (0, 3), (status, out, err)
    return json.loads(out)


def reasons(job):
    return {f["reason"] for f in job["findings"] if not f["note"]}


def damaged_and_mended(path, change):
    """Context: the file with the change, then as it was."""
    class Change:
        def __enter__(self):
            self.old = path.read_bytes()
            self.mode = path.stat().st_mode
            path.chmod(0o600)
            path.write_bytes(change(bytearray(self.old)))

        def __exit__(self, *_):
            path.write_bytes(self.old)
            path.chmod(self.mode)
    return Change()


def flip(at):
    def change(data):
        data[at if at >= 0 else len(data) + at] ^= 0x20
        return bytes(data)
    return change


def restart(lab):
    """The controller keeps indexes in memory: it must notice what is on disk now."""
    lab.controller.stop()
    lab.start_controller()


def packs(lab):
    return sorted((p for p in lab.vault.rglob("*") if p.is_file() and p.stat().st_size > 1 << 20),
                  key=lambda p: -p.stat().st_size)


def manifests(lab, point):
    return [p for p in lab.vault.rglob(f"*{point}*") if p.is_file() and "manifest" in str(p)]


def vault_damage(lab, first, second):
    pack = packs(lab)[0]
    with damaged_and_mended(pack, flip(pack.stat().st_size // 3)):
        restart(lab)
        status, said = run(lab, "vault", "check", "main", "--read-data")
        assert status == 3 and "LOST" in said and pack.name.split(".")[0] in said, (status, said)
        harmed = [p for p in (first, second) if p in said]
        assert harmed, said
        status, said = run(lab, "point", "restore", harmed[0], "--to", lab.path / "bad")
        assert status != 0 and said, said
        assert not list((lab.path / "bad").glob("*.raw")) or status != 0
        shutil.rmtree(lab.path / "bad", ignore_errors=True)
    restart(lab)
    assert run(lab, "vault", "check", "main", "--read-data")[0] == 0

    a, b = manifests(lab, first)[0], manifests(lab, second)[0]
    for what, change in (("truncated", lambda d: bytes(d[: len(d) // 2])), ("flipped", flip(200)),
                         ("swapped", lambda d: b.read_bytes())):
        with damaged_and_mended(a, change):
            restart(lab)
            status, said = run(lab, "vault", "check", "main")
            assert status == 3 and first in said, (what, status, said)
            status, said = run(lab, "point", "restore", first, "--to", lab.path / "bad")
            assert status != 0, (what, said)
            status, said = run(lab, "point", "restore", second, "--to", lab.path / f"good-{what}")
            assert status == 0, (what, said)
            print(f"manifest {what}: {said.splitlines()[0] if said else ''}", flush=True)
    restart(lab)
    assert run(lab, "vault", "check", "main")[0] == 0


def replay_for_another_machine(lab, first, first_machine, other_machine):
    a = manifests(lab, first)[0]
    folder = lab.vault / pathlib.Path(str(a.relative_to(lab.vault)).replace(first_machine, other_machine)).parent
    folder.mkdir(parents=True, exist_ok=True)
    replay = folder / a.name
    shutil.copy(a, replay)
    restart(lab)
    status, said = run(lab, "vault", "check", "main")
    assert status == 3 and other_machine in said, (status, said)
    replay.unlink()
    restart(lab)
    assert run(lab, "vault", "check", "main")[0] == 0
    print("a manifest replayed for another machine is named", flush=True)


def damaged_header(lab, machine, images, ids):
    """Both LUKS2 headers lost; the volume was known before."""
    machine.io("luks2", "write -z 0 32k")
    job = backup(lab)
    assert job["state"] != "POINT_STATE_VALID", job
    assert reasons(job) & {"REASON_HEADER_DAMAGED", "REASON_UNIDENTIFIED_CONTENT", "REASON_INVENTORY_MISMATCH"}, job
    print("damaged LUKS header:", ", ".join(sorted(reasons(job))), flush=True)
    return job


def full_vault(lab, machine):
    image, place = lab.path / "small.img", lab.path / "small"
    place.mkdir()
    subprocess.run(["truncate", "-s", "24M", image], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        lab.cli("vault", "add", "small", "--dir", place / "v")
        lab.cli("machine", "set-source", "idle1", "--qmp", machine.qmp_source, "--vault", "small")
        job = backup(lab)
        assert job["state"] == "POINT_STATE_FAILED" and "REASON_VAULT_FULL" in reasons(job), job
        assert run(lab, "vault", "check", "small")[0] == 0
        assert machine.traces() == [], machine.traces()
        lab.controller.stop()  # it may hold the vault's lock
    finally:
        subprocess.run(["umount", place], check=True)
    lab.start_controller()
    lab.cli("machine", "set-source", "idle1", "--qmp", machine.qmp_source, "--vault", "main")
    print("full vault: the point failed with VAULT_FULL", flush=True)


def nonsense_qmp(lab):
    for number, words in enumerate((b"{\"QMP\": {}}\r\n{\"return\": [[[\r\n", b"\x00\xff\xfe garbage\n",
                                    b"{\"QMP\": {}}\r\n" + b"{\"return\": \"" + b"a" * (70 << 20), b"")):
        path = lab.path / f"q{number}"
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen()

        def serve():
            while True:
                try:
                    s, _ = server.accept()
                except OSError:
                    return
                with s:
                    try:
                        s.sendall(words)
                        s.shutdown(socket.SHUT_WR)
                        s.recv(1 << 16)
                    except OSError:
                        pass
        threading.Thread(target=serve, daemon=True).start()
        lab.cli("machine", "set-source", "idle1", "--qmp", path)
        status, said = run(lab, "backup", "idle1", "--no-agent")
        assert status != 0 and said.strip(), (words[:40], status, said)
        assert lab.controller.running(), lab.logs()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        print("nonsense QMP:", said.strip().splitlines()[-1][:160], flush=True)


def main():
    with Lab() as lab:
        lab.up()
        images, keys = make_images(lab.path / "images", ballast_mib=24)
        ids = {n: volume_id(images[n]) for n in keys}
        with IdleMachine(lab.path / "idle1", images) as machine:
            machine.start()
            idle1 = lab.cli("machine", "add", "idle1")["machine_id"]
            other = lab.cli("machine", "add", "other")["machine_id"]
            lab.cli("vault", "add", "main", "--dir", lab.vault)
            lab.cli("machine", "set-source", "idle1", "--qmp", machine.qmp_source, "--vault", "main")
            for name, key in keys.items():
                lab.cli("key", "import", "idle1", ids[name], "--passphrase-file", key)
            first = lab.cli("backup", "idle1", "--no-agent")["point_id"]
            machine.write("clear", 30 << 20, 7, "1M")
            second = lab.cli("backup", "idle1", "--no-agent")["point_id"]
            vault_damage(lab, first, second)
            replay_for_another_machine(lab, first, idle1, other)
            damaged_header(lab, machine, images, ids)
            full_vault(lab, machine)
            nonsense_qmp(lab)
            # After all that, what was good is good.
            lab.cli("machine", "set-source", "idle1", "--qmp", machine.qmp_source, "--vault", "main")
            for point in (first, second):
                assert lab.cli("point", "show", point)["point"]["state"] == "POINT_STATE_VALID"
            assert run(lab, "vault", "check", "main", "--read-data")[0] == 0
            assert run(lab, "audit", "verify")[0] == 0


main()
