#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""No guest key in the controller: all its memory is read, as a debugger would, after import, during and after
proof, and after release. Nor is one in logs, catalog, keystore, vault, environments, command lines, or in the
core that a crash would leave. The search finds a key where one is: in the keeper while it opens a box."""
import base64
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

# What is packaged is what is searched: a core of a build with sanitizers is terabytes of shadow.
if "SEALPOINT_RELEASE" in os.environ:
    os.environ["SEALPOINT_BUILD"] = os.environ["SEALPOINT_RELEASE"]
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from idle import IdleMachine, make_images, tool, volume_id  # noqa: E402
from lab import Lab  # noqa: E402


def forms(secret):
    """The bytes as they are, in hexadecimal, in base64: a key is no less a key in another dress."""
    return [secret, secret.hex().encode(), base64.b64encode(secret)[:-4]]


def search(data, needles):
    return any(n in data for n in needles)


def memory_holds(pid, needles):
    """Every readable mapping of a process, through /proc/PID/mem (root may, also when it is not dumpable)."""
    read = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, mode = line.split()[:2]
            if "r" not in mode or line.rstrip().endswith("[vvar]") or line.rstrip().endswith("[vsyscall]"):
                continue
            start, end = (int(x, 16) for x in span.split("-"))
            if end - start > 1 << 34:  # the shadow of a sanitizer is no memory
                continue
            at, tail = start, b""
            while at < end:
                try:
                    memory.seek(at)
                    piece = memory.read(min(4 << 20, end - at))
                except (OSError, ValueError):
                    break
                if not piece:
                    break
                read += len(piece)
                if search(tail + piece, needles):
                    return True
                tail, at = piece[-512:], at + len(piece)
    assert read > 1 << 20, f"only {read} bytes of process {pid} could be read"
    return False


def files_hold(folder, needles):
    return [str(p) for p in folder.rglob("*") if p.is_file() and search(p.read_bytes(), needles)]


class Watch(threading.Thread):
    """Reads the controller's memory again and again while something goes on."""

    def __init__(self, lab, needles):
        super().__init__(daemon=True)
        self.lab, self.needles, self.stop, self.found, self.rounds = lab, needles, False, False, 0
        self.exposed = set()

    def run(self):
        while not self.stop:
            self.found |= memory_holds(self.lab.controller.pid(), self.needles)
            for program in (self.lab.controller, self.lab.keeper):
                self.look_at_process(program.pid())
            for prover in self.provers():
                self.look_at_process(prover)
            self.rounds += 1

    def provers(self):
        try:
            text = pathlib.Path(f"/proc/{self.lab.keeper.pid()}/task/{self.lab.keeper.pid()}/children").read_text()
            return [int(p) for p in text.split()]
        except OSError:
            return []

    def look_at_process(self, pid):
        for name in ("environ", "cmdline"):
            try:
                if search(pathlib.Path(f"/proc/{pid}/{name}").read_bytes(), self.needles):
                    self.exposed.add(f"{name} of {pid}")
            except OSError:
                pass  # it has ended


def watched(lab, needles, what, act):
    watch = Watch(lab, needles)
    watch.start()
    result = act()
    watch.stop = True
    watch.join()
    assert watch.rounds > 0
    assert not watch.found, f"a guest key was in the controller's memory during {what}"
    assert not watch.exposed, f"a guest key was in {watch.exposed} during {what}"
    assert not memory_holds(lab.controller.pid(), needles), f"a guest key is in the controller's memory after {what}"
    print(f"{what}: the controller's memory was read {watch.rounds} times, no key", flush=True)
    return result


def core_of(pid, folder):
    """The core that gdb can make of the process; None if the kernel gives none."""
    out = folder / f"core-{pid}"
    subprocess.run(["gdb", "-q", "-batch", "-p", str(pid), "-ex", f"generate-core-file {out}"], stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=240)
    return out if out.exists() else None


def main():
    with Lab() as lab:
        lab.up()
        images, keys = make_images(lab.path / "images")
        ids = {n: volume_id(images[n]) for n in keys}
        secrets = [p.read_bytes() for p in keys.values()]
        # The volume keys too: what proves them away is no less secret than the passphrase.
        for name, key in keys.items():
            out = lab.path / f"{name}.vk"
            tool("cryptsetup", "luksDump", "-q", "--dump-volume-key", "--volume-key-file", out, "--key-file", key,
                 images[name])
            secrets.append(out.read_bytes())
            out.unlink()
        needles = [f for s in secrets for f in forms(s)]
        # The search itself is proved on a process that does hold the key.
        holder = subprocess.Popen([sys.executable, "-c", "import sys; k = sys.stdin.buffer.read(); print(flush=True); "
                                   "import time; time.sleep(60)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        holder.stdin.write(secrets[0])
        holder.stdin.close()
        holder.stdout.readline()
        assert memory_holds(holder.pid, needles), "the search does not find a key where one is"
        holder.kill()
        holder.wait()

        with IdleMachine(lab.path / "idle1", images) as machine:
            machine.start()
            lab.cli("machine", "add", "idle1")
            lab.cli("vault", "add", "main", "--dir", lab.vault)
            lab.cli("machine", "set-source", "idle1", "--qmp", machine.qmp_source, "--vault", "main")

            def import_all():
                for name, key in keys.items():
                    lab.cli("key", "import", "idle1", ids[name], "--passphrase-file", key)

            watched(lab, needles, "import", import_all)
            job = watched(lab, needles, "backup and proof", lambda: lab.cli("backup", "idle1", "--no-agent"))
            assert job["state"] == "POINT_STATE_VALID", job
            watched(lab, needles, "re-proof", lambda: lab.cli("point", "verify", job["point_id"]))
            out = lab.path / "released"
            watched(lab, needles, "release",
                    lambda: lab.cli("key", "release", job["point_id"], "--to", out, "--why", "test", json=False))
            assert sorted(p.read_bytes() for p in out.iterdir()) == sorted(secrets[:2]), "other keys came back"

            for folder in (lab.state, lab.keeper_state, lab.vault, lab.fleece):
                assert files_hold(folder, needles) == [], f"a guest key lies in {folder}"
            logs = lab.controller.log_path.read_bytes() + lab.keeper.log_path.read_bytes()
            assert not search(logs, needles), "a guest key is in a log"
            core = core_of(lab.controller.pid(), lab.path)
            assert core, "gdb made no core of the controller"
            assert not search(core.read_bytes(), needles), "a guest key is in a core of the controller"
            core.unlink()
            # A keeper that crashes leaves no core at all.
            limits = pathlib.Path(f"/proc/{lab.keeper.pid()}/limits").read_text()
            assert [l.split()[4] for l in limits.splitlines() if l.startswith("Max core file size")] == ["0"], limits
            lab.keeper.kill(signal.SIGABRT)
            assert not [p for p in pathlib.Path.cwd().glob("core*") if p.stat().st_mtime > time.time() - 60]
        print("no key in logs, catalog, keystore, vault, cores, environments and command lines")


if os.geteuid() != 0:
    sys.exit("this test reads other processes' memory: run it as root")
main()
