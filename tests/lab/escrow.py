# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of escrow providers have in common: sections of keeper.conf, 'escrow test' case by case, answers of a
proof, what is left lying about."""
import json
import os


def section(kind, name, settings):
    """One provider's section of keeper.conf; a setting None is left out."""
    lines = [f"{k} = {v}\n" for k, v in settings.items() if v is not None]
    return f"[{kind} {name}]\n{''.join(lines)}"


def restart_keeper(lab, *sections):
    """With these providers, and no other."""
    drop_in = lab.keeper_conf.with_name(lab.keeper_conf.name + ".d") / "providers.conf"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("\n".join(sections))
    lab.keeper.stop()
    lab.start_keeper()


def run(lab, *words):
    """Exit code, and all that was said."""
    status, out, err = lab.cli(*words, check=False, json=False)
    return status, out + err


def escrow_test(lab, name, stage, says, never=()):
    """'escrow test' comes to this stage ("TLS"; None: it is all good) and says this there; `never`: secrets."""
    status, said = run(lab, "escrow", "test", name)
    last = said.strip().splitlines()[-1]
    if stage is None:
        assert status == 0 and said.count(" ok") == 5, (name, status, said)
    else:
        assert status == 3 and last.startswith(stage) and says in last, (name, status, said)
    for secret in never:
        assert secret not in said, name
    print(f"{name:9} {last}", flush=True)


def reasons(job):
    return {f["reason"] for f in job["findings"] if not f.get("note")}


def verify(lab, point):
    return json.loads(lab.cli("point", "verify", point, "--json", check=False)[1])


def unproven(lab, point, reason, says):
    """Proved again the point is unproven for this reason, in these words, and no key is said to be missing."""
    again = verify(lab, point)
    assert again["state"] == "POINT_STATE_UNPROVEN", again
    assert f"REASON_ESCROW_{reason}" in reasons(again) and "REASON_ESCROW_MISSING" not in reasons(again), again
    text = [f["text"] for f in again["findings"] if f["reason"] == f"REASON_ESCROW_{reason}"][0]
    assert says in text, text
    print(f"{reason}: {text}", flush=True)
    return again


def mirrored(lab, provider):
    """The one record that is a copy of a key of this provider, pinned once."""
    records = [k for k in lab.cli("key", "list")["records"] if k["holding"] == "RECORD_HOLDING_MIRRORED"]
    assert len(records) == 1, records
    k = records[0]
    assert k["provider"] == provider and k["version"] and k["pins"] == 1, k
    shown = run(lab, "key", "show", k["record_id"])[1]
    assert "mirrored, pinned" in shown and f"of {provider}, version {k['version']}" in shown, shown
    print(shown.strip(), flush=True)
    return k


def nothing_is_left(lab, *secrets, but=lambda path: False):
    """No file of the lab holds one of these; `but`: files that must."""
    for path in lab.path.rglob("*"):
        if path.is_file() and path.suffix != ".raw" and not but(path):
            data = path.read_bytes()
            for s in secrets:
                assert s.encode() not in data, f"{path} holds a secret"


def time_used(what, since=[0.0]):
    used = sum(os.times()[:4])
    print(f"-- {what}: {used - since[0]:.1f} s of processor time", flush=True)
    since[0] = used
