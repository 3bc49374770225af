# SPDX-License-Identifier: GPL-3.0-or-later
"""A fake of Azure Key Vault on loopback, with its login service and instance metadata: NOT Azure, and not a full
one. Written after Microsoft's documentation of the REST API (Key Vault 7.4: Get Secret, Get Secrets, Get Secret
Versions, Get Deleted Secret(s), Unwrap Key, "REST API error codes"; "client credentials flow"; "How managed identities
work": IMDS), and after the tags and values that the Azure Disk Encryption extensions write. Vault and login speak
HTTPS, metadata plain HTTP as on a VM. RSA is openssl's, or a PKCS#11 token's.

    vault = KeyVault(folder).start()
    kek = vault.add_key("kek", FileKek(folder / "kek.pem"))
    vault.put("name", wrap(kek, bek), content_type="Wrapped BEK", tags={…})
    vault.rights.discard("keys/unwrapKey")
"""
import base64
import hashlib
import http.server
import json
import pathlib
import re
import ssl
import subprocess
import threading
import time
import urllib.parse
import uuid

API = "7.4"
RIGHTS = {"secrets/list", "secrets/get", "keys/unwrapKey", "keys/get"}
PAGE = 2  # entries of a listing's page: short, so that nextLink is followed


def run(*command, data=None):
    done = subprocess.run([str(c) for c in command], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unbase64url(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


HASHES = {"RSA-OAEP": "sha1", "RSA-OAEP-256": "sha256"}


class FileKek:
    """An RSA key pair in a PEM file, made when it is not there."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.public = self.path.with_suffix(".pub")
        if not self.path.exists():
            run("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", self.path)
        run("openssl", "pkey", "-in", self.path, "-pubout", "-out", self.public)

    @staticmethod
    def options(alg):
        return ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", f"rsa_oaep_md:{HASHES[alg]}", "-pkeyopt",
                f"rsa_mgf1_md:{HASHES[alg]}"]

    def wrap(self, alg, data):
        return run("openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", self.public, *self.options(alg), data=data)

    def unwrap(self, alg, data):
        return run("openssl", "pkeyutl", "-decrypt", "-inkey", self.path, *self.options(alg), data=data)


def oaep_decode(block, name):
    """RFC 8017, 7.1.2 step 3, of what RSA decrypted: a second opinion needs its own."""
    size = hashlib.new(name).digest_size

    def mask(seed, length):
        out = b"".join(hashlib.new(name, seed + i.to_bytes(4, "big")).digest() for i in range(length // size + 1))
        return out[:length]

    def xor(a, b):
        return bytes(x ^ y for x, y in zip(a, b))

    seed, data = block[1:1 + size], block[1 + size:]
    seed = xor(seed, mask(data, size))
    data = xor(data, mask(seed, len(data)))
    label, rest = data[:size], data[size:].lstrip(b"\0")
    if block[0] != 0 or label != hashlib.new(name).digest() or rest[:1] != b"\1":
        raise ValueError("no OAEP block")
    return rest[1:]


class TokenKek:
    """A key pair inside a PKCS#11 token. `environment`: $SOFTHSM2_CONF. SoftHSM knows OAEP with SHA-1 only: for
    SHA-256 it does the RSA, and the padding is taken off here."""

    def __init__(self, module, token, pin, number, folder):
        """`number`: the key's id in the token, two hexadecimal digits; pkcs11-tool decrypts by that alone."""
        self.tool = ["pkcs11-tool", "--module", module, "--token-label", token, "--login", "--pin", pin]
        self.number, self.folder = number, pathlib.Path(folder)
        self.public = self.folder / f"{number}.pub"

    def make(self):
        run(*self.tool, "--keypairgen", "--key-type", "rsa:2048", "--label", "kek", "--id", self.number,
            "--usage-decrypt")
        der = self.folder / f"{self.number}.der"
        run(*self.tool, "--read-object", "--type", "pubkey", "--id", self.number, "--output-file", der)
        run("openssl", "pkey", "-pubin", "-inform", "DER", "-in", der, "-out", self.public)
        return self

    def wrap(self, alg, data):
        return run("openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", self.public, *FileKek.options(alg), data=data)

    def unwrap(self, alg, data):
        given, got = self.folder / "wrapped", self.folder / "unwrapped"
        given.write_bytes(data)
        raw = alg == "RSA-OAEP-256"
        how = ["--mechanism", "RSA-X-509"] if raw else ["--mechanism", "RSA-PKCS-OAEP", "--hash-algorithm", "SHA-1",
                                                       "--mgf", "MGF1-SHA1"]
        run(*self.tool, "--decrypt", *how, "--id", self.number, "--input-file", given, "--output-file", got)
        value = got.read_bytes()
        got.unlink()
        return oaep_decode(value.rjust(256, b"\0"), "sha256") if raw else value


class Refusal(Exception):
    def __init__(self, status, code, inner=None):
        self.status, self.body = status, {"error": {"code": code, "message": "made up"}}
        if inner:
            self.body["error"]["innererror"] = {"code": inner}


class KeyVault:
    def __init__(self, folder, certificate=None):
        """`certificate`: of another one, with its key, to be shared."""
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ca = certificate or self.folder / "ca.pem"
        if not certificate:
            run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                "30", "-subj", "/CN=vault", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout",
                self.ca.with_suffix(".key"), "-out", self.ca)
        self.secrets, self.deleted, self.keys, self.deleted_keys = {}, {}, {}, set()
        self.rights, self.rbac, self.firewall, self.throttle = set(RIGHTS), False, False, 0
        self.token = "token-" + uuid.uuid4().hex
        self.tenant, self.client, self.client_secret = "lab.example", "app-1", "secret-" + uuid.uuid4().hex
        self.identity = True  # the machine has a managed one
        self.requests = []  # "METHOD path" of the vault
        self.clock = int(time.time())
        self.lock = threading.Lock()

    # ── What is in it ──

    def add_key(self, name, kek):
        version = uuid.uuid4().hex
        self.keys.setdefault(name, {})[version] = kek
        return f"{self.url}/keys/{name}/{version}"

    def wrap(self, kek_url, data, alg="RSA-OAEP"):
        _, name, version = urllib.parse.urlparse(kek_url).path[1:].split("/")
        return base64url(self.keys[name][version].wrap(alg, data))

    def put(self, name, value, content_type, file_name, machine, kek=None, alg="RSA-OAEP", **tags):
        """A new version, as the ADE extension writes it."""
        version = uuid.uuid4().hex
        self.clock += 1
        tags = {"DiskEncryptionKeyFileName": file_name, "MachineName": machine, **tags}
        if kek:
            tags |= {"DiskEncryptionKeyEncryptionKeyURL": kek, "DiskEncryptionKeyEncryptionAlgorithm": alg}
        self.secrets.setdefault(name, {})[version] = {
            "value": value, "contentType": content_type, "tags": tags, "id": f"{self.url}/secrets/{name}/{version}",
            "attributes": {"enabled": True, "created": self.clock, "updated": self.clock,
                           "recoveryLevel": "Recoverable+Purgeable"}}
        return f"{self.url}/secrets/{name}/{version}"

    def put_bek(self, name, bek, file_name, machine, kek=None, alg="RSA-OAEP", **tags):
        """`bek`: the bytes of a .BEK file, or of a Linux passphrase."""
        if kek:
            return self.put(name, self.wrap(kek, bek, alg), "Wrapped BEK", file_name, machine, kek, alg, **tags)
        return self.put(name, base64.b64encode(bek).decode(), "BEK", file_name, machine, **tags)

    def delete(self, name):
        self.deleted[name] = self.secrets.pop(name)

    # ── Servers ──

    def start(self):
        self.server = self._serve(self._vault, self.ca)
        self.imds = self._serve(self._metadata, None)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        self.metadata_url = f"http://127.0.0.1:{self.imds.server_port}"
        return self

    def stop(self):
        for s in (self.server, self.imds):
            s.shutdown()
            s.server_close()

    @staticmethod
    def _serve(answer, ca):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _reply(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, said, *headers = answer(self.command, self.path, self.headers, body)
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _reply

            def log_message(self, *words):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        if ca:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(ca, ca.with_suffix(".key"))
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return server

    def _metadata(self, method, path, headers, body):
        url = urllib.parse.urlparse(path)
        asked = urllib.parse.parse_qs(url.query)
        if headers.get("Metadata") != "true" or url.path != "/metadata/identity/oauth2/token" or \
                asked.get("api-version") != ["2018-02-01"] or asked.get("resource") != ["https://vault.azure.net"]:
            return 400, {"error": "invalid_request", "error_description": "Required metadata header not specified"}
        if not self.identity:
            return 400, {"error": "invalid_request", "error_description": "Identity not found"}
        return 200, {"access_token": self.token, "expires_in": "86399", "resource": "https://vault.azure.net",
                     "token_type": "Bearer"}

    def _login(self, body):
        form = {k: v[0] for k, v in urllib.parse.parse_qs(body.decode()).items()}
        if form.get("client_id") != self.client:
            return 400, {"error": "unauthorized_client", "error_description": "AADSTS700016: Application not found."}
        if form.get("client_secret") != self.client_secret:
            return 401, {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret."}
        if form.get("grant_type") != "client_credentials" or form.get("scope") != "https://vault.azure.net/.default":
            return 400, {"error": "invalid_scope", "error_description": "AADSTS1002012: scope is not valid."}
        return 200, {"token_type": "Bearer", "expires_in": 3599, "access_token": self.token}

    def _vault(self, method, path, headers, body):
        url = urllib.parse.urlparse(path)
        if method == "POST" and url.path == f"/{self.tenant}/oauth2/v2.0/token":
            return self._login(body)
        with self.lock:
            self.requests.append(f"{method} {url.path}")
            try:
                if headers.get("Authorization") != f"Bearer {self.token}":
                    raise Refusal(401, "Unauthorized")
                if self.throttle > 0:
                    self.throttle -= 1
                    return 429, {"error": {"code": "Throttled"}}, ("Retry-After", "1")
                asked = urllib.parse.parse_qs(url.query)
                if asked.get("api-version") != [API]:
                    raise Refusal(400, "BadParameter")
                if self.firewall:
                    raise Refusal(403, "Forbidden", "ForbiddenByFirewall")
                return 200, self._answer(method, url.path, asked, body)
            except Refusal as r:
                return r.status, r.body

    def _need(self, right):
        if right not in self.rights:
            raise Refusal(403, "Forbidden", "ForbiddenByRbac" if self.rbac else "ForbiddenByPolicy")

    def _answer(self, method, path, asked, body):
        if m := re.fullmatch(r"/(deleted)?secrets(?:/([\w-]+)/versions)?", path):
            self._need("secrets/list")
            return self._list(path, m[1], m[2], int(asked.get("$skiptoken", ["0"])[0]))
        if m := re.fullmatch(r"/secrets/([\w-]+)/(\w+)", path):
            self._need("secrets/get")
            secret = self.secrets.get(m[1], {}).get(m[2])
            if not secret:
                raise Refusal(404, "SecretNotFound")
            if not secret["attributes"]["enabled"]:
                raise Refusal(403, "Forbidden", "SecretDisabled")
            return secret
        if m := re.fullmatch(r"/deleted(secrets|keys)/([\w-]+)", path):
            self._need("secrets/get" if m[1] == "secrets" else "keys/get")
            if m[2] not in (self.deleted if m[1] == "secrets" else self.deleted_keys):
                raise Refusal(404, "SecretNotFound" if m[1] == "secrets" else "KeyNotFound")
            return {"recoveryId": f"{self.url}{path}", "deletedDate": self.clock,
                    "scheduledPurgeDate": self.clock + 7776000}
        if m := re.fullmatch(r"/keys/([\w-]+)/(\w+)/unwrapkey", path):
            self._need("keys/unwrapKey")
            kek = self.keys.get(m[1], {}).get(m[2])
            if method != "POST" or not kek or m[1] in self.deleted_keys:
                raise Refusal(404, "KeyNotFound")
            question = json.loads(body)
            try:
                value = kek.unwrap(question["alg"], unbase64url(question["value"]))
            except (RuntimeError, ValueError, KeyError) as e:
                raise Refusal(400, "BadParameter") from e
            return {"kid": f"{self.url}/keys/{m[1]}/{m[2]}", "value": base64url(value)}
        raise Refusal(404, "NotFound")

    def _list(self, path, deleted, name, skip):
        if name:
            found = list(self.secrets.get(name, {}).values())
        else:
            of = self.deleted if deleted else self.secrets
            found = [{**list(versions.values())[-1], "id": f"{self.url}/secrets/{n}"} for n, versions in of.items()]
        page = [{k: v for k, v in s.items() if k != "value"} for s in found[skip:skip + PAGE]]
        more = skip + PAGE < len(found)
        return {"value": page, "nextLink":
                f"{self.url}{path}?api-version={API}&$skiptoken={skip + PAGE}" if more else None}
