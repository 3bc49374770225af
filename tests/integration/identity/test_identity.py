#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may what. Unknown, expired, used-up and revoked tokens, a wrong fingerprint, an agent that speaks for
another machine, a viewer who calls an admin's method, an agent's certificate used as a server's, a second copy of
an enrolled guest: each refused or quarantined with its own message, each in the audit. Agents run on this host,
in folders of their own; they are never asked to freeze anything."""
import json
import pathlib
import shutil
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from lab import Lab, Program, binary  # noqa: E402


class Agent:
    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.folder = lab.path / f"agent-{name}"
        self.runtime = pathlib.Path("/dev/shm") / f"sptest-{lab.path.name}-{name}"
        self.conf = self.folder / "agent.conf"
        self.program = None
        (self.folder / "state").mkdir(parents=True)
        self.runtime.mkdir(mode=0o700)
        self.write_conf()

    def write_conf(self):
        self.conf.write_text(f"[agent]\ncontroller = 127.0.0.1:{self.lab.port}\nname = {self.name}\n"
                             f"state = {self.folder / 'state'}\nruntime = {self.runtime}\n")

    def enrol(self, token_file, fingerprint=None):
        done = subprocess.run(
            [binary("sealpoint-agent"), "enrol", "--config", self.conf, "--controller", f"127.0.0.1:{self.lab.port}",
             "--token-file", token_file, "--ca-fingerprint", fingerprint or self.lab.ca_fingerprint],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        return done.returncode, done.stdout

    def start(self):
        self.program = Program(f"agent {self.name}", [binary("sealpoint-agent"), "run", "--config", self.conf],
                               self.folder / "log").start()
        return self

    def stop(self):
        if self.program:
            self.program.stop()
        shutil.rmtree(self.runtime, ignore_errors=True)

    def copy(self):
        """The guest, cloned: the same state, running somewhere else."""
        other = Agent(self.lab, self.name + "-copy")
        shutil.rmtree(other.folder / "state")
        shutil.copytree(self.folder / "state", other.folder / "state")
        other.name = self.name
        other.write_conf()
        return other


def audit(lab):
    status, out, err = lab.cli("audit", "list", "--json", check=False)
    assert status == 0, err
    entries, decoder, at = [], json.JSONDecoder(), 0
    out = out.strip()
    while at < len(out):
        entry, at = decoder.raw_decode(out, at)
        entries.append(entry)
        while at < len(out) and out[at].isspace():
            at += 1
    return entries


class Audited:
    """What happens inside must leave an entry whose text holds one of the words."""

    def __init__(self, lab, *words):
        self.lab, self.words = lab, words

    def __enter__(self):
        self.before = {(e["log"], e["number"]) for e in audit(self.lab)}

    def __exit__(self, kind, *_):
        if kind:
            return
        fresh = [e for e in audit(self.lab) if (e["log"], e["number"]) not in self.before]
        text = "\n".join(f"{e['log']} {e['what']} {e['text']}" for e in fresh).lower()
        assert any(w in text for w in self.words), f"the audit says nothing of {self.words}:\n{text}"


def token(lab, name, *more):
    path = lab.path / f"{name}-{time.monotonic_ns()}.token"
    lab.cli("token", "create", "--out", path, *more)
    return path


def tokens(lab):
    agent = Agent(lab, "web1")
    messages = {}

    def refused(what, path, *words, fingerprint=None):
        with Audited(lab, *words) if words else open("/dev/null"):
            status, said = agent.enrol(path, fingerprint)
            assert status != 0, f"{what}: enrolled\n{said}"
        messages[what] = said.strip().splitlines()[-1]
        assert not (agent.folder / "state/agent.pem").exists(), what

    good = token(lab, "web1", "--machine", "web1")
    text = good.read_text().strip()
    unknown = lab.path / "unknown.token"
    unknown.write_text("sealpoint-token-1:00000000-0000-4000-8000-000000000000:" + text.rsplit(":", 1)[1])
    refused("unknown token", unknown, "no such enrolment token")
    forged = lab.path / "forged.token"
    forged.write_text(text[:-4] + ("AAAA" if not text.endswith("AAAA") else "QQQQ"))
    refused("wrong secret", forged, "proof", "secret")
    expired = token(lab, "web1", "--machine", "web1", "--expires", "5s")  # time enough to be made on a slow host
    time.sleep(5.5)
    refused("expired token", expired, "expired")
    refused("token of another machine", token(lab, "other", "--machine", "db7"), "another machine", "machine")
    gone = token(lab, "web1", "--machine", "web1")
    lab.cli("token", "revoke", gone.read_text().split(":")[1])
    refused("revoked token", gone, "revoked")
    refused("wrong fingerprint", good, fingerprint="0" * 64)
    nonsense = lab.path / "nonsense.token"
    nonsense.write_text("hello\n")
    refused("no token at all", nonsense)

    status, said = agent.enrol(good)
    assert status == 0, said
    second = Agent(lab, "web1b")
    with Audited(lab, "used"):
        status, said = second.enrol(good)
        assert status != 0, said
    messages["used-up token"] = said.strip().splitlines()[-1]
    second.stop()
    assert len(set(messages.values())) == len(messages), messages
    for what, said in messages.items():
        print(f"{what}: {said}", flush=True)
    return agent


def added_by_hand(lab):
    """"machine add", a key for it, then its agent comes with a token for the name: the same machine, with its key."""
    mine = lab.cli("machine", "add", "hand1")["machine_id"]
    key = lab.path / "hand.key"
    key.write_text("of hand1")
    volume = "luks:11111111-2222-4333-8444-555555555555"
    lab.cli("key", "import", "hand1", volume, "--passphrase-file", key)
    agent = Agent(lab, "hand1")
    status, said = agent.enrol(token(lab, "hand1", "--machine", "hand1"))
    agent.stop()
    assert status == 0, said
    machine = lab.wait_for("the enrolment", lambda: (m := lab.machine("hand1"))["agent"]["enrolled"] and m)
    assert machine["machine_id"] == mine, (machine["machine_id"], mine)
    assert [r["volume_id"] for r in lab.cli("key", "list", "hand1")["records"]] == [volume]
    names = [m for m in lab.cli("machine", "list", json=False, check=False)[1].splitlines() if m.startswith("hand1")]
    assert len(names) == 1, names
    print("a machine added by hand keeps its id and its keys when its agent enrols", flush=True)


def groups_and_approval(lab):
    path = token(lab, "many", "--group", "farm", "--count", "2", "--pattern", "farm-*")
    first, odd = Agent(lab, "farm-1"), Agent(lab, "mill-1")
    assert first.enrol(path)[0] == 0
    status, said = odd.enrol(path)
    assert status != 0, said
    print(f"name that does not fit: {said.strip().splitlines()[-1]}", flush=True)
    first.stop()
    odd.stop()
    assert lab.machine("farm-1")["group"] == "farm"


def roles(lab):
    for role in ("viewer", "operator", "custodian"):
        lab.cli("user", "add", role, "--role", role, "--out", lab.path / role)
    viewer, operator, custodian = (lab.path / r for r in ("viewer", "operator", "custodian"))
    cases = [
        (viewer, ("machine", "list"), 0),
        (viewer, ("vault", "add", "v", "--dir", lab.path / "v"), 5),
        (viewer, ("token", "create", "--machine", "x", "--out", lab.path / "x.token"), 5),
        (viewer, ("machine", "add", "x"), 5),
        (operator, ("machine", "add", "from-operator"), 0),
        (operator, ("user", "list"), 5),
        (custodian, ("machine", "add", "x"), 5),
    ]
    for profile, words, expected in cases:
        with Audited(lab, "permission", "denied", "refused", "role", "viewer", "operator", "custodian") \
                if expected == 5 else open("/dev/null"):
            status, out, err = lab.cli(*words, check=False, profile=profile)
            assert status == expected, (profile.name, words, status, out, err)
        if expected:
            print(f"{profile.name}, {' '.join(map(str, words[:2]))}: {err.strip()}", flush=True)
    with Audited(lab, "revoke"):
        lab.cli("user", "revoke", "viewer", "--why", "left")
    lab.wait_for("the revocation to count",
                 lambda: lab.cli("machine", "list", check=False, profile=viewer)[0] == 5, timeout=30)
    status, out, err = lab.cli("machine", "list", check=False, profile=viewer)
    assert "revoked" in err, err


def sessions(lab, agent):
    agent.start()
    lab.wait_for("the agent to connect", lambda: lab.machine("web1")["agent"]["connected"])
    copy = agent.copy()
    with Audited(lab, "clone", "quarantine"):
        copy.start()
        lab.wait_for("the quarantine", lambda: lab.machine("web1")["agent"]["quarantined"], timeout=30)
    assert lab.machine("web1")["agent"]["quarantine_reason"], "no reason given"
    copy.program.stop()
    shutil.rmtree(copy.runtime, ignore_errors=True)
    with Audited(lab, "quarantine"):
        lab.cli("machine", "release-quarantine", "web1")
    lab.wait_for("the agent to be trusted again",
                 lambda: lab.machine("web1")["agent"]["connected"] and not lab.machine("web1")["agent"]["quarantined"],
                 timeout=60)
    print("second copy: quarantined until an operator decides", flush=True)


# A client that is not ours: an agent's certificate, a Hello that names another machine, then a user's method.
LIAR = r"""
import sys, grpc
port, state, machine = sys.argv[1:]
read = lambda n: open(state + "/" + n, "rb").read()
def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data
hello = b"\x08\x01\x10\x01" + field(5, machine.encode()) + field(10, b"e" * 16)
channel = grpc.secure_channel("127.0.0.1:" + port,
    grpc.ssl_channel_credentials(read("trust.pem"), read("agent.key"), read("agent.pem")),
    [("grpc.ssl_target_name_override", "controller.sealpoint.internal")])
call = channel.stream_stream("/sealpoint.v1.AgentLink/Session")(iter([field(1, hello)]), timeout=20)
try:
    for message in call:
        print("got", message)
except grpc.RpcError as e:
    print(e.code().name, e.details())
try:
    print("got", channel.unary_unary("/sealpoint.v1.Fleet/ListMachines")(b"", timeout=20))
except grpc.RpcError as e:
    print(e.code().name, e.details())
"""


def another_machines_voice(lab, agent):
    lie = Agent(lab, "liar")
    assert lie.enrol(token(lab, "liar", "--machine", "liar"))[0] == 0
    mine = lab.machine("web1")["machine_id"]
    with Audited(lab, "spoke for machine"), Audited(lab, "not for identities of kind agent"):
        said = subprocess.run(["/usr/bin/python3", "-c", LIAR, str(lab.port), lie.folder / "state", mine],
                              stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout
    assert said.count("PERMISSION_DENIED") == 2 and "got" not in said, said
    lie.stop()
    print("an agent speaks only for its own machine:", said.strip(), flush=True)


def agent_certificate_as_server(lab, agent):
    """A server that shows an agent's certificate gets nothing from a client of ours."""
    state = agent.folder / "state"
    port = subprocess.run([sys.executable, "-c", "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); "
                           "print(s.getsockname()[1])"], stdout=subprocess.PIPE, text=True).stdout.strip()
    server = subprocess.Popen(["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", state / "agent.pem", "-key",
                               state / "agent.key", "-alpn", "h2", "-quiet"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    profile = lab.path / "fooled"
    shutil.copytree(lab.profile, profile)
    conf = profile / "client.conf"
    conf.write_text(conf.read_text().replace(f"127.0.0.1:{lab.port}", f"127.0.0.1:{port}"))
    status, out, err = lab.cli("status", check=False, profile=profile, timeout=120)
    assert status == 4, (status, out, err)
    server.terminate()
    got = server.communicate()[0]
    assert b"PRI * HTTP/2" not in got, got[:100]
    print("an agent's certificate is no server's:", err.strip(), flush=True)


def revocation(lab, agent):
    with Audited(lab, "revoke"):
        lab.cli("machine", "revoke", "web1", "--why", "stolen")
    lab.wait_for("the stream to close", lambda: not lab.machine("web1")["agent"]["connected"], timeout=30)
    with Audited(lab, "revoked"):
        time.sleep(5)
    assert not lab.machine("web1")["agent"]["connected"]
    assert lab.machine("web1")["revoked"]
    print("a revoked agent's stream is closed and stays closed", flush=True)


def main():
    with Lab() as lab:
        lab.up()
        agent = tokens(lab)
        try:
            added_by_hand(lab)
            groups_and_approval(lab)
            roles(lab)
            sessions(lab, agent)
            another_machines_voice(lab, agent)
            agent_certificate_as_server(lab, agent)
            revocation(lab, agent)
        finally:
            agent.stop()
        assert lab.cli("audit", "verify", json=False, check=False)[0] == 0


main()
