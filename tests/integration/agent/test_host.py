#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent on this host with a real controller: header writes on a loop device are on the fleet stream within
two seconds; the id from instance metadata is known to the controller; memory and size of a release build.
The agent may freeze nothing but an empty folder of the test's own."""
import http.server
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from foreign import FleetStream  # noqa: E402
from lab import Lab, Program, binary  # noqa: E402

WITHIN_S, GIVE_UP_S = 2.0, 60.0
RSS_MOST_KB, SIZE_MOST = 16 * 1024, 12 << 20
VM_ID = "02aab8a4-74ef-476e-8182-f6d2ba4166a6"
FAST = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]


def tool(*command):
    return subprocess.run([str(c) for c in command], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          text=True).stdout.strip()


# ── Instance metadata ──

class Metadata(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        mode = self.server.mode
        if mode == "silent":
            self.server.never.wait(30)
            return
        if mode == "missing":
            self.send_error(404)
            return
        if mode == "late":
            self.server.go.wait(3.5)  # the agent gives it 4 s
        self.send_response(200)
        self.end_headers()
        try:
            while mode == "endless":
                self.wfile.write(b"a" * 65536)
            if mode == "garbage":
                self.wfile.write(b"\0\xff{<html>no")
            elif self.path.startswith("/metadata/instance/compute/vmId?") and self.headers.get("Metadata") == "true":
                self.wfile.write(VM_ID.upper().encode())
            elif self.path == "/openstack/latest/meta_data.json":
                self.wfile.write(b'{"name": "web1", "uuid": "%s"}' % VM_ID.encode())
        except OSError:
            pass


def serve_metadata():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    server.daemon_threads, server.mode = True, "good"
    server.never, server.go = threading.Event(), threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


def metadata_is_read_with_care(agent, server, url):
    said = {"missing": "HTTP response code", "garbage": "holds no id", "endless": "too long",
            "silent": "Timeout was reached"}
    for cloud in ("azure", "openstack"):
        for mode in ("good", *said):
            server.mode = mode
            done = subprocess.run([agent, "metadata", cloud, url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  text=True, timeout=60)
            if mode == "good":
                assert (done.returncode, done.stdout) == (0, VM_ID + "\n"), (cloud, done)
            else:
                assert done.returncode == 1 and said[mode] in done.stdout, (cloud, mode, done)
    server.mode = "good"


# ── The agent of this host ──

class HostAgent:
    def __init__(self, lab, agent, url):
        self.lab = lab
        self.runtime = pathlib.Path(tempfile.mkdtemp(prefix="sp", dir="/dev/shm"))
        only = lab.path / "only"
        only.mkdir()
        self.options = ["--config", "/dev/null"]
        for option in (f"agent.state={lab.path}/as", f"agent.runtime={self.runtime}", f"freeze.only={only}",
                       "agent.name=host", "agent.metadata=azure", f"agent.metadata_url={url}"):
            self.options += ["-o", option]
        token = lab.path / "host-token"
        token.write_text(lab.token("host"))
        subprocess.run([agent, "enrol", "--controller", f"127.0.0.1:{lab.port}", "--token-file", token,
                        "--ca-fingerprint", lab.ca_fingerprint, *self.options], check=True)
        self.program = Program("agent", [agent, "run", *self.options], lab.path / "agent.log").start()

    def __enter__(self):
        self.lab.wait_for("the session", lambda: "connected" in self.program.log())
        return self

    def wait_for_inventory(self):
        self.lab.wait_for("the inventory", lambda: "inventory" in self.lab.machine("host"))

    def __exit__(self, *_):
        self.program.stop()
        shutil.rmtree(self.runtime, ignore_errors=True)

    def resident_kb(self):
        text = pathlib.Path(f"/proc/{self.program.pid()}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0])


def header_writes_are_told(lab, stream, folder):
    """No dm, and whether udevd runs or not: the loop device's node is watched."""
    image, keys = folder / "luks.raw", [folder / "k0", folder / "k1"]
    image.write_bytes(bytes(32 << 20))
    for key in keys:
        key.write_text(f"a key in {key}")
    loop = tool("losetup", "--find", "--show", image)

    def expect(kind, *command):
        wanted = stream.kinds.Value("CHANGE_KIND_" + kind)
        stream.drop()
        tool(*command)
        done = time.monotonic()
        got = stream.wait(lambda e: e.HasField("volume") and e.volume.change == wanted
                          and (e.volume.after or e.volume.before).device == loop, GIVE_UP_S)
        assert got, f"no {kind}"
        print(f"{kind}: {got[0] - done:+.2f} s", flush=True)
        assert got[0] - done <= WITHIN_S, (kind, got[0] - done)
        return got[1].volume

    try:
        expect("VOLUME_APPEARED", "cryptsetup", "-q", "luksFormat", "--type", "luks2", *FAST, "--key-file", keys[0], loop)
        # Where the volume was seen first, its header may not have been written to the end.
        lab.wait_for("its one keyslot", lambda: [
            v for v in lab.machine("host")["inventory"].get("volumes", []) if v.get("device") == loop
            and len(v["header"].get("protectors", [])) == 1 and not v["header"].get("damaged")])
        added = expect("PROTECTOR_ADDED", "cryptsetup", "-q", "luksAddKey", *FAST, "--key-file", keys[0], loop, keys[1])
        assert added.protector_id == "1", added
        gone = expect("PROTECTOR_REMOVED", "cryptsetup", "-q", "luksKillSlot", "--key-file", keys[1], loop, "0")
        assert gone.protector_id == "0" and len(gone.after.header.protectors) == 1, gone
    finally:
        tool("losetup", "-d", loop)


def a_release_build_is_small(host, agent):
    stripped = host.lab.path / "stripped"
    tool("strip", "-o", stripped, agent)
    size, resident = stripped.stat().st_size, host.resident_kb()
    print(f"{size} bytes without symbols, {resident} kB resident")
    assert size <= SIZE_MOST, size
    assert resident <= RSS_MOST_KB, resident


def main():
    release = os.environ.get("SEALPOINT_GUEST_AGENT")
    agent = release or str(binary("sealpoint-agent"))
    server, url = serve_metadata()
    metadata_is_read_with_care(agent, server, url)
    with Lab() as lab:
        lab.up()
        server.mode = "late"
        with HostAgent(lab, agent, url) as host:
            server.go.set()
            host.wait_for_inventory()
            # The first session did not wait for the id, which is told when it comes.
            lab.wait_for("the id", lambda: lab.machine("host")["agent"].get("vm_id") == VM_ID)
            assert lab.machine("host")["agent"]["vm_id_source"] == "azure"
            log = host.program.log()
            assert 0 <= log.find("connected") < log.find("instance metadata"), log
            stream = FleetStream(lab)
            stream.wait(lambda e: e.HasField("machine"), GIVE_UP_S)
            header_writes_are_told(lab, stream, lab.path)
            stream.close()
            if release:
                a_release_build_is_small(host, agent)


main()
