# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole Sealpoint in a temporary folder: keeper, controller, command line, guests.

    with Lab() as lab:
        lab.up()                                 # keeper, init, controller
        g = lab.guest("web1", disks=[Disk("d0", size="64M")])
        g.start()
        lab.enrol(g)
        lab.agent_start(g)
        lab.wait_for("the agent to connect", lambda: lab.machine("web1").get("connected"))
        lab.cli("backup", "web1")

Binaries come from $SEALPOINT_BIN (a folder with all of them) or the build tree $SEALPOINT_BUILD. Every
process is ended by its own id when the lab closes, also when the test dies. Folders are short: a unix
socket's path has 107 bytes. Python standard library only.
"""
import atexit
import json as jsons
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref

import guest as guests
from guest import CommandFailed, Disk, Guest, GuestError  # noqa: F401 (for the tests)

SOURCE = pathlib.Path(os.environ.get("SEALPOINT_SOURCE", pathlib.Path(__file__).resolve().parents[2]))


class LabError(Exception):
    pass


class CliFailed(LabError):
    def __init__(self, args, status, out, err):
        super().__init__(f"sealpoint {' '.join(args)} ended with {status}\n{out}{err}")
        self.status, self.out, self.err = status, out, err


def binary(name):
    """Path of one of our programs."""
    folder = os.environ.get("SEALPOINT_BIN")
    if folder:
        path = pathlib.Path(folder) / name
        if path.exists():
            return path
        raise LabError(f"no {name} in SEALPOINT_BIN={folder}")
    build = pathlib.Path(os.environ.get("SEALPOINT_BUILD") or SOURCE / "build")
    for path in build.rglob(name):
        if path.is_file() and os.access(path, os.X_OK) and "CMakeFiles" not in path.parts:
            return path
    raise LabError(f"no {name} below {build}: build it, or set SEALPOINT_BUILD")


def guest_kernel(agent=None):
    """Builds the guest once for each build tree and agent; returns the folder for Guest(kernel=…)."""
    build = pathlib.Path(os.environ.get("SEALPOINT_BUILD") or SOURCE / "build")
    # A release build of the agent boots faster and fits in less memory than one with sanitizers.
    agent = pathlib.Path(agent or os.environ.get("SEALPOINT_GUEST_AGENT") or binary("sealpoint-agent"))
    helper = agent.parent / "sealpoint-enrol-volume"
    helper = helper if helper.exists() else binary("sealpoint-enrol-volume")
    out = build / "guest"
    stamp, parts = out / "stamp", sorted((SOURCE / "packaging/guest").iterdir())
    now = repr([(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in [agent, helper, *parts]])
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "lock", "w") as lock:
        import fcntl
        fcntl.flock(lock, fcntl.LOCK_EX)  # several tests may start at the same time
        if not stamp.exists() or stamp.read_text() != now:
            subprocess.run([SOURCE / "packaging/guest/build", "--agent", agent, "--out", out,
                            "--add", f"{helper}=/usr/libexec/sealpoint/sealpoint-enrol-volume"], check=True)
            stamp.write_text(now)
    return out


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Program:
    """One process in the foreground, its log in a file."""

    def __init__(self, name, command, log, env=None):
        self.name, self.command, self.log_path, self.env = name, [str(c) for c in command], pathlib.Path(log), env
        self.process = None

    def start(self):
        in_main = threading.current_thread() is threading.main_thread()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env,
                preexec_fn=guests._die_with_parent if in_main else None)
        return self

    def running(self):
        return self.process is not None and self.process.poll() is None

    def pid(self):
        return self.process.pid

    def kill(self, number=signal.SIGKILL):
        """kill -9 (or another signal), and waits for the end."""
        if self.running():
            self.process.send_signal(number)
            try:
                return self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise LabError(f"{self.name} did not end within 30 s of signal {number}\n{self.tail()}") from None
        return self.process.returncode if self.process else None

    def stop(self):
        return self.kill(signal.SIGTERM)

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def tail(self, most=4000):
        return self.log()[-most:]


_labs = weakref.WeakSet()


@atexit.register
def _close_all():
    for lab in list(_labs):
        lab.close()


class Lab:
    def __init__(self, keep=False, domain="lab"):
        """`keep` (or $SEALPOINT_LAB_KEEP): leaves the folder behind, for looking into it."""
        self.keep = keep or bool(os.environ.get("SEALPOINT_LAB_KEEP"))
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="sp", dir=os.environ.get("SEALPOINT_LAB_DIR", "/tmp")))
        self.domain = domain
        self.profile = self.path / "profile"
        self.keeper_state, self.state = self.path / "ks", self.path / "cs"
        self.keeper_socket, self.fleece = self.path / "k.sock", self.path / "f"
        self.vault = self.path / "vault"
        self.keeper_conf, self.controller_conf = self.path / "keeper.conf", self.path / "controller.conf"
        self.port = free_port()
        self.kit = self.ca_fingerprint = None
        self.keeper = self.controller = None
        self.guests = []
        self._write_configuration()
        _labs.add(self)

    def _write_configuration(self):
        for folder in (self.keeper_state, self.state, self.fleece, self.vault):
            folder.mkdir(mode=0o700)
        passphrase = self.path / "kek"
        passphrase.write_text("a passphrase for the laboratory\n")
        passphrase.chmod(0o600)
        self.keeper_conf.write_text(
            f"[keeper]\nsocket = {self.keeper_socket}\nstate = {self.keeper_state}\n"
            f"prover = {binary('sealpoint-prover')}\ncontroller_user = {os.getuid()}\n\n"
            f"[kek]\npassphrase_file = {passphrase}\n")
        self.controller_conf.write_text(
            f"[controller]\nlisten = 127.0.0.1:{self.port}\nstate = {self.state}\n"
            f"keeper_socket = {self.keeper_socket}\nfleece = {self.fleece}\n")

    # ── Programs ──

    def up(self):
        """Keeper, init, controller."""
        self.start_keeper()
        self.init()
        self.start_controller()
        return self

    def start_keeper(self, *more):
        self.keeper = Program("keeper", [binary("sealpoint-keeper"), "--config", self.keeper_conf, *more],
                              self.path / "keeper.log").start()
        self._wait_program(self.keeper, lambda: self._answers(socket.AF_UNIX, str(self.keeper_socket)))
        return self.keeper

    def init(self, user="admin"):
        done = subprocess.run(
            [binary("sealpointd"), "init", "--config", self.controller_conf, "--domain", self.domain, "--name", "ctl",
             "--host", "127.0.0.1", "--host", "localhost", "--host", "10.0.2.100", "--host", "10.0.2.2",
             "--user", user, "--profile", self.profile],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise LabError(f"sealpointd init ended with {done.returncode}\n{done.stdout}{done.stderr}\n"
                           f"{self.keeper.tail() if self.keeper else ''}")
        self.kit = re.search(r"sealpoint-kit-1:\S+", done.stdout).group(0)
        self.ca_fingerprint = re.search(r"CA fingerprint: ([0-9a-f:]+)", done.stdout).group(1)
        conf = self.profile / "client.conf"
        text = conf.read_text()
        conf.write_text(re.sub(r"(?m)^controller\s*=.*$", f"controller = 127.0.0.1:{self.port}", text))

    def start_controller(self, *more):
        (self.state / "port").unlink(missing_ok=True)
        self.controller = Program("controller", [binary("sealpointd"), "run", "--config", self.controller_conf, *more],
                                  self.path / "controller.log").start()
        self._wait_program(self.controller, lambda: (self.state / "port").exists()
                           and self._answers(socket.AF_INET, ("127.0.0.1", self.port)))
        return self.controller

    def kill_controller(self):
        self.controller.kill()

    def kill_keeper(self):
        self.keeper.kill()

    @staticmethod
    def _answers(family, address):
        with socket.socket(family) as s:
            s.settimeout(2)
            try:
                s.connect(address)
                return True
            except OSError:
                return False

    def _wait_program(self, program, ready, timeout=60):
        end = time.monotonic() + timeout
        while not ready():
            if not program.running():
                raise LabError(f"{program.name} ended with {program.process.returncode}\n{program.tail()}")
            if time.monotonic() > end:
                raise LabError(f"{program.name} is not ready after {timeout} s\n{program.tail()}")
            time.sleep(0.05)

    # ── Command line ──

    def cli(self, *args, json=True, check=True, input=None, profile=None, timeout=300):
        """Runs `sealpoint`. With json: the parsed answer (None when it said nothing). `check` raises
        CliFailed on any other status than 0; without it the result is (status, out, err)."""
        command = [str(binary("sealpoint")), "--profile", str(profile or self.profile), *map(str, args)]
        if json and check:
            command.append("--json")
        done = subprocess.run(command, input=input, stdin=None if input is not None else subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=not isinstance(input, bytes),
                              timeout=timeout)
        out, err = (t if isinstance(t, str) else t.decode(errors="replace") for t in (done.stdout, done.stderr))
        if not check:
            return done.returncode, out, err
        if done.returncode:
            raise CliFailed([str(a) for a in args], done.returncode, out, err)
        if not json:
            return out
        return jsons.loads(out) if out.strip() else None

    def wait_for(self, what, probe, timeout=60, every=0.2):
        """The first true value of probe(); LabError names what did not happen, with the logs' ends."""
        end = time.monotonic() + timeout
        while True:
            value = probe()
            if value:
                return value
            if time.monotonic() > end:
                raise LabError(f"waited {timeout} s for {what}\n{self.logs()}")
            time.sleep(every)

    def logs(self, most=3000):
        text = ""
        for program in (self.keeper, self.controller):
            if program:
                text += f"── {program.name} ──\n{program.tail(most)}\n"
        for g in self.guests:
            text += f"── guest {g.name} ──\n{g.log()[-most:]}\n"
        return text

    # ── Guests ──

    def guest(self, name, disks, **more):
        g = Guest(self.path / name, kernel=more.pop("kernel", None) or guest_kernel(), disks=disks, name=name,
                  controller_port=more.pop("controller_port", self.port), **more)
        self.guests.append(g)
        return g

    def token(self, machine):
        """A token file's text for one machine."""
        path = self.path / f"{machine}.token"
        self.cli("token", "create", "--machine", machine, "--out", path, json=False)
        return path.read_text()

    def enrol(self, g, token=None):
        """Enrols the agent in the guest; its state is lost when the guest powers off."""
        g.put("/run/token", token or self.token(g.name), 0o600)
        g.put("/etc/sealpoint/agent.conf",
              f"[agent]\ncontroller = {g.controller}\nname = {g.name}\n[escrow]\nenrol = on\n", 0o644)
        g.run("mkdir -p -m 700 /var/lib/sealpoint-agent /run/sealpoint-agent")
        return g.run(f"sealpoint-agent enrol --controller {g.controller} --token-file /run/token "
                     f"--ca-fingerprint {self.ca_fingerprint}; s=$?; rm -f /run/token; exit $s")

    def agent_start(self, g, *options):
        """Starts the agent as its unit would (packaging/guest/agent-unit)."""
        g.run("agent-unit start " + " ".join(options))

    def agent_log(self, g):
        return g.run("cat /run/agent-unit/log 2>/dev/null", check=False).out

    def machine(self, name):
        return self.cli("machine", "show", name)

    def close(self):
        for g in self.guests:
            g.kill()
        for program in (self.controller, self.keeper):
            if program:
                try:
                    program.stop()
                except LabError as e:
                    print(e, file=sys.stderr)
        if self.keep:
            print(f"lab: kept {self.path}", file=sys.stderr)
        else:
            shutil.rmtree(self.path, ignore_errors=True)
        _labs.discard(self)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            print(self.logs(), file=sys.stderr)
        self.close()
