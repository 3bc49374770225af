#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""HashiCorp Vault's max_versions, seen coming. Against a fake, not against Vault: it answers over HTTPS with the shapes
that Vault's documentation gives for KV version 2, and prunes as that says. Through the whole program: a kept point rests
on a version at the provider only; users are told where they look before the version goes, are not told any more when it
is put right, and a version that went all the same puts the point at risk."""
import http.server
import json
import pathlib
import ssl
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from escrow import nothing_is_left, reasons, run, section, time_used, verify  # noqa: E402
from idle import IdleMachine, make_images, tool, volume_id  # noqa: E402
from lab import Lab  # noqa: E402

TOKEN = "hvs.the-token-of-the-keeper"


class Fake(http.server.ThreadingHTTPServer):
    """One secret, written by put(), with Vault's pruning."""
    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ca, key = folder / "vault.pem", folder / "vault.key"
        tool("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
             "/CN=vault", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-keyout", key, "-out", self.ca)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.versions, self.current, self.max_versions = {}, 0, 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def put(self, value):
        self.current += 1
        self.versions[self.current] = value
        for version in list(self.versions):
            if version <= self.current - (self.max_versions or 10):
                del self.versions[version]

    def metadata(self):
        return {"current_version": self.current, "oldest_version": min(self.versions), "max_versions": self.max_versions,
                "versions": {str(v): {"created_time": "2026-01-01T00:00:00Z", "deletion_time": "", "destroyed": False}
                             for v in self.versions}}


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        path, _, query = self.path.partition("?")
        version = int(query.removeprefix("version=") or 0)
        status, answer = 404, {"errors": []}
        if self.headers["X-Vault-Token"] != TOKEN:
            status, answer = 403, {"errors": ["permission denied"]}
        elif path.startswith("/v1/secret/metadata/machines/idle1/"):
            status, answer = 200, {"data": self.server.metadata()}
        elif path.startswith("/v1/secret/data/machines/idle1/") and version in self.server.versions:
            status, answer = 200, {"data": {"data": {"key": self.server.versions[version]},
                                            "metadata": {"version": version, "destroyed": False, "deletion_time": ""}}}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def warnings(lab):
    return [line for line in run(lab, "status")[1].splitlines() if "max_versions" in line]


def is_told(lab, point):
    """status, key list, key show, point show and the keeper's audit; the record it is about."""
    shown = warnings(lab)
    assert len(shown) == 1 and "rest on it: 1)" in shown[0], run(lab, "status")
    assert "removes version 1 for good with the third write from now" in shown[0], shown
    print(shown[0], flush=True)
    record = shown[0].split("key ")[1].split()[0]
    listed = [line for line in run(lab, "key", "list")[1].splitlines() if "soon removed" in line]
    assert len(listed) == 1 and listed[0].startswith(record), listed
    assert "max_versions" in run(lab, "key", "show", record)[1]
    assert "max_versions" in run(lab, "point", "show", point)[1]
    assert any(k.get("warning") for k in lab.cli("key", "list")["records"])
    audit = run(lab, "audit", "list", "--log", "keeper")[1]
    assert "key.warning" in audit and "max_versions" in audit, audit[-2000:]


def is_not_told(lab, point):
    assert warnings(lab) == [] and "soon removed" not in run(lab, "key", "list")[1]
    assert "max_versions" not in run(lab, "point", "show", point)[1]


def main():
    with Lab() as lab:
        images, keys = make_images(lab.path / "images")
        image, volume = images["luks2"], volume_id(images["luks2"])
        right, vault, token = keys["luks2"].read_text(), Fake(lab.path), lab.path / "password-vault"
        token.write_text(TOKEN + "\n")
        token.chmod(0o600)
        vault.put(right)
        with open(lab.keeper_conf, "a") as conf:
            conf.write("\n" + section("hashicorp-vault", "main", {
                "url": f"https://127.0.0.1:{vault.server_address[1]}", "ca_file": vault.ca, "token_file": token,
                "path": "machines/{machine}/{volume}", "mirror": "no"}))
        lab.up()
        with IdleMachine(lab.path / "idle1", {"luks2": image}) as machine:
            machine.start()
            lab.cli("machine", "add", "idle1")
            lab.cli("vault", "add", "main", "--dir", lab.vault)
            lab.cli("machine", "set-source", "idle1", "--qmp", machine.qmp_source, "--vault", "main")
            lab.cli("machine", "set-policy", "idle1", "--allow", f"ESCROW_NOT_PINNABLE:{volume}", "--why", "no copies")
            job = json.loads(lab.cli("backup", "idle1", "--no-agent", "--json", check=False)[1])
        point = job["point_id"]
        assert job["state"] == "POINT_STATE_VALID", job
        is_not_told(lab, point)
        vault.max_versions = 4
        vault.put("another key of the live volume")  # three writes before version 1 goes
        assert verify(lab, point)["state"] == "POINT_STATE_VALID"
        is_told(lab, point)
        vault.max_versions = 20
        assert verify(lab, point)["state"] == "POINT_STATE_VALID"
        is_not_told(lab, point)
        vault.max_versions = 4
        for _ in range(3):
            vault.put("another key of the live volume")
        lost = verify(lab, point)
        assert lost["state"] != "POINT_STATE_VALID" and "REASON_ESCROW_KEY_WRONG" in reasons(lost), lost
        nothing_is_left(lab, right, TOKEN, but=lambda p: p.name.startswith("password-") or p == keys["luks2"])
        time_used("all")


main()
