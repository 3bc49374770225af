# SPDX-License-Identifier: GPL-3.0-or-later
"""A QEMU guest of packaging/guest for tests and the demo. Python standard library only.

    with Guest("/tmp/w", kernel="/tmp/guest", disks=[Disk("d0", serial="SER0", size="64M")],
               controller_port=9443) as g:
        g.start()
        print(g.run("uname -r").out)

The guest runs under TCG (a /dev/kvm may exist and be unusable). Its disks are virtio-blk-pci devices,
each with an id, a serial and a node name of its own. Two QMP sockets: `qmp_source` for Sealpoint's
source, and the test's own, behind `qmp()`: a QMP socket serves one client at a time.

The network is QEMU's user network with restrict=on: the guest reaches nothing but the controller, at
`controller` ("10.0.2.100:9443"), which is forwarded to 127.0.0.1:controller_port, one process for each
connection. Control goes over a virtio-serial port (packaging/guest/control) through a socket pair; the
guest powers off when that closes, so nothing is left behind by a test that dies.
"""
import atexit
import base64
import collections
import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid as uuids
import weakref

Result = collections.namedtuple("Result", "status out err")


class GuestError(Exception):
    pass


class CommandFailed(GuestError):
    def __init__(self, command, result):
        super().__init__(f"in the guest: {command!r} ended with {result.status}\n{result.out}{result.err}")
        self.result = result


class Disk:
    """One disk. `file` is made in the guest's folder unless it is given; `size` as truncate(1) takes it.
    `drive` adds keys to the device ("logical_block_size=4096"), `overlay` makes a qcow2 over a file."""

    def __init__(self, id, serial=None, size=None, file=None, format="raw", device="virtio-blk-pci", options="",
                 read_only=False):
        self.id, self.size, self.format, self.options = id, size, format, options
        self.serial = f"{id}-serial" if serial is None else serial
        self.file = pathlib.Path(file) if file else None
        self.device, self.read_only = device, read_only

    @property
    def node(self):
        return f"node-{self.id}"

    def make(self, folder):
        if self.file is None:
            self.file = folder / f"{self.id}.{self.format}"
        if self.file.exists():
            return
        if self.size is None:
            raise GuestError(f"disk {self.id}: no file and no size")
        subprocess.run(["qemu-img", "create", "-q", "-f", self.format, str(self.file), self.size], check=True)

    def arguments(self):
        ro = ",read-only=on" if self.read_only else ""
        serial = f",serial={self.serial}" if self.serial else ""
        options = f",{self.options}" if self.options else ""
        return [
            "-blockdev", f"driver={self.format},node-name={self.node}{ro},discard=unmap,"
                         f"file.driver=file,file.filename={self.file}{',file.read-only=on' if self.read_only else ''}"
                         f",file.discard=unmap",
            "-device", f"{self.device},id={self.id},drive={self.node}{serial}{options}",
        ]


class Qmp:
    """A QMP client of the test's own. Events that arrive are kept in `events`."""

    def __init__(self, path, timeout=30):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rw", encoding="utf-8", newline="\n")
        self.events = []
        self._read()
        self("qmp_capabilities")

    def _read(self):
        line = self.file.readline()
        if not line:
            raise GuestError("QEMU closed the QMP connection")
        return json.loads(line)

    def __call__(self, execute, **arguments):
        """Arguments with a dash in their name: give them as {'node-name': …} through `command`."""
        return self.command(execute, {k.replace("_", "-"): v for k, v in arguments.items()})

    def command(self, execute, arguments=None):
        message = {"execute": execute}
        if arguments:
            message["arguments"] = arguments
        self.file.write(json.dumps(message) + "\n")
        self.file.flush()
        while True:
            reply = self._read()
            if "event" in reply:
                self.events.append(reply)
            elif "error" in reply:
                raise GuestError(f"QMP {execute}: {reply['error']['desc']}")
            elif "return" in reply:
                return reply["return"]

    def close(self):
        self.file.close()
        self.socket.close()


def cpio_newc(files):
    """An initramfs archive with these files: {"/path": (bytes, mode)}. Folders are made on the way."""
    out, number, seen = bytearray(), [0], set()

    def entry(name, mode, data=b""):
        number[0] += 1
        name = name.encode() + b"\0"
        fields = [number[0], mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
        out.extend(b"070701" + b"".join(b"%08X" % f for f in fields) + name)
        out.extend(bytes(-len(out) % 4))
        out.extend(data)
        out.extend(bytes(-len(out) % 4))

    for path, (data, mode) in files.items():
        parts = path.strip("/").split("/")
        for i in range(1, len(parts)):
            folder = "/".join(parts[:i])
            # The folders that are symlinks in the guest are there already.
            if folder not in seen and folder not in ("bin", "sbin", "lib", "lib64"):
                seen.add(folder)
                entry(folder, 0o040755)
        entry("/".join(parts), 0o100000 | mode, data)
    entry("TRAILER!!!", 0)
    return bytes(out)


_running = weakref.WeakSet()


@atexit.register
def _kill_all():
    for guest in list(_running):
        guest.kill()


def _die_with_parent():
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Guest:
    def __init__(self, work, kernel, disks=(), name="guest", controller_port=None, memory="512M", files=None,
                 uuid=None, machine_id=None, extra=(), append=""):
        """`work`: folder for sockets, disks and the console log; keep its path short (a unix socket's
        path has 107 bytes). `kernel`: what packaging/guest/build wrote. `files`: {"/path": bytes or
        (bytes, mode)} to be in the guest at boot. `extra`: more arguments for QEMU."""
        self.work, self.kernel = pathlib.Path(work), pathlib.Path(kernel)
        self.work.mkdir(parents=True, exist_ok=True)
        self.name, self.disks = name, list(disks)
        self.controller_port, self.memory = controller_port, memory
        self.files = {p: f if isinstance(f, tuple) else (f, 0o644) for p, f in (files or {}).items()}
        self.uuid = uuid or str(uuids.uuid4())
        self.machine_id = machine_id or uuids.uuid4().hex
        self.extra, self.append = list(extra), append
        self.controller = "10.0.2.100:9443"
        self.qmp_source = self.work / f"{name}.source.qmp"
        self.qmp_test = self.work / f"{name}.test.qmp"
        self.console = self.work / f"{name}.console"
        self.process = self._qmp = self._control = None
        self._replies, self._lock, self._arrived = {}, threading.Lock(), threading.Condition()
        self._next, self._closed, self.ready = 1, False, False

    # ── Life ──

    def command_line(self, control_fd):
        initrd = self.kernel / "initrd"
        if self.files:
            initrd = self.work / f"{self.name}.initrd"
            with open(initrd, "wb") as out, open(self.kernel / "initrd", "rb") as base:
                shutil.copyfileobj(base, out, 1 << 20)
                out.write(cpio_newc(self.files))
        for disk in self.disks:
            disk.make(self.work)
        net = "user,id=n0,restrict=on"
        if self.controller_port:
            net += f",guestfwd=tcp:{self.controller}-cmd:sh -c 'exec busybox nc 127.0.0.1 {self.controller_port} 2>/dev/null'"
        line = [
            "qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-smp", "1", "-m", self.memory,
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-name", self.name,
            "-uuid", self.uuid, "-kernel", str(self.kernel / "vmlinux"), "-initrd", str(initrd),
            "-append", "console=ttyS0 quiet panic=-1 no_timer_check "  # which panics on a busy host
                       f"guest.name={self.name} guest.machine_id={self.machine_id} {self.append}",
            "-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console",
            "-qmp", f"unix:{self.qmp_source},server=on,wait=off",
            "-qmp", f"unix:{self.qmp_test},server=on,wait=off",
            "-device", "virtio-serial-pci,id=vs0",
            "-chardev", f"socket,id=control,fd={control_fd}",
            "-device", "virtserialport,bus=vs0.0,chardev=control,name=sealpoint.control",
            "-netdev", net, "-device", "virtio-net-pci,netdev=n0,romfile=",
            "-device", "virtio-rng-pci",
        ]
        for disk in self.disks:
            line += disk.arguments()
        return line + self.extra

    def start(self, timeout=120):
        """Boots and waits until commands can run."""
        ours, theirs = socket.socketpair()
        self._spawn(self.command_line(theirs.fileno()), [theirs.fileno()])
        theirs.close()
        self._control, self._closed, self.ready, self._qmp = ours, False, False, None
        threading.Thread(target=self._receive, args=(ours,), daemon=True).start()
        self._wait(lambda: self.ready, timeout, "the guest did not come up")
        return self

    def _spawn(self, line, descriptors=()):
        for path in (self.qmp_source, self.qmp_test):
            path.unlink(missing_ok=True)
        in_main = threading.current_thread() is threading.main_thread()
        with open(self.work / f"{self.name}.qemu", "ab") as log:
            self.process = subprocess.Popen(line, pass_fds=descriptors, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, preexec_fn=_die_with_parent if in_main else None)
        _running.add(self)
        self._qmp = None

    def pid(self):
        return self.process.pid

    def running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, timeout=20):
        """Powers off by closing the control channel; kills QEMU if that takes too long."""
        if self._control:
            try:
                self._control.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        if self.running():
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                pass
        self.kill()

    def kill(self):
        """SIGKILL to QEMU, as if the host had lost it."""
        if self.running():
            self.process.kill()
            self.process.wait()
        if self._qmp:
            self._qmp.close()
            self._qmp = None
        if self._control:
            self._control.close()
            self._control = None
        _running.discard(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def log(self):
        """What the guest's console and QEMU said."""
        text = ""
        for path in (self.console, self.work / f"{self.name}.qemu"):
            if path.exists():
                text += path.read_text(errors="replace")
        return text

    # ── Commands ──

    def _receive(self, control):
        buffered = b""
        while True:
            try:
                more = control.recv(65536)
            except OSError:
                more = b""
            if not more:
                break
            buffered += more
            *lines, buffered = buffered.split(b"\n")
            for line in lines:
                number, status, out, err = line.decode().split(" ")
                text = [base64.b64decode(t).decode(errors="replace") if t != "-" else "" for t in (out, err)]
                with self._arrived:
                    if number == "0":
                        self.ready = True
                    else:
                        self._replies[int(number)] = Result(int(status), *text)
                    self._arrived.notify_all()
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()

    def _wait(self, done, timeout, what):
        end = time.monotonic() + timeout
        with self._arrived:
            while not done():
                left = end - time.monotonic()
                if self._closed:
                    raise GuestError(f"{what}: QEMU ended or closed the channel\n{self.log()[-4000:]}")
                if left <= 0:
                    raise GuestError(f"{what} within {timeout} s\n{self.log()[-4000:]}")
                self._arrived.wait(left)

    def begin(self, script):
        """Starts a shell script; returns a ticket for finish(). Many may run at the same time."""
        with self._lock:
            number = self._next
            self._next += 1
            line = f"{number} {base64.b64encode(script.encode()).decode()}\n"
            self._control.sendall(line.encode())
        return number

    def finish(self, ticket, timeout=120):
        self._wait(lambda: ticket in self._replies, timeout, f"no answer to command {ticket}")
        return self._replies.pop(ticket)

    def run(self, script, timeout=120, check=True):
        """Runs a shell script as root in the guest. Raises CommandFailed unless it ends with 0."""
        result = self.finish(self.begin(script), timeout)
        if check and result.status:
            raise CommandFailed(script, result)
        return result

    def put(self, path, data, mode=0o644):
        """Writes a small file (the channel does about 100 kB/s); at boot use `files`."""
        if isinstance(data, str):
            data = data.encode()
        text = base64.b64encode(data).decode()
        self.run(f"mkdir -p $(dirname {path}) && umask 077 && printf %s '{text}' | base64 -d > {path} "
                 f"&& chmod {mode:o} {path}")

    def get(self, path):
        return base64.b64decode(self.run(f"base64 -w 0 {path}").out)

    # ── QMP of the test ──

    def qmp(self):
        if self._qmp is None:
            self._qmp = Qmp(self.qmp_test)
        return self._qmp

    def traces(self):
        """Everything of Sealpoint in QEMU: filters, jobs, exports, file-descriptor sets. [] when clean."""
        q = self.qmp()
        found = [n["node-name"] for n in q("query-named-block-nodes") if n["node-name"].startswith("sp")]
        found += [e["id"] for e in q("query-block-exports")]
        found += [j.get("device", "job") for j in q("query-block-jobs")]
        found += [f"fdset {s['fdset-id']}" for s in q("query-fdsets")
                  if any("sealpoint" in f.get("opaque", "") for f in s["fds"])]
        return found
