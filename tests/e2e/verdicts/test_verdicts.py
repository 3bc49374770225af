#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Points that must not be valid, in one guest: a key missing, a wrong key, a plain volume that is closed, no
agent, payload that the proved key does not open, a fleece store that runs full."""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))
from lab import Lab  # noqa: E402
from scene import Scene  # noqa: E402

NOT_VALID = 3


def job_of(lab, *words):
    """The job of a command that may end with 'not valid' (3): JSON comes on standard output all the same."""
    status, out, err = lab.cli(*words, "--json", check=False, timeout=600)
    assert status in (0, NOT_VALID), (words, status, out, err)
    job = json.loads(out)
    assert (status == 0) == (job["state"] == "POINT_STATE_VALID"), (status, job)
    return job


def reasons(job, volume=None):
    return {f["reason"] for f in job["findings"] if not f["note"] and (volume is None or f["volume_id"] == volume)}


def key_missing_then_wrong_then_right(lab, scene, ids):
    scene.import_keys(lab, "web1", only=["luks2", "plain", "lvm"])
    job = job_of(lab, "backup", "web1")
    assert job["state"] == "POINT_STATE_INVALID", job
    assert reasons(job, ids["luks1"]) == {"REASON_ESCROW_MISSING"}, job
    for name in ("luks2", "plain", "lvm"):
        assert not reasons(job, ids[name]), job

    wrong = lab.path / "wrong"
    wrong.write_bytes(b"not the key")
    lab.cli("key", "import", "web1", ids["luks1"], "--key-file", wrong)
    again = job_of(lab, "point", "verify", job["point_id"])
    assert again["state"] == "POINT_STATE_INVALID", again
    assert reasons(again, ids["luks1"]) == {"REASON_ESCROW_KEY_WRONG"}, again

    scene.import_keys(lab, "web1", only=["luks1"])
    right = job_of(lab, "point", "verify", job["point_id"])
    assert right["state"] == "POINT_STATE_VALID", right
    assert right["point_id"] == job["point_id"]
    assert lab.cli_point(job["point_id"])["point"]["state"] == "POINT_STATE_VALID"
    print("missing, wrong, right: invalid, invalid, valid", flush=True)


def closed_plain_volume(lab, g, scene):
    g.run("umount /mnt/plain && cryptsetup close plain0")
    job = job_of(lab, "backup", "web1")
    assert job["state"] == "POINT_STATE_UNPROVEN", job
    found = [f for f in job["findings"] if f["reason"] == "REASON_UNIDENTIFIED_CONTENT"]
    assert [f["disk_id"] for f in found] == ["disk-plain"], job  # one, however many ranges there are
    # An admin who knows what it is may say so, with a reason, and it is recorded.
    lab.cli("machine", "set-policy", "web1", "--allow", "unidentified-content:disk-plain", "--why", "scratch disk")
    allowed = job_of(lab, "point", "verify", job["point_id"])
    assert allowed["state"] == "POINT_STATE_VALID", allowed
    who = {f["allowed_by"] for f in allowed["findings"] if f["reason"] == "REASON_UNIDENTIFIED_CONTENT"}
    assert who and "" not in who, allowed
    lab.cli("machine", "set-policy", "web1", "--forget-allowed")
    scene_open_plain(g)
    print("closed plain volume: unproven, and valid only by an admin's word", flush=True)


def scene_open_plain(g):
    g.run("cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 512 --key-file /run/keys/plain.key "
          "$(for d in /sys/block/vd*; do [ $(cat $d/serial) = disk-plain ] && echo /dev/${d##*/}; done) plain0 "
          "&& mount -o noatime /dev/mapper/plain0 /mnt/plain")


def no_agent(lab, g):
    g.run("agent-unit stop")
    lab.wait_for("the agent to be away", lambda: not lab.machine("web1")["agent"]["connected"])
    job = job_of(lab, "backup", "web1", "--no-agent")
    assert job["grade"] == "GRADE_CRASH", job
    assert "REASON_AGENT_ABSENT" in {f["reason"] for f in job["findings"]}, job
    disks = lab.cli_point(job["point_id"])
    assert disks["point"]["size_bytes"] >= 600 << 20, disks["point"]
    g.run("true")  # it runs on
    lab.agent_start(g)
    lab.wait_for("the agent to be back", lambda: lab.machine("web1")["agent"]["connected"])
    print("no agent: grade crash", flush=True)


def payload_of_another_key(lab, g, scene, ids):
    device = scene.devices(g)["luks2"]
    for what, script in (
            ("overwritten", f"dd if=/dev/urandom of={device} bs=1M seek=16 count=8 conv=notrunc 2>/dev/null"),
            ("of another key", "head -c 64 /dev/urandom > /run/other.key && cryptsetup open --type plain "
                               "--cipher aes-xts-plain64 --key-size 512 --key-file /run/other.key --offset 32768 "
                               f"{device} other && mke2fs -q -t ext4 /dev/mapper/other && cryptsetup close other")):
        g.run("umount /mnt/luks2 2>/dev/null; cryptsetup close luks2 2>/dev/null; true")
        g.run(script + " && sync")
        job = job_of(lab, "backup", "web1")
        assert job["state"] == "POINT_STATE_UNPROVEN", job
        assert reasons(job, ids["luks2"]) == {"REASON_PLAINTEXT_NOT_RECOGNISED"}, job
        proof = [p["proof"] for p in lab.cli_point(job["point_id"])["proofs"]
                 if p["volume"]["volume_id"] == ids["luks2"]][0]
        # The carried verdict was tried first and its sectors made no sense; then all was done anew, with the same end.
        carried = [a for a in proof["attempts"] if "carried over" in a["text"]]
        assert carried and carried[0]["verdict"] == "PROOF_VERDICT_NOT_RECOGNISED", proof
        again = job_of(lab, "point", "verify", job["point_id"])
        assert reasons(again, ids["luks2"]) == {"REASON_PLAINTEXT_NOT_RECOGNISED"}, again
        print(f"payload {what}: unproven, with the header's verdict carried over and without", flush=True)


def fleece_full(lab, g):
    g.run("head -c 40000000 /dev/urandom > /mnt/clear/big && head -c 150000000 /dev/urandom > /mnt/luks1/big; sync",
          timeout=300)
    lab.cli("machine", "set-source", "web1", "--qmp", g.qmp_source, "--fleece-limit", "1M")
    # Small pieces, each synced: what the guest overwrites reaches the disk all the time, not in bursts.
    g.run("""cat > /run/churn <<'END'
i=0
while [ ! -e /run/churn.stop ]; do
    i=$((i + 1))
    dd if=/dev/zero of=/mnt/clear/big bs=256k count=8 seek=$((i % 18 * 8)) conv=notrunc,fsync 2>/dev/null
    echo $i > /run/churn.count
done
END
rm -f /run/churn.stop /run/churn.count; sh /run/churn </dev/null >/dev/null 2>&1 &""")
    for _ in range(5):
        job = job_of(lab, "backup", "web1")
        if job["state"] == "POINT_STATE_FAILED":
            break
    assert job["state"] == "POINT_STATE_FAILED", "the copy was faster than the guest five times: " + str(job)
    assert "REASON_SNAPSHOT_BROKEN" in reasons(job), job
    status = g.qmp()("query-status")
    assert status["status"] == "running", status
    before = int(g.run("cat /run/churn.count 2>/dev/null || echo 0").out)
    lab.wait_for("the guest to go on writing",
                 lambda: int(g.run("cat /run/churn.count 2>/dev/null || echo 0").out) > before, timeout=120)
    g.run("touch /run/churn.stop")
    assert g.traces() == [], g.traces()
    lab.cli("machine", "set-source", "web1", "--qmp", g.qmp_source)
    print("fleece full: the point failed, the guest went on", flush=True)


class VerdictLab(Lab):
    def cli_point(self, point):
        """'point show', which ends with 3 for a point that is not valid."""
        status, out, err = self.cli("point", "show", point, "--json", check=False)
        assert status in (0, NOT_VALID), (status, err)
        return json.loads(out)


def main():
    with VerdictLab() as lab:
        lab.up()
        scene = Scene(lab.path / "keys")
        g = scene.bring_up(lab)
        ids = scene.volume_ids(lab.machine("web1"))
        key_missing_then_wrong_then_right(lab, scene, ids)
        closed_plain_volume(lab, g, scene)
        no_agent(lab, g)
        payload_of_another_key(lab, g, scene, ids)
        fleece_full(lab, g)
        status, out, err = lab.cli("vault", "check", "main", "--read-data", json=False, check=False)
        assert status == 0, out + err


main()
