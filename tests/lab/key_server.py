# SPDX-License-Identifier: GPL-3.0-or-later
"""A real KMIP server (PyKMIP) on loopback, with a CA and client certificates of its own.

PyKMIP 0.10 wants TLS 1.2, RSA for the server, and clientAuth among the uses of a client's certificate. Who registered an object,
by the certificate's CN, owns it: others are not shown it. It hands out deactivated and compromised keys."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

FILL = pathlib.Path(__file__).with_name("key_server_fill.py")


class KmipServer:
    def __init__(self, folder, port):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.port = port
        self.process = None
        self.clients = {}

    def _openssl(self, *words):
        done = subprocess.run(["openssl", *(str(w) for w in words)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(f"openssl ended with {done.returncode}\n{done.stdout}")

    def make_ca(self, name="ca"):
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", f"/CN={name}",
                      "-keyout", self.key(name), "-out", self.certificate(name))

    def make_certificate(self, name, *extensions, ca="ca", days=30):
        """For a client or server whose CN is `name`."""
        request, more = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        more.write_text("".join(f"{e}\n" for e in extensions))
        self._openssl("req", "-new", "-newkey", "rsa:2048" if name == "server" else "ec", "-pkeyopt",
                      "rsa_keygen_bits:2048" if name == "server" else "ec_paramgen_curve:P-256", "-nodes", "-subj",
                      f"/CN={name}", "-keyout", self.key(name), "-out", request)
        self._openssl("x509", "-req", "-in", request, "-CA", self.certificate(ca), "-CAkey", self.key(ca),
                      "-CAcreateserial", "-days", days, "-extfile", more, "-out", self.certificate(name))
        self.key(name).chmod(0o600)

    def make(self, *clients):
        """The CA, the server's certificate, and one for each of the clients."""
        self.make_ca()
        self.make_certificate("server", "subjectAltName=IP:127.0.0.1", "extendedKeyUsage=serverAuth")
        for name in clients:
            self.make_certificate(name, "extendedKeyUsage=clientAuth")
        (self.folder / "policy").mkdir()
        (self.folder / "server.conf").write_text(
            f"[server]\nhostname=127.0.0.1\nport={self.port}\ncertificate_path={self.certificate('server')}\n"
            f"key_path={self.key('server')}\nca_path={self.certificate('ca')}\nauth_suite=TLS1.2\n"
            f"policy_path={self.folder}/policy\nenable_tls_client_auth=True\nlogging_level=INFO\n"
            f"database_path={self.folder}/objects.db\n")
        return self

    def certificate(self, name):
        return self.folder / f"{name}.pem"

    def key(self, name):
        return self.folder / f"{name}.key"

    def start(self):
        f = self.folder
        with open(f / "output", "ab") as log:
            self.process = subprocess.Popen(["/usr/bin/pykmip-server", "-f", f / "server.conf", "-l", f / "log"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=f, start_new_session=True)
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 2).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError((f / "output").read_text()[-3000:]) from None
                time.sleep(0.05)

    def stop(self):
        """At once: asked to end it waits ten seconds for a client, and has processes of its own."""
        for c in self.clients.values():
            c.communicate()  # the end of its input is its own
        self.clients = {}
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None

    def do(self, *commands, who="keeper"):
        """See key_server_fill.py; who: the client whose certificate is shown."""
        c = self.clients.get(who)
        if c is None:  # it takes a second to begin
            with open(self.folder / f"{who}.log", "ab") as log:
                c = self.clients[who] = subprocess.Popen(
                    ["/usr/bin/python3", FILL, "127.0.0.1", str(self.port), self.certificate(who), self.key(who),
                     self.certificate("ca")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        c.stdin.write(json.dumps(commands) + "\n")
        c.stdin.flush()
        answer = c.stdout.readline()
        if not answer:
            raise RuntimeError((self.folder / f"{who}.log").read_text()[-3000:])
        return json.loads(answer)
