# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with LUKS volumes on loop devices, its agent, and sealpoint-enrol-volume that can be told where to end."""
import json
import os
import pathlib
import pty
import shutil
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from lab import Lab, Program, binary  # noqa: E402,F401

SMALL = ["--luks2-metadata-size", "16k", "--luks2-keyslots-size", "1m"]
HEADER = 2 << 20
FAST = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
STEPS = ["begun", "accepted", "unlocked", "saved", "kept", "token", "added", "assigned", "proved", "done"]
TOKEN = "sealpoint-escrow"


def tool(*command, stdin=b"", good=(0,)):
    done = subprocess.run([str(c) for c in command], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode in good, (command, done)
    return done.stdout.decode()


class Volume:
    """A LUKS image on a loop device; `reset` makes its header what it was."""

    def __init__(self, folder, name, kind, secret):
        self.image, self.key = folder / f"{name}.img", folder / f"{name}.key"
        self.key.write_bytes(secret)
        self.key.chmod(0o600)
        with open(self.image, "wb") as f:
            f.truncate(HEADER + (4 << 20))
        tool("cryptsetup", "luksFormat", "-q", "--type", kind, *FAST, *(SMALL if kind == "luks2" else []),
             "--offset", HEADER // 512, self.image, self.key)
        self.uuid = tool("cryptsetup", "luksUUID", self.image).strip()
        self.id = f"luks:{self.uuid}"
        self.pristine = self.image.read_bytes()[:HEADER]
        self.loop = tool("losetup", "--find", "--show", self.image).strip()

    def reset(self):
        with open(self.loop, "r+b") as f:
            f.write(self.pristine)
            f.flush()
            os.fsync(f.fileno())

    def opens(self, key=None):
        return subprocess.run(["cryptsetup", "open", "--test-passphrase", "--key-file", key or self.key, self.loop],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    def metadata(self):
        return json.loads(tool("cryptsetup", "luksDump", "--dump-json-metadata", self.loop))

    def tokens(self):
        return [t for t in self.metadata()["tokens"].values() if t["type"] == TOKEN]

    def close(self):
        subprocess.run(["losetup", "-d", self.loop])


class Host:
    """The agent of this host. It may freeze nothing but an empty folder."""

    def __init__(self, lab, name="host", allowed=True):
        self.lab, self.name = lab, name
        self.runtime = pathlib.Path(tempfile.mkdtemp(prefix="sp", dir="/dev/shm"))
        self.state, self.control = lab.path / "as", lab.path / "control"
        self.crypttab, self.socket = lab.path / "crypttab", lab.path / "ev.sock"
        self.crypttab.write_text("")
        (lab.path / "only").mkdir()
        self.allowed = allowed
        self.agent = self.helper = None

    def options(self):
        out = ["--config", "/dev/null"]
        for option in (f"agent.state={self.state}", f"agent.runtime={self.runtime}",
                       f"freeze.only={self.lab.path}/only", f"agent.name={self.name}", "agent.metadata=off",
                       f"escrow.enrol={'on' if self.allowed else 'off'}", f"escrow.crypttab={self.crypttab}",
                       f"escrow.socket={self.socket}", f"escrow.helper={binary('sealpoint-enrol-volume')}"):
            out += ["-o", option]
        return out

    def enrol(self):
        token = self.lab.path / "host-token"
        token.write_text(self.lab.token(self.name))
        tool(binary("sealpoint-agent"), "enrol", "--controller", f"127.0.0.1:{self.lab.port}", "--token-file", token,
             "--ca-fingerprint", self.lab.ca_fingerprint, *self.options())
        return self

    def start_helper(self):
        self.helper = Program("helper", [binary("keyslot-stopper"), self.control, "listen", *self.options()],
                              self.lab.path / "helper.log").start()
        self.lab.wait_for("the helper's socket", self.socket.exists, every=0.02)

    def start_agent(self):
        self.agent = Program("agent", [binary("sealpoint-agent"), "run", *self.options()],
                             self.lab.path / "agent.log").start()

    def connected(self):
        return self.lab.machine(self.name).get("agent", {}).get("connected")

    def wait_for_volumes(self, *volumes):
        def seen():
            m = self.lab.machine(self.name)
            have = {v["volume_id"] for v in m.get("inventory", {}).get("volumes", [])}
            return m.get("agent", {}).get("connected") and {v.id for v in volumes} <= have
        self.lab.wait_for("the volumes", seen)

    def stop_at(self, step, what):
        self.control.write_text(f"{STEPS.index(step)} {what}")

    def reached(self):
        mark = pathlib.Path(f"{self.control}.reached")
        if not mark.exists():
            return False
        mark.unlink()
        return True

    def go(self):
        pathlib.Path(f"{self.control}.go").touch()

    def left_over(self):
        folder = self.state / "keyslots"
        return sorted(p.name for p in folder.iterdir() if p.suffix in (".order", ".waiting")) if folder.exists() else []

    def type(self, answers, *arguments):
        """`sealpoint-agent enrol-volume` on a terminal of its own, an answer for each time it asks: (status, what
        it showed)."""
        command = [str(binary("sealpoint-agent")), "enrol-volume", *self.options(), *arguments]
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(command[0], command)
        shown, asked, answers = b"", 0, list(answers)
        while True:
            try:
                part = os.read(terminal, 4096)
            except OSError:
                part = b""
            if not part:
                break
            shown += part
            if shown.count(b"Passphrase of") > asked:
                asked += 1
                os.write(terminal, answers.pop(0).encode() + b"\n")
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode(errors="replace")

    def close(self):
        for program in (self.agent, self.helper):
            if program and program.running():
                program.stop()
        shutil.rmtree(self.runtime, ignore_errors=True)


def kill(program):
    program.kill(signal.SIGKILL)
