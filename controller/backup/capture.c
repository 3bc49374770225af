/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * From the request to disks in the vault. The freeze is as short as it can be: between its command
 * and the thaw there is nothing but the source's switch and the durable writes of its journal. */
#include "base/log.h"
#include "controller/backup/grade.h"
#include "controller/backup/run.h"
#include <string.h>

enum {
    SYNC_BUDGET_MS = 10000,
    HOOKS_MS = 30000,
    MAX_LEASE_MS = 60000,
    THAW_TIMEOUT_MS = 30000,
    INVENTORY_TIMEOUT_MS = 20000,
    HEADER_TIMEOUT_MS = 30000,
    LEAST_ROOM_BYTES = 16 << 20,
    LOWERED_MAX = 16
};

static struct finding_list findings(struct run *run)
{
    return FINDINGS(run->cp->draft);
}

/* ---- preflight ---- */

static int check_room(struct run *run)
{
    uint64_t used = 0, left = 0;
    int r = vault_space(run->vault, &used, &left);
    if (r < 0) {
        sp_why_set(&run->why, r, "vault %s cannot be read: %s", run->vault_entry->name,
                   strerror(-r));
        return run_fail(run, SP__REASON__REASON_VAULT_FULL, r);
    }
    if (left < LEAST_ROOM_BYTES) {
        sp_why_set(&run->why, -ENOSPC, "vault %s is full: make room and back up again",
                   run->vault_entry->name);
        return run_fail(run, SP__REASON__REASON_VAULT_FULL, -ENOSPC);
    }
    return 0;
}

static bool excluded(const Sp__Policy *policy, const Sp__SourceDisk *disk)
{
    for (size_t i = 0; policy && i < policy->n_excluded_disks; i++) {
        if (strcmp(policy->excluded_disks[i], disk->disk_id) == 0 ||
            strcmp(policy->excluded_disks[i], disk->source_name) == 0)
            return true;
    }
    return false;
}

static int describe(struct run *run)
{
    Sp__DescribeRequest request = SP__DESCRIBE_REQUEST__INIT;
    request.source = run->cp->source;
    int r = run->source->describe(&request, &run->described, &run->why);
    if (r < 0)
        return run_fail(run, SP__REASON__REASON_SOURCE_LOST, r);
    Sp__Manifest *draft = run->cp->draft;
    if (run->described->definition) {
        draft->definition = run->described->definition;
        run->described->definition = NULL;
    }
    size_t wanted = 0;
    for (size_t i = 0; i < run->described->n_disks; i++) {
        Sp__SourceDisk *disk = run->described->disks[i];
        if (!disk->skipped && excluded(draft->policy, disk)) {
            disk->skipped = 1;
            r = message_set(&disk->skipped_why, "excluded by policy");
            if (r < 0)
                return r;
        }
        wanted += !disk->skipped;
    }
    if (wanted == 0) {
        sp_why_set(&run->why, -ENXIO, "the source offers no disk of this machine to back up");
        return run_fail(run, SP__REASON__REASON_SOURCE_LOST, -ENXIO);
    }
    return 0;
}

/* Before any data moves, so that no record can vanish between the snapshot and its proof. */
static int pin(struct run *run)
{
    struct engine *e = run->engine;
    const Sp__Point *point = run->cp->point;
    Sp__Machine *machine = NULL;
    char **ids = NULL;
    size_t count = 0;
    struct sp_why why = {0};
    run->cp->pinned = true;
    int r = catalog_point_save(e->options.catalog, run->cp, true, "pinning escrow records");
    if (r == 0)
        r = catalog_machine_get(e->options.catalog, point->machine_id, true, &machine);
    if (r < 0)
        return r;
    for (size_t i = 0; machine->inventory && i < machine->inventory->n_volumes && r == 0; i++) {
        if (compare_needs_proof(machine->inventory->volumes[i]))
            r = message_append_text(&ids, &count, machine->inventory->volumes[i]->volume_id);
    }
    int asked =
        r == 0 ? keeper_known_volumes(e, &run->job->cancel, point->machine_id, &ids, &count, &why)
               : 0;
    if (r == 0 && asked == 0 && count > 0)
        asked = keeper_pin(e, &run->job->cancel, point->machine_id, point->point_id,
                           (const char *const *)ids, count, &why);
    /* Ciphertext whose key cannot be asked for today may get its key tomorrow. */
    if (asked < 0)
        sp_log_error("records not pinned", asked, &why, "point", point->point_id, NULL);
    message_free(machine);
    for (size_t i = 0; i < count; i++)
        free(ids[i]);
    free(ids);
    return r;
}

int capture_preflight(struct run *run)
{
    Sp__Manifest *draft = run->cp->draft;
    const Sp__Point *point = run->cp->point;
    job_tell(run->job, SP__POINT_STATE__POINT_STATE_REQUESTED, "checking source and vault");
    draft->format = 1;
    int r = message_set(&draft->machine_id, point->machine_id);
    if (r == 0)
        r = message_set(&draft->machine_name, point->machine_name);
    if (r == 0)
        r = message_set(&draft->point_id, point->point_id);
    if (r == 0)
        r = message_set(&draft->vault_id, point->vault_id);
    if (r == 0)
        r = check_room(run);
    if (r == 0)
        r = describe(run);
    if (r == 0)
        r = increment_candidates(run, &run->base_ids, &run->n_base_ids);
    if (r == 0)
        r = pin(run);
    return r;
}

/* ---- freeze and thaw ---- */

static int command(struct run *run, Sp__Command *command, unsigned timeout_ms, bool cancellable,
                   Sp__Answer **ret, struct sp_why *why)
{
    const struct engine_options *o = &run->engine->options;
    return o->agents->command(o->agents_self, run->cp->point->machine_id, command, timeout_ms,
                              cancellable ? &run->job->cancel : NULL, ret, why);
}

static int find_agent(struct run *run)
{
    const struct engine_options *o = &run->engine->options;
    const char *id = run->cp->point->machine_id;
    struct finding_about whole = {0};
    job_tell(run->job, 0, "looking for the agent");
    enum engine_agent_state state = o->agents->wait(
        o->agents_self, id, run->job->allow_no_agent ? 0 : o->agent_wait_ms, &run->job->cancel);
    if (state == ENGINE_AGENT_QUARANTINED)
        return finding_add(findings(run), SP__REASON__REASON_IDENTITY_CLONED, whole,
                           "more than one guest speaks with this machine's identity: nobody was "
                           "asked to freeze; see 'sealpoint machine show'");
    if (state == ENGINE_AGENT_ABSENT)
        return finding_add(findings(run), SP__REASON__REASON_AGENT_ABSENT, whole,
                           "no agent of this machine is connected: its file systems were not "
                           "frozen");
    if (!o->agents->can(o->agents_self, id, "freeze"))
        return finding_add(findings(run), SP__REASON__REASON_AGENT_TOO_OLD, whole,
                           "the agent cannot freeze: update it");
    run->agent_there = true;
    return 0;
}

static int quiesce_failed(struct run *run, const char *text)
{
    return finding_add(findings(run), SP__REASON__REASON_QUIESCE_FAILED, (struct finding_about){0},
                       "the guest could not be frozen: %s", text);
}

/* The reply, or a finding that says why there is none. */
static int freeze(struct run *run)
{
    Sp__FreezeCommand freeze = SP__FREEZE_COMMAND__INIT;
    Sp__Command c = SP__COMMAND__INIT;
    Sp__Answer *answer = NULL;
    struct sp_why why = {0};
    const Sp__Policy *policy = run->cp->draft->policy;
    freeze.lease_ms = policy ? policy->lease_ms : 0;
    freeze.sync_budget_ms = SYNC_BUDGET_MS;
    freeze.run_hooks = 1;
    c.operation_id = run->cp->freeze_operation;
    c.not_after_ms = SYNC_BUDGET_MS;
    c.kind_case = SP__COMMAND__KIND_FREEZE;
    c.freeze = &freeze;
    run->frozen = true;
    int r = command(run, &c, SYNC_BUDGET_MS + HOOKS_MS + MAX_LEASE_MS, true, &answer, &why);
    if (r == 0 && answer->error == 0 && answer->kind_case == SP__ANSWER__KIND_FREEZE) {
        run->freeze = answer->freeze;
        answer->freeze = NULL;
        answer->kind_case = SP__ANSWER__KIND__NOT_SET;
    } else if (r == 0) {
        /* The agent refused or undid it: nothing is frozen. */
        run->frozen = false;
        r = quiesce_failed(run, answer->error && !message_empty(answer->text)
                                    ? answer->text
                                    : "the agent's answer made no sense");
    } else if (r != -ECANCELED) {
        r = quiesce_failed(run, *why.text ? why.text : strerror(-r));
    }
    message_free(answer);
    return r;
}

static void thaw(struct run *run)
{
    if (!run->frozen)
        return;
    char id[37];
    Sp__ThawCommand thaw = SP__THAW_COMMAND__INIT;
    Sp__Command c = SP__COMMAND__INIT;
    Sp__Answer *answer = NULL;
    struct sp_why why = {0};
    run->frozen = false;
    int r = sp_uuid_make(id);
    thaw.freeze_operation_id = run->cp->freeze_operation;
    c.operation_id = id;
    c.kind_case = SP__COMMAND__KIND_THAW;
    c.thaw = &thaw;
    /* Never cancelled: whatever else happens, the guest goes on. */
    if (r == 0)
        r = command(run, &c, THAW_TIMEOUT_MS, false, &answer, &why);
    if (r == 0 && answer->kind_case == SP__ANSWER__KIND_THAW) {
        run->thaw = answer->thaw;
        answer->thaw = NULL;
        answer->kind_case = SP__ANSWER__KIND__NOT_SET;
        /* An error beside it means that the agent itself does not stand by the claim. */
        if (answer->error)
            run->thaw->all_thawed_on_command = 0;
    }
    if (r < 0)
        sp_log_error("thaw not answered", r, &why, "point", run->cp->point->point_id, NULL);
    message_free(answer);
}

/* ---- the snapshot ---- */

static int journal(void *self, const char *text)
{
    struct run *run = self;
    return catalog_point_journal(run->engine->options.catalog, run->cp->point->point_id, text);
}

static int take(struct run *run, bool held)
{
    Sp__SnapshotRequest request = SP__SNAPSHOT_REQUEST__INIT;
    char **ids SP_FREE = calloc(run->described->n_disks + 1, sizeof(*ids));
    if (!ids)
        return -ENOMEM;
    for (size_t i = 0; i < run->described->n_disks; i++) {
        if (!run->described->disks[i]->skipped)
            ids[request.n_disk_ids++] = run->described->disks[i]->disk_id;
    }
    request.point_id = run->cp->point->point_id;
    request.source = run->cp->source;
    request.disk_ids = ids;
    request.guest_is_held = held;
    request.base_point_ids = run->base_ids;
    request.n_base_point_ids = run->n_base_ids;
    /* In memory at once; on disk with the journal's first line, before the source acts. */
    run->cp->snapshot_held = true;
    int r = run->source->snapshot(&request, journal, run, &run->snapshot, &run->taken, &run->why);
    if (r < 0)
        return run_fail(run, SP__REASON__REASON_SOURCE_LOST, r);
    free(run->cp->journal);
    run->cp->journal = strdup(run->taken->journal);
    return run->cp->journal ? 0 : -ENOMEM;
}

/* Lets go of a snapshot that turned out not to be one point in time. */
static int undo(struct run *run)
{
    if (run->snapshot)
        run->source->close(sp_steal(run->snapshot));
    message_free(run->taken);
    run->taken = NULL;
    int r = run_release(run->engine, run->cp, &run->why);
    return r < 0 ? run_fail(run, SP__REASON__REASON_SOURCE_LOST, r) : 0;
}

static bool torn(const struct run *run)
{
    return run->described->running && !run->taken->held_by_source && run->taken->n_disks > 1 &&
           !(run->inside_freeze && run->thaw && run->thaw->all_thawed_on_command &&
             grade_holds_guest(run->freeze));
}

/* The inventory that describes the snapshot best: read while frozen, else read now, else the last.
 */
static int choose_inventory(struct run *run)
{
    Sp__Manifest *draft = run->cp->draft;
    if (run->freeze && run->freeze->inventory) {
        draft->inventory = run->freeze->inventory;
        run->freeze->inventory = NULL;
        return 0;
    }
    if (run->agent_there) {
        char id[37];
        Sp__InventoryCommand inventory = SP__INVENTORY_COMMAND__INIT;
        Sp__Command c = SP__COMMAND__INIT;
        Sp__Answer *answer = NULL;
        int r = sp_uuid_make(id);
        c.operation_id = id;
        c.kind_case = SP__COMMAND__KIND_INVENTORY;
        c.inventory = &inventory;
        if (r == 0)
            r = command(run, &c, INVENTORY_TIMEOUT_MS, true, &answer, NULL);
        if (r == 0 && answer->error == 0 && answer->kind_case == SP__ANSWER__KIND_INVENTORY) {
            draft->inventory = answer->inventory;
            answer->inventory = NULL;
            answer->kind_case = SP__ANSWER__KIND__NOT_SET;
        }
        message_free(answer);
        if (r == -ECANCELED)
            return r;
    }
    if (!draft->inventory) {
        Sp__Machine *machine = NULL;
        int r = catalog_machine_get(run->engine->options.catalog, run->cp->point->machine_id, true,
                                    &machine);
        if (r < 0)
            return r;
        draft->inventory = machine->inventory;
        machine->inventory = NULL;
        message_free(machine);
        /* Old words about a running guest: said, so that nobody takes them for new ones. */
        if (run->agent_there)
            return finding_add(findings(run), SP__REASON__REASON_AGENT_ABSENT,
                               (struct finding_about){0},
                               "the agent did not say which volumes it has; the last inventory "
                               "was used");
    }
    return 0;
}

/* Detached headers lie on no captured disk: the agent hands them over. */
static int fetch_headers(struct run *run)
{
    const struct engine_options *o = &run->engine->options;
    Sp__Manifest *draft = run->cp->draft;
    for (size_t i = 0; draft->inventory && i < draft->inventory->n_volumes; i++) {
        Sp__Volume *v = draft->inventory->volumes[i];
        if (!v->header || !v->header->detached || !run->agent_there)
            continue;
        struct sp_buffer bytes SP_BUFFER = {0};
        struct sp_why why = {0};
        uint8_t hash[32];
        int r = o->agents->header(o->agents_self, draft->machine_id, v->volume_id,
                                  HEADER_TIMEOUT_MS, &run->job->cancel, &bytes, &why);
        if (r == -ECANCELED)
            return r;
        if (r < 0 || bytes.size == 0) {
            /* compare() finds that it is missing. */
            sp_log_error("detached header not handed over", r, &why, "volume", v->volume_id, NULL);
            continue;
        }
        Sp__CapturedHeader *header = message_new(&sp__captured_header__descriptor);
        r = header ? message_set(&header->volume_id, v->volume_id) : -ENOMEM;
        if (r == 0)
            r = message_set_bytes(&header->bytes, bytes.data, bytes.size);
        if (r == 0)
            r = sp_sha256_of(bytes.data, bytes.size, hash);
        if (r == 0)
            r = message_set(&v->header_from_guest_sha256, SP_HEX32(hash));
        if (r < 0) {
            message_free(header);
            return r;
        }
        header->from_guest = 1;
        r = message_append(&draft->headers, &draft->n_headers, header);
        if (r < 0)
            return r;
    }
    return 0;
}

static int switch_over(struct run *run)
{
    int r = 0;
    if (run->described->running) {
        r = find_agent(run);
        if (r == 0)
            r = run_check(run);
        if (r == 0)
            r = sp_uuid_make(run->cp->freeze_operation);
        if (r == 0)
            r = run_enter(run, SP__POINT_STATE__POINT_STATE_FREEZING,
                          run->agent_there ? "freezing the guest" : "taking the snapshot", true);
        if (r == 0 && run->agent_there)
            r = freeze(run);
    } else {
        r = run_enter(run, SP__POINT_STATE__POINT_STATE_FREEZING, "taking the snapshot", true);
    }
    if (r == 0)
        r = run_check(run);
    run->cp->point->taken_unix_ms = engine_now_ms();
    if (r == 0)
        r = take(run, run->freeze && grade_holds_guest(run->freeze));
    run->inside_freeze = r == 0 && run->freeze;
    thaw(run);
    if (r < 0 || !torn(run))
        return r;
    /* The freeze did not last over all disks: once more, and the source holds the vCPUs. */
    sp_log(SP_LOG_WARNING, "freeze did not last, taking the snapshot again", "point",
           run->cp->point->point_id, NULL);
    run->inside_freeze = false;
    r = undo(run);
    run->cp->point->taken_unix_ms = engine_now_ms();
    return r < 0 ? r : take(run, false);
}

/* ---- what was captured ---- */

static bool disk_captured(void *self, const Sp__SourceDisk *disk)
{
    const struct run *run = self;
    for (size_t i = 0; i < run->taken->n_disks; i++) {
        if (strcmp(run->taken->disks[i]->disk_id, disk->disk_id) == 0)
            return true;
    }
    return false;
}

static bool fs_captured(void *self, const Sp__FileSystem *fs)
{
    struct run *run = self;
    return !run->matched ||
           match_on_captured(&run->match, run->cp->draft->inventory, fs, disk_captured, run);
}

static int read_source(void *self, uint32_t disk, uint64_t offset, void *out, uint32_t length)
{
    struct run *run = self;
    int r = run_check(run);
    return r < 0 ? r : run->source->read_at(run->snapshot, disk, offset, out, length, NULL);
}

/* Which ranges are ciphertext. Without an answer everything is taken for clear, which costs room
 * and nothing else. */
static int look_at_layout(struct run *run)
{
    Sp__LookRequest look = SP__LOOK_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    struct sp_why why = {0};
    Sp__LookDisk *disks SP_FREE = calloc(run->taken->n_disks + 1, sizeof(*disks));
    Sp__LookDisk **list SP_FREE = calloc(run->taken->n_disks + 1, sizeof(*list));
    if (!disks || !list)
        return -ENOMEM;
    for (size_t i = 0; i < run->taken->n_disks; i++) {
        sp__look_disk__init(&disks[i]);
        disks[i].disk_id = run->taken->disks[i]->disk_id;
        disks[i].size_bytes = run->taken->disks[i]->size_bytes;
        disks[i].logical_sector_bytes = run->taken->disks[i]->logical_sector_bytes;
        list[i] = &disks[i];
    }
    look.machine_id = run->cp->point->machine_id;
    look.point_id = run->cp->point->point_id;
    look.disks = list;
    look.n_disks = run->taken->n_disks;
    look.layout_only = 1;
    request.kind_case = SP__KEEPER_REQUEST__KIND_LOOK;
    request.look = &look;
    int r = keeper_ask(run->engine, &run->job->cancel, &request, read_source, run,
                       RUN_LOOK_TIMEOUT_MS, &response, &why);
    if (run_check(run) < 0)
        return -ECANCELED;
    ProtobufCMessage *answer = NULL;
    if (r == 0 && message_take_answer(response, request.kind_case, &answer) == 0) {
        run->layout = (Sp__LookResponse *)answer;
    } else {
        sp_log_error("layout not seen", r, &why, "point", run->cp->point->point_id, NULL);
    }
    return 0;
}

static int match_guest(struct run *run)
{
    Sp__Inventory *inventory = run->cp->draft->inventory;
    if (!inventory)
        return 0;
    int r = match_disks(inventory, run->described->disks, run->described->n_disks, run->layout,
                        &run->match);
    if (r < 0)
        return r;
    run->matched = true;
    r = match_report(&run->match, findings(run));
    return r < 0 ? r : match_rewrite(&run->match, inventory);
}

static int note_lowered(struct run *run, const struct grade_lowered *lowered, size_t count)
{
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++)
        r = finding_add(findings(run), lowered[i].reason, (struct finding_about){0}, "%s%s%s",
                        lowered[i].mount_point, *lowered[i].mount_point ? " " : "",
                        lowered[i].text);
    return r;
}

static int copy_freeze_results(struct run *run)
{
    Sp__Manifest *draft = run->cp->draft;
    size_t count = 0;
    Sp__FreezeResult **from = NULL;
    if (run->thaw && run->thaw->n_results > 0) {
        from = run->thaw->results;
        count = run->thaw->n_results;
    } else if (run->freeze) {
        from = run->freeze->results;
        count = run->freeze->n_results;
    }
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++)
        r = message_append(&draft->freeze, &draft->n_freeze, message_copy(from[i]));
    if (run->thaw)
        draft->freeze_window_us = run->thaw->window_us;
    return r;
}

static int grade(struct run *run)
{
    Sp__Manifest *draft = run->cp->draft;
    struct grade_lowered lowered[LOWERED_MAX];
    size_t count = 0;
    struct grade_facts facts = {.running = run->described->running,
                                .held_by_source = run->taken->held_by_source,
                                .disks = run->taken->n_disks,
                                .freeze = run->freeze,
                                .thaw = run->thaw,
                                .snapshot_inside_freeze = run->inside_freeze,
                                .inventory = draft->inventory,
                                .captured = fs_captured,
                                .self = run};
    draft->grade = grade_of(&facts, lowered, LOWERED_MAX, &count);
    run->cp->point->grade = draft->grade;
    int r = note_lowered(run, lowered, count);
    if (r == 0 && run->freeze && !run->inside_freeze)
        r = finding_add(
            findings(run), SP__REASON__REASON_LEASE_EXPIRED, (struct finding_about){0},
            "the freeze ended (%s) before the snapshot was taken over all disks: it was "
            "taken again without one",
            run->thaw ? run->thaw->ended_by : "no answer from the agent");
    if (r == 0)
        r = copy_freeze_results(run);
    if (r < 0)
        return r;
    Sp__Grade least = draft->policy ? draft->policy->minimum_grade : 0;
    if (draft->grade == SP__GRADE__GRADE_NONE || !grade_reaches(draft->grade, least)) {
        sp_why_set(&run->why, -EPERM,
                   draft->grade == SP__GRADE__GRADE_NONE
                       ? "the disks are not of one point in time"
                       : "the grade is %s, the machine's policy asks for %s",
                   sp_enum_name(&sp__grade__descriptor, (int)draft->grade, "GRADE_"),
                   sp_enum_name(&sp__grade__descriptor, (int)least, "GRADE_"));
        return run_fail(run, SP__REASON__REASON_GRADE_TOO_LOW, -EPERM);
    }
    return 0;
}

int capture_snapshot(struct run *run)
{
    int r = switch_over(run);
    if (r < 0) {
        thaw(run);
        return r;
    }
    run->cp->draft->taken_unix_ms = run->cp->point->taken_unix_ms;
    r = run_enter(run, SP__POINT_STATE__POINT_STATE_SNAPSHOTTED, "reading the disks' layout",
                  false);
    if (r == 0)
        r = choose_inventory(run);
    if (r == 0)
        r = look_at_layout(run);
    if (r == 0)
        r = match_guest(run);
    if (r == 0)
        r = fetch_headers(run);
    if (r == 0)
        r = grade(run);
    return r < 0 ? r : run_check(run);
}

/* ---- transfer ---- */

/* A volume that is being converted holds clear bytes too. */
static bool is_ciphertext(const Sp__Volume *v)
{
    return (compare_needs_proof(v) || v->ephemeral) &&
           !(v->header && v->header->conversion_in_progress);
}

static int add_ciphertext(Sp__DiskLayout *layout, Sp__Volume *const *volumes, size_t count,
                          bool guest_only)
{
    for (size_t i = 0; i < count; i++) {
        const Sp__Volume *v = volumes[i];
        if (!is_ciphertext(v) || (guest_only && (!compare_from_guest_only(v) || !v->open)))
            continue;
        for (size_t j = 0; j < v->n_extents; j++) {
            const Sp__DiskExtent *on = v->extents[j]->on;
            if (!on || strcmp(on->disk_id, layout->disk_id) != 0)
                continue;
            int r = message_append(&layout->ciphertext, &layout->n_ciphertext, message_copy(on));
            if (r < 0)
                return r;
        }
    }
    return 0;
}

static int lay_out(struct run *run, Sp__TransferRequest *request)
{
    const Sp__Inventory *inventory = run->cp->draft->inventory;
    for (size_t i = 0; i < run->taken->n_disks; i++) {
        Sp__DiskLayout *layout = message_new(&sp__disk_layout__descriptor);
        int r = layout ? message_set(&layout->disk_id, run->taken->disks[i]->disk_id) : -ENOMEM;
        if (r == 0 && run->layout)
            r = add_ciphertext(layout, run->layout->volumes, run->layout->n_volumes, false);
        if (r == 0 && inventory)
            r = add_ciphertext(layout, inventory->volumes, inventory->n_volumes, true);
        if (r < 0) {
            message_free(layout);
            return r;
        }
        r = message_append(&request->layout, &request->n_layout, layout);
        if (r < 0)
            return r;
    }
    return 0;
}

static void progress(void *self, const Sp__TransferProgress *p)
{
    struct run *run = self;
    char step[160];
    snprintf(step, sizeof(step), "copying disk %s", p->disk_id);
    job_progress(run->job, p->done_bytes, p->total_bytes, step);
}

static int transfer_failed(struct run *run, int error)
{
    if (error == -ECANCELED)
        return error;
    if (run->source->broken(run->snapshot)) {
        if (!*run->why.text)
            sp_why_set(&run->why, error, "the fleece store ran full: give it more room");
        return run_fail(run, SP__REASON__REASON_SNAPSHOT_BROKEN, error);
    }
    if (error == -ENOSPC || error == -EDQUOT)
        return run_fail(run, SP__REASON__REASON_VAULT_FULL, error);
    if (error == -EBADMSG)
        return run_fail(run, SP__REASON__REASON_TRANSFER_CORRUPT, error);
    return run_fail(run, SP__REASON__REASON_SOURCE_LOST, error);
}

/* The disks as the mover stored them, with the guest's names beside. */
static int keep_disks(struct run *run, Sp__TransferResponse *stored)
{
    Sp__Manifest *draft = run->cp->draft;
    Sp__Point *point = run->cp->point;
    draft->disks = stored->disks;
    draft->n_disks = stored->n_disks;
    stored->disks = NULL;
    stored->n_disks = 0;
    int r = 0;
    for (size_t i = 0; i < draft->n_disks && r == 0; i++) {
        Sp__DiskImage *disk = draft->disks[i];
        point->size_bytes += disk->size_bytes;
        point->stored_bytes += disk->stored_bytes;
        point->new_bytes += disk->new_bytes;
        for (size_t j = 0; j < run->match.count && r == 0; j++) {
            const struct match_pair *pair = &run->match.pairs[j];
            if (pair->source && strcmp(pair->source->disk_id, disk->disk_id) == 0)
                r = message_set(&disk->guest_name, pair->guest->name);
        }
    }
    return r;
}

int capture_transfer(struct run *run)
{
    Sp__TransferRequest request = SP__TRANSFER_REQUEST__INIT;
    Sp__TransferResponse *stored = NULL;
    struct mover_transfer_hooks hooks = {progress, &run->job->cancel, run};
    int r = run_enter(run, SP__POINT_STATE__POINT_STATE_TRANSFERRING, "copying", true);
    request.point_id = run->cp->point->point_id;
    request.source = run->cp->source;
    request.journal = run->cp->journal;
    request.vault_id = run->vault_entry->vault_id;
    request.vault = run->vault_entry->config;
    if (r == 0)
        r = lay_out(run, &request);
    if (r == 0)
        r = increment_bases(run, &request);
    if (r == 0) {
        r = mover_transfer(run->source, run->snapshot, run->taken, &request, run->vault, &hooks,
                           &stored, &run->why);
        /* A snapshot that broke while its last bytes were read is no snapshot. */
        if (r == 0 && run->source->broken(run->snapshot))
            r = -EIO;
        if (r < 0)
            r = transfer_failed(run, r);
    }
    if (r == 0)
        r = keep_disks(run, stored);
    if (r == 0)
        r = increment_note(run, stored);
    if (r == 0) {
        run->cp->transferred = true;
        r = catalog_point_save(run->engine->options.catalog, run->cp, true, "copied");
    }
    for (size_t i = 0; i < request.n_layout; i++)
        message_free(request.layout[i]);
    free(request.layout);
    increment_free(&request);
    message_free(stored);
    return r;
}
