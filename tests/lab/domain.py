# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Active Directory domain controller (Samba) on loopback, LDAP only. Its ports are fixed, so it wants a network
namespace of its own: call own_network() first thing. Making a domain takes ten seconds of processor time: the directory
is packed and kept in the build folder."""
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

BUILD = pathlib.Path(os.environ.get("SEALPOINT_BUILD") or pathlib.Path(__file__).resolve().parents[2] / "build")
FILL = pathlib.Path(__file__).with_name("domain_fill.py")
UNIT = "OU=Backup,DC=lab,DC=example"


def own_network():
    """Runs this program again in a network namespace that has loopback and nothing else."""
    if os.environ.get("SEALPOINT_OWN_NETWORK"):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    os.environ["SEALPOINT_OWN_NETWORK"] = "1"
    os.execvp("unshare", ["unshare", "-n", sys.executable, *sys.argv])


class Domain:
    def __init__(self, folder):
        """`folder`: for certificate, logs and the password files of Domain.user()."""
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.tree = BUILD / "lab-domain"
        self.process = None

    def _run(self, *command, **more):
        done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              **more)
        if done.returncode:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}\n{done.stdout}")

    def make(self):
        packed = BUILD / "lab-domain.tar"
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir(mode=0o700)
        if not packed.exists():
            self._run("samba-tool", "domain", "provision", "--server-role=dc", "--dns-backend=NONE",
                      "--realm=LAB.EXAMPLE", "--domain=LAB", "--adminpass=Only-for-the-lab-1",
                      f"--targetdir={self.tree}", "--host-name=dc1", "--host-ip=127.0.0.1",
                      stdin=subprocess.DEVNULL)
            self._run("tar", "--sparse", "-C", self.tree, "-cf", f"{packed}.new", ".")
            os.rename(f"{packed}.new", packed)
        else:
            self._run("tar", "-C", self.tree, "-xf", packed)
        self._run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                  "30", "-subj", "/CN=dc1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout",
                  self.folder / "key.pem", "-out", self.ca)
        (self.folder / "key.pem").chmod(0o600)
        return self

    @property
    def ca(self):
        return self.folder / "ca.pem"

    def fill(self, *commands):
        """See domain_fill.py; may be called while it runs."""
        self._run("/usr/bin/python3", FILL, self.tree / "etc" / "smb.conf", input=json.dumps(commands))

    def start(self):
        f = self.folder
        options = ["server services=ldap", f"tls keyfile={f}/key.pem", f"tls certfile={self.ca}",
                   f"tls cafile={self.ca}", f"log file={f}/log", "interfaces=lo", "bind interfaces only=yes",
                   f"pid directory={f}"]
        with open(f / "samba.log", "ab") as log:
            self.process = subprocess.Popen(
                ["samba", "-F", "--no-process-group", "-M", "single", "-s", self.tree / "etc" / "smb.conf",
                 "--debug-stdout", *(f"--option={o}" for o in options)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", 636), 2).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError((f / "samba.log").read_text()[-3000:]) from None
                time.sleep(0.05)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        self.process = None
