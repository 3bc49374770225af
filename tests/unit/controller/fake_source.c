/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/file.h"
#include "fakes.h"
#include <string.h>

struct fake_source fake_source;
struct fake_agent fake_agent;

struct source_snapshot {
    bool broken;
};

static int describe(const Sp__DescribeRequest *request, Sp__DescribeResponse **ret,
                    struct sp_why *why)
{
    (void)request;
    if (fake_source.describe_error)
        return sp_why_set(why, fake_source.describe_error, "nobody at the QMP socket");
    Sp__DescribeResponse *r = message_new(&sp__describe_response__descriptor);
    r->running = !fake_source.off;
    for (unsigned i = 0; i < fake_source.disks; i++) {
        char id[16];
        snprintf(id, sizeof(id), "disk%u", i);
        ADD(r, disks, a_source_disk(id, id, ""));
    }
    *ret = r;
    return 0;
}

static int snapshot(const Sp__SnapshotRequest *request, source_journal_fn *journal,
                    void *journal_self, struct source_snapshot **ret,
                    Sp__SnapshotResponse **ret_response, struct sp_why *why)
{
    int r = journal(journal_self, "fake journal");
    if (r < 0)
        return r;
    fake_source.held++;
    fake_source.snapshots++;
    fake_source.guest_was_held = request->guest_is_held;
    if (fake_source.on_snapshot)
        fake_source.on_snapshot();
    if (fake_source.snapshot_error)
        return sp_why_set(why, fake_source.snapshot_error, "no snapshot today");
    Sp__SnapshotResponse *response = message_new(&sp__snapshot_response__descriptor);
    for (size_t i = 0; i < request->n_disk_ids; i++)
        ADD(response, disks, a_source_disk(request->disk_ids[i], request->disk_ids[i], ""));
    response->held_by_source = !request->guest_is_held && !fake_source.off;
    assert_int_equal(message_set(&response->journal, "fake journal"), 0);
    *ret = calloc(1, sizeof(**ret));
    *ret_response = response;
    fake_source.open++;
    return 0;
}

static int read_at(struct source_snapshot *s, uint32_t disk, uint64_t offset, void *out,
                   uint32_t length, struct sp_why *why)
{
    if (fake_source.break_while_reading) {
        s->broken = true;
        return sp_why_set(why, -EIO, "the fleece store ran full");
    }
    if (fake_source.read_error)
        return sp_why_set(why, fake_source.read_error, "read error");
    memcpy(out, fake_source.bytes[disk] + offset, length);
    return 0;
}

static int next_data(struct source_snapshot *s, uint32_t disk, uint64_t offset,
                     uint64_t *ret_offset, uint64_t *ret_length, struct sp_why *why)
{
    (void)s;
    (void)disk;
    (void)why;
    if (offset >= FAKE_DISK_BYTES)
        return 0;
    *ret_offset = offset;
    *ret_length = FAKE_DISK_BYTES - offset;
    return 1;
}

static bool broken(struct source_snapshot *s)
{
    return s->broken;
}

static void close_snapshot(struct source_snapshot *s)
{
    fake_source.open--;
    free(s);
}

static int release(const Sp__ReleaseSnapshotRequest *request, Sp__ReleaseSnapshotResponse **ret,
                   struct sp_why *why)
{
    fake_source.releases++;
    assert_int_equal(fake_source.open, 0); /* no handle may be open */
    if (fake_source.on_release)
        fake_source.on_release();
    if (fake_source.release_error)
        return sp_why_set(why, fake_source.release_error, "not now");
    fake_source.held = 0;
    fake_source.last_transferred = request->transferred;
    *ret = message_new(&sp__release_snapshot_response__descriptor);
    (*ret)->nothing_left = 1;
    return 0;
}

static const struct source row = {.name = "fake",
                                  .kind = SP__SOURCE_CONFIG__KIND_QEMU,
                                  .describe = describe,
                                  .snapshot = snapshot,
                                  .read_at = read_at,
                                  .next_data = next_data,
                                  .broken = broken,
                                  .close = close_snapshot,
                                  .release = release};

const struct source *fake_source_for(const Sp__SourceConfig *config)
{
    return config->kind_case == SP__SOURCE_CONFIG__KIND_QEMU ? &row : NULL;
}

/* ---- agents ---- */

static enum engine_agent_state agent_wait(void *self, const char *machine_id, unsigned timeout_ms,
                                          const atomic_bool *cancel)
{
    (void)self;
    (void)machine_id;
    (void)timeout_ms;
    (void)cancel;
    return fake_agent.state;
}

static bool agent_can(void *self, const char *machine_id, const char *capability)
{
    (void)self;
    (void)machine_id;
    (void)capability;
    return true;
}

static Sp__Inventory *an_inventory(void)
{
    Sp__Inventory *i = message_new(&sp__inventory__descriptor);
    for (unsigned d = 0; d < fake_source.disks; d++) {
        char name[8], serial[16];
        snprintf(name, sizeof(name), "vd%c", (char)('a' + d));
        snprintf(serial, sizeof(serial), "disk%u", d);
        ADD(i, devices, a_device(name, "disk", serial, NULL));
    }
    ADD(i, file_systems, a_file_system("/", "vda"));
    if (fake_keeper.volume) {
        Sp__Volume *v = message_copy(fake_keeper.volume);
        ADD(i, volumes, v);
    }
    return i;
}

static int agent_command(void *self, const char *machine_id, Sp__Command *command,
                         unsigned timeout_ms, const atomic_bool *cancel, Sp__Answer **ret,
                         struct sp_why *why)
{
    (void)self;
    (void)machine_id;
    (void)timeout_ms;
    (void)cancel;
    Sp__Answer *a = message_new(&sp__answer__descriptor);
    if (command->kind_case == SP__COMMAND__KIND_FREEZE) {
        fake_agent.freezes++;
        if (fake_agent.freeze_refused) {
            a->error = 16;
            assert_int_equal(message_set(&a->text, "busy"), 0);
        } else {
            fake_agent.frozen = true;
            a->kind_case = SP__ANSWER__KIND_FREEZE;
            a->freeze = message_new(&sp__freeze_answer__descriptor);
            ADD(a->freeze, results, a_result("/", fake_agent.outcome));
            a->freeze->inventory = an_inventory();
        }
    } else if (command->kind_case == SP__COMMAND__KIND_THAW) {
        fake_agent.thaws++;
        fake_agent.frozen = false;
        if (fake_agent.no_thaw_answer) {
            message_free(a);
            return sp_why_set(why, -ETIMEDOUT, "the agent did not answer in time");
        }
        a->kind_case = SP__ANSWER__KIND_THAW;
        a->thaw = message_new(&sp__thaw_answer__descriptor);
        a->thaw->all_thawed_on_command = !fake_agent.thaw_late;
        a->thaw->window_us = 1234;
    } else {
        a->kind_case = SP__ANSWER__KIND_INVENTORY;
        a->inventory = an_inventory();
    }
    *ret = a;
    return 0;
}

static int agent_header(void *self, const char *machine_id, const char *volume_id,
                        unsigned timeout_ms, const atomic_bool *cancel, struct sp_buffer *out,
                        struct sp_why *why)
{
    (void)self;
    (void)machine_id;
    (void)volume_id;
    (void)timeout_ms;
    (void)cancel;
    (void)out;
    return sp_why_set(why, -ENODATA, "none");
}

const struct engine_agents fake_agent_calls = {agent_wait, agent_can, agent_command, agent_header};

void fakes_reset(void)
{
    memset(&fake_source, 0, sizeof(fake_source));
    memset(&fake_agent, 0, sizeof(fake_agent));
    fake_source.disks = 2;
    fake_agent.state = ENGINE_AGENT_PRESENT;
    fake_agent.outcome = SP__FREEZE_RESULT__OUTCOME__OUTCOME_FROZEN;
    message_free(fake_keeper.volume);
    EVP_PKEY_free(fake_keeper.key);
    memset(&fake_keeper, 0, sizeof(fake_keeper));
    fake_keeper.account_for_all = true;
    fake_keeper.verdict = SP__PROOF_VERDICT__PROOF_VERDICT_OPENS;
}
