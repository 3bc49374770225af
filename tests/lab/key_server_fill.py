#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes what a KMIP server holds, with PyKMIP's client. Arguments: host, port, and the files of certificate, key and
CA. Standard input: a list of commands in each line; standard output: what each command of a line gave. JSON.

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


host, port, certificate, key, ca = sys.argv[1:]
server = client.ProxyKmipClient(host, int(port), certificate, key, ca, "PROTOCOL_TLSv1_2", config_file="/dev/null")
for line in sys.stdin:
    with server:
        print(json.dumps([do(server, *c) for c in json.loads(line)]), flush=True)
