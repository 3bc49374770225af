#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes what a KMIP server holds, with PyKMIP's client. Standard input: {"hostname", "port", "cert", "key", "ca",
"commands": […]}; standard output: what each command gave, JSON.

    ["register", "secret"|"key"|"opaque", NAME, HEX]   the unique identifier
    ["activate", ID]    ["deactivate", ID]    ["compromise", ID]    ["destroy", ID]
"""
import json
import sys

from kmip import enums
from kmip.pie import client, objects

MASK = [enums.CryptographicUsageMask.EXPORT]
KINDS = {
    "secret": lambda name, value: objects.SecretData(value, enums.SecretDataType.PASSWORD, MASK, name),
    "key": lambda name, value: objects.SymmetricKey(enums.CryptographicAlgorithm.AES, len(value) * 8, value, MASK, name),
    "opaque": lambda name, value: objects.OpaqueObject(value, enums.OpaqueDataType.NONE, name),
}


def do(server, command, *words):
    if command == "register":
        kind, name, value = words
        return server.register(KINDS[kind](name, bytes.fromhex(value)))
    if command == "deactivate":
        return server.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, words[0])
    if command == "compromise":
        return server.revoke(enums.RevocationReasonCode.KEY_COMPROMISE, words[0])
    return {"activate": server.activate, "destroy": server.destroy}[command](words[0])


asked = json.load(sys.stdin)
commands = asked.pop("commands")
with client.ProxyKmipClient(ssl_version="PROTOCOL_TLSv1_2", config_file="/dev/null", **asked) as s:
    print(json.dumps([do(s, *c) for c in commands]))
