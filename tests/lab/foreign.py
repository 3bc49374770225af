# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that is not ours: Debian's python3-grpcio, with stubs that grpc_tools makes from the .proto files.
Needs /usr/bin/python3; the rest of the lab does not."""
import atexit
import os
import pathlib
import queue
import sys
import tempfile
import threading
import time

import grpc
import grpc_tools
from grpc_tools import protoc

from lab import SOURCE


def stubs():
    """Puts sealpoint.v1.*_pb2 and *_pb2_grpc where `import` finds them."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    well_known = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    root = SOURCE / "proto"
    includes = [f"-I{root}"] + ([f"-I{well_known}"] if os.path.isdir(well_known) else [])
    files = [str(p) for p in root.rglob("*.proto")]
    if protoc.main(["protoc", *includes, f"--python_out={folder.name}", f"--grpc_python_out={folder.name}",
                    *files]) != 0:
        sys.exit("protoc failed")
    sys.path.insert(0, folder.name)


def channel(lab):
    """As the lab's user."""
    profile = pathlib.Path(lab.profile)
    credentials = grpc.ssl_channel_credentials((profile / "trust.pem").read_bytes(),
                                               (profile / "user.key").read_bytes(),
                                               (profile / "user.pem").read_bytes())
    # A controller's certificate names its role; whom it belongs to is in the SPIFFE id.
    return grpc.secure_channel(f"127.0.0.1:{lab.port}", credentials)


class FleetStream:
    """Fleet.Watch on a thread: (time.monotonic(), FleetEvent) in the order of their arrival."""

    def __init__(self, lab):
        stubs()
        from sealpoint.v1 import fleet_pb2, fleet_pb2_grpc
        self.channel, self.arrived = channel(lab), queue.Queue()
        self.call = fleet_pb2_grpc.FleetStub(self.channel).Watch(fleet_pb2.WatchRequest())
        self.kinds = fleet_pb2.ChangeKind
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for event in self.call:
                self.arrived.put((time.monotonic(), event))
        except grpc.RpcError as e:
            self.arrived.put((time.monotonic(), e))

    def drop(self):
        """Forgets what has arrived."""
        while not self.arrived.empty():
            self.arrived.get()

    def wait(self, accept, timeout):
        """(when, event) of the first one that accept(event) likes; None after `timeout` seconds."""
        end = time.monotonic() + timeout
        while True:
            try:
                when, event = self.arrived.get(timeout=max(0.001, end - time.monotonic()))
            except queue.Empty:
                return None
            if isinstance(event, Exception):
                raise event
            if accept(event):
                return when, event

    def close(self):
        self.call.cancel()
        self.channel.close()
