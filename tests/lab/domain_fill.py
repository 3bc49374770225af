#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fills the directory of a Samba domain controller, as an administrator would: run by domain.py with the system's
Python, which has Samba's modules. Commands come as JSON on standard input."""
import json
import sys
import uuid

import ldb
from samba.auth import system_session
from samba.dcerpc import security
from samba.ndr import ndr_pack, ndr_unpack
from samba.param import LoadParm
from samba.samdb import SamDB


def open_directory(smb_conf):
    lp = LoadParm()
    lp.load(smb_conf)
    return SamDB(session_info=system_session(), lp=lp)


def begin(db, unit, users):
    """An organisational unit; each user with its rights on everything below (SDDL; "": none)."""
    db.create_ou(unit)
    aces = ""
    for name, (password, rights) in users.items():
        db.newuser(name, password)
        found = db.search(db.domain_dn(), expression=f"(sAMAccountName={name})", attrs=["objectSid"])
        sid = ndr_unpack(security.dom_sid, found[0]["objectSid"][0])
        aces += f"(A;CI;{rights};;;{sid})" if rights else ""
    found = db.search(unit, scope=ldb.SCOPE_BASE, attrs=["nTSecurityDescriptor"])
    descriptor = ndr_unpack(security.descriptor, found[0]["nTSecurityDescriptor"][0])
    for ace in security.descriptor.from_sddl(f"D:{aces}", security.dom_sid(db.get_domain_sid())).dacl.aces:
        descriptor.dacl_add(ace)
    change = ldb.Message(ldb.Dn(db, unit))
    change["sd"] = ldb.MessageElement(ndr_pack(descriptor), ldb.FLAG_MOD_REPLACE, "nTSecurityDescriptor")
    db.modify(change)


def computer(db, unit, name):
    db.add({"dn": f"CN={name},{unit}", "objectClass": "computer", "sAMAccountName": f"{name}$",
            "dNSHostName": f"{name.lower()}.lab.example"})


def recovery(db, unit, name, guid, password, date):
    """As Windows writes it when a recovery password is backed up to AD."""
    db.add({"dn": f"CN={date}{{{guid.upper()}}},CN={name},{unit}", "objectClass": "msFVE-RecoveryInformation",
            "msFVE-RecoveryGuid": uuid.UUID(guid).bytes_le, "msFVE-RecoveryPassword": password,
            "msFVE-VolumeGuid": uuid.uuid4().bytes_le})


def main():
    db = open_directory(sys.argv[1])
    for command, *arguments in json.load(sys.stdin):
        {"begin": begin, "computer": computer, "recovery": recovery}[command](db, *arguments)


main()
