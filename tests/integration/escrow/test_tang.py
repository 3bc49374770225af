#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""tang as a provider, with the real tangd and clevis: volumes whose clevis tokens are all that there is of their keys
are proved by the recovery exchange. What is said of a server that is away, that lost its key, that lies, or that nobody
listed; what rotation does; and a copy that outlives the servers."""
import base64
import json
import os
import pathlib
import shutil
import socketserver
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from escrow import restart_keeper, run, section, time_used, verify  # noqa: E402
from idle import IdleMachine, tool, volume_id  # noqa: E402
from lab import Lab  # noqa: E402

LIBEXEC = pathlib.Path("/usr/libexec")
LONG = bool(os.environ.get("SEALPOINT_LONG"))
PASSPHRASE = "the passphrase that is in no escrow"


class Server(socketserver.ThreadingTCPServer):
    """A tang server on a port of its own. `lie`: what it answers instead, from (path, body)."""
    allow_reuse_address = daemon_threads = True

    def __init__(self, folder):
        self.folder, self.lie, self.asked = folder, None, 0
        folder.mkdir()
        tool(LIBEXEC / "tangd-keygen", folder)
        self.port = 0
        self.start()

    def start(self):
        super().__init__(("127.0.0.1", self.port), Handler)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self):
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def exchange_key(self):
        """The file of the key that volumes are bound to."""
        return next(f for f in self.folder.glob("*.jwk") if json.loads(f.read_text())["alg"] == "ECMR")

    def rotate(self):
        """As tangd-rotate-keys: new keys, and the old ones hidden. The old exchange key's file."""
        old = self.exchange_key().name
        for f in list(self.folder.glob("*.jwk")):
            if not f.name.startswith("."):
                f.rename(f.with_name("." + f.name))
        tool(LIBEXEC / "tangd-keygen", self.folder)
        return self.folder / ("." + old)


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.server.asked += 1
        if not self.server.lie:
            subprocess.run([LIBEXEC / "tangd", self.server.folder], stdin=self.request, stdout=self.request,
                           stderr=subprocess.DEVNULL)
            return
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.request.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = [int(line.split(b":")[1]) for line in lengths]
        while length and len(body) < length[0]:
            body += self.request.recv(65536)
        status, text = self.server.lie(head.split()[1].decode(), body)
        self.request.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())


# ── Images ──

def make_plain(folder):
    """LUKS2 with ext4 in it and one passphrase, which the keystore never gets."""
    image, key, tree = folder / "plain.raw", folder / "plain.key", folder / "tree"
    tree.mkdir(parents=True)
    (tree / "hello").write_text("what is in here\n")
    key.write_text(PASSPHRASE)
    tool("mke2fs", "-q", "-t", "ext4", "-d", tree, image, "12M")
    tool("truncate", "-s", "+32M", image)
    tool("cryptsetup", "-q", "reencrypt", "--encrypt", "--type", "luks2", "--resilience", "none", "--pbkdf", "pbkdf2",
         "--pbkdf-force-iterations", "1000", "--reduce-device-size", "32M", "--force-offline-reencrypt",
         "--key-file", key, image)
    return image, key


def copy_of(plain, name, number):
    image = plain.with_name(f"{name}.raw")
    shutil.copy(plain, image)
    tool("cryptsetup", "-q", "luksUUID", "--uuid", f"{number:08d}-1111-4222-8333-444444444444", image)
    return image


def bind(image, key, server):
    tool("clevis", "luks", "bind", "-y", "-f", "-k", key, "-d", image, "tang", json.dumps({"url": server.url}))


def bind_by_hand(image, key, policy):
    """What 'clevis luks bind' does, in a fraction of its time."""
    new = image.with_suffix(".new")
    new.write_text("a passphrase that only clevis has")
    with open(new) as secret:
        jwe = subprocess.run(["clevis", "encrypt", "sss", json.dumps(policy), "-y"], stdin=secret, capture_output=True,
                             text=True, check=True).stdout.strip()
    tool("cryptsetup", "-q", "luksAddKey", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-slot", "1",
         "--key-file", key, image, new)
    parts = dict(zip(("protected", "encrypted_key", "iv", "ciphertext", "tag"), jwe.split(".")))
    import_token(image, {"type": "clevis", "keyslots": ["1"], "jwe": parts})
    new.unlink()


def encoded(what):
    return base64.urlsafe_b64encode(json.dumps(what).encode()).decode().rstrip("=")


def import_token(image, token):
    subprocess.run(["cryptsetup", "token", "import", image], input=json.dumps(token), text=True, check=True)


def import_header(image, header):
    """A token as a hostile or foreign hand would write it."""
    import_token(image, {"type": "clevis", "keyslots": ["0"],
                         "jwe": {"protected": encoded(header), "encrypted_key": "", "iv": "AAAA", "ciphertext": "AAAA",
                                 "tag": "AAAA"}})


# ── Sealpoint ──

def tang(name, *servers, **more):
    return section("tang", name, {"url": " ".join(getattr(s, "url", s) for s in servers), "timeout": "5s", **more})


def said(job, volume=None):
    """{reason: text} of what stands against the point, or against one volume of it."""
    return {f["reason"].removeprefix("REASON_"): f["text"] for f in job["findings"]
            if not f.get("note") and volume in (None, f.get("volume_id"))}


def expect(lab, point, volume, reason, *words):
    against = said(verify(lab, point), volume)
    assert reason in against and all(w in against[reason] for w in words), (reason, words, against)
    print(f"{reason}: {against[reason]}", flush=True)
    return against


# ── What must hold ──

def escrow_test(lab, servers):
    """'escrow test' names the stage, and what to do."""
    def ends(stage, words):
        status, text = run(lab, "escrow", "test", "net")
        last = text.strip().splitlines()[-1]
        assert (status == 0) == (stage is None) and last.startswith(stage or "net answers") and words in last, text
        print(last, flush=True)

    ends(None, "")
    servers[2].lie = lambda path, body: (200, "<html>welcome</html>")
    ends("canary", f"{servers[2].url} is no tang server")
    servers[2].lie = None
    if LONG:
        servers[1].stop()
        ends("connection", servers[1].url)
        servers[1].start()


def who_was_not_listed_is_not_asked(job, ids, unlisted):
    """A header that names another server, or the TPM, or nothing that makes sense."""
    against = said(job, ids["unlisted"])
    assert unlisted.url in against["ESCROW_DENIED"] and "[tang net]" in against["ESCROW_DENIED"], against
    assert unlisted.asked == 0
    against = said(job, ids["tpm"])
    assert against["ESCROW_MISSING"].startswith("no key") and "keyslot 0" in against["ESCROW_MISSING"], against
    assert "TPM" in against["ESCROW_MISSING"], against
    for name, words in (("thumbprint", "thumbprint"), ("deep", "too many parts")):
        against = said(job, ids[name])
        assert words in against["ESCROW_UNREACHABLE"], against
    for reason, text in said(job).items():
        print(f"{reason}: {text}", flush=True)


def hostile_headers(plain, servers, unlisted):
    """{name: image}"""
    images = {n: copy_of(plain, n, i) for i, n in enumerate(("unlisted", "tpm", "thumbprint", "deep"), 10)}
    adv = json.loads(tool("curl", "-s", unlisted.url + "/adv"))
    keys = json.loads(base64.urlsafe_b64decode(adv["payload"] + "==="))
    key = next(k for k in keys["keys"] if k["alg"] == "ECMR")
    tang = {"alg": "ECDH-ES", "enc": "A256GCM", "kid": unlisted.exchange_key().stem,
            "epk": {k: key[k] for k in ("kty", "crv", "x", "y")},
            "clevis": {"pin": "tang", "tang": {"url": unlisted.url, "adv": keys}}}
    import_header(images["unlisted"], tang)
    import_header(images["tpm"],
                  {"alg": "dir", "enc": "A256GCM", "clevis": {"pin": "tpm2", "tpm2": {"hash": "sha256"}}})
    import_header(images["thumbprint"], {**tang, "kid": servers[0].exchange_key().stem})
    nested = tang
    for _ in range(6):
        jwe = encoded(nested) + "..AAAA.AAAA.AAAA"
        shares = {"t": 1, "p": base64.b64encode(b"\1" * 32).decode().rstrip("="), "jwe": [jwe]}
        nested = {"alg": "dir", "enc": "A256GCM", "clevis": {"pin": "sss", "sss": shares}}
    import_header(images["deep"], nested)
    unlisted.asked = 0
    return images


def two_of_three(lab, point, ids, servers):
    """With one server away two are enough, with two away they are not, and the text counts."""
    servers[2].stop()
    volume = ids["sss"]
    if LONG:
        assert set(said(verify(lab, point), volume)) == {"ESCROW_NOT_PINNABLE"}
    servers[1].stop()
    expect(lab, point, volume, "ESCROW_UNREACHABLE", "2 of 3 shares are needed, 1 were had", servers[1].url)
    servers[2].start()
    servers[1].start()
    lost = [(s, s.exchange_key()) for s in servers[1:]]
    for server, key in lost:
        key.rename(key.with_suffix(".away"))
    expect(lab, point, volume, "ESCROW_MISSING", "2 of 3 shares are needed, 1 can be had")
    for server, key in lost:
        key.with_suffix(".away").rename(key)


def it_is_warned_of(lab, point):
    """Where people look, before the key is gone."""
    listed, status = run(lab, "key", "list")[1], run(lab, "status")[1]
    assert listed.count("soon removed") == 1, listed  # two of three are enough for the other
    warning = [line for line in status.splitlines() if "rotated its key" in line]
    assert len(warning) == 1 and "rest on it: 1)" in warning[0], status
    record = warning[0].split("key ")[1].split()[0]
    assert "rotated its key" in run(lab, "key", "show", record)[1]
    assert "rotated its key" in run(lab, "point", "show", point)[1]
    print(warning[0], flush=True)


def one_server(lab, point, volume, server):
    """Rotated keys answer and are warned of; deleted ones are absent; a server that is away is neither."""
    if LONG:
        server.stop()
        expect(lab, point, volume, "ESCROW_UNREACHABLE", server.url)
        server.start()
    old = server.rotate()
    against = expect(lab, point, volume, "ESCROW_NOT_PINNABLE", "rotated its key", "clevis luks regen")
    assert set(against) == {"ESCROW_NOT_PINNABLE"}
    it_is_warned_of(lab, point)
    old.rename(old.with_suffix(".away"))
    expect(lab, point, volume, "ESCROW_MISSING", "has the key", "no more", old.stem.removeprefix("."))
    old.with_suffix(".away").rename(old)


def liars(lab, point, volume, server):
    def curve(path, body):
        return 200, json.dumps({**json.loads(body or "{}"), "crv": "P-256"})

    def off(path, body):
        key = json.loads(body or "{}")
        return 200, json.dumps({**key, "y": key.get("x")})

    def other(path, body):
        return 200, tool("jose", "jwk", "pub", "-i", other_key)

    def sneaky(path, body):
        return 200, json.dumps({**json.loads(tool("jose", "jwk", "pub", "-i", other_key)), "d": "AQ"})

    other_key = server.folder.with_name("other.jwk")
    tool("jose", "jwk", "gen", "-i", '{"alg":"ECMR","crv":"P-521"}', "-o", other_key)
    cases = [(curve, "UNREACHABLE", "another curve"), (off, "UNREACHABLE", "no point of the curve"),
             (other, "UNREACHABLE", "does not open the clevis token"),
             (lambda p, b: (404, "no such page"), "DENIED", "not of tang")]
    if LONG:
        cases += [(sneaky, "UNREACHABLE", "does not open the clevis token"),
                  (lambda p, b: (200, "[" * 5000), "UNREACHABLE", "is no key"),
                  (lambda p, b: (200, "x" * 300000), "UNREACHABLE", "longer than"),
                  (lambda p, b: (403, "log on"), "DENIED", "403"), (lambda p, b: (302, "there"), "UNREACHABLE", "302")]
    for lie, reason, words in cases:
        server.lie = lie
        expect(lab, point, volume, f"ESCROW_{reason}", words)
    server.lie = None


def a_copy_outlives_the_servers(lab, point, ids, servers):
    def nothing_against():
        job = verify(lab, point)
        assert said(job, ids["tang"]) == said(job, ids["sss"]) == {}, job

    restart_keeper(lab, tang("net", *servers, mirror="yes"))
    nothing_against()
    records = [k for k in lab.cli("key", "list")["records"] if k["holding"] == "RECORD_HOLDING_MIRRORED"]
    assert len(records) == 2 and all(k["provider"] == "net" and k["pins"] == 1 for k in records), records
    kids = [k for k in records if servers[0].url in k["note"] and "2 of (" not in k["note"]]
    assert len(kids) == 1 and kids[0]["version"].split("/")[0] in kids[0]["note"], records
    assert any(k["version"].startswith("2-of-3/") for k in records), records
    print(run(lab, "key", "show", kids[0]["record_id"])[1].strip(), flush=True)
    for server in servers:  # not one of the keys is left, and nobody who could be asked
        server.rotate()
        for f in server.folder.glob(".*.jwk"):
            f.unlink()
        server.stop()
    nothing_against()
    assert lab.cli("keystore", "check").get("problems", []) == []


def main():
    with Lab() as lab:
        servers = [Server(lab.path / f"tang{i}") for i in range(3)]
        unlisted = Server(lab.path / "unlisted")
        plain, key = make_plain(lab.path / "images")
        images = {"tang": copy_of(plain, "tang", 1), "sss": copy_of(plain, "sss", 2)}
        bind(images["tang"], key, servers[0])
        bind_by_hand(images["sss"], key, {"t": 2, "pins": {"tang": [{"url": s.url + "/"} for s in servers]}})
        images |= hostile_headers(plain, servers, unlisted)
        ids = {n: volume_id(p) for n, p in images.items()}
        time_used("images")
        with open(lab.keeper_conf, "a") as conf:
            conf.write("\n" + tang("net", *servers, mirror="no"))
        lab.up()
        escrow_test(lab, servers)
        time_used("escrow test")
        with IdleMachine(lab.path / "idle1", images) as machine:
            machine.start()
            lab.cli("machine", "add", "idle1")
            lab.cli("vault", "add", "main", "--dir", lab.vault)
            lab.cli("machine", "set-source", "idle1", "--qmp", machine.qmp_source, "--vault", "main")
            job = json.loads(lab.cli("backup", "idle1", "--no-agent", "--json", check=False)[1])
        point = job["point_id"]
        for name in ("tang", "sss"):
            assert set(said(job, ids[name])) == {"ESCROW_NOT_PINNABLE"}, job
        who_was_not_listed_is_not_asked(job, ids, unlisted)
        time_used("backup")
        two_of_three(lab, point, ids, servers)
        one_server(lab, point, ids["tang"], servers[0])
        time_used("servers")
        liars(lab, point, ids["tang"], servers[0])
        time_used("liars")
        a_copy_outlives_the_servers(lab, point, ids, servers)
        time_used("mirror")
        for path in lab.path.rglob("*.log"):
            assert PASSPHRASE not in path.read_text()


main()
