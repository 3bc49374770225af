/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/backup/grade.h"
#include "controller/message.h"
#include <string.h>

struct notes {
    struct grade_lowered *at;
    size_t capacity, count;
};

static void lower(struct notes *n, Sp__Reason reason, const char *mount_point, const char *text)
{
    if (n->count < n->capacity)
        n->at[n->count++] = (struct grade_lowered){reason, mount_point, text};
}

/* The thaw knows more than the freeze: what wrote while it was held, whether FITHAW returned 0. */
static const Sp__FreezeResult *result_of(const struct grade_facts *f, const char *mount_point)
{
    for (size_t i = 0; f->thaw && i < f->thaw->n_results; i++) {
        if (strcmp(f->thaw->results[i]->mount_point, mount_point) == 0)
            return f->thaw->results[i];
    }
    for (size_t i = 0; i < f->freeze->n_results; i++) {
        if (strcmp(f->freeze->results[i]->mount_point, mount_point) == 0)
            return f->freeze->results[i];
    }
    return NULL;
}

/* The same device's in the thaw, NULL: none. */
static const Sp__FreezeResult *raw_result_of(const Sp__ThawAnswer *thaw, const Sp__FreezeResult *of)
{
    for (size_t i = 0; i < thaw->n_results; i++)
        if (strcmp(thaw->results[i]->raw_device, of->raw_device) == 0)
            return thaw->results[i];
    return NULL;
}

/* What a result is about. */
static const char *name_of(const Sp__FreezeResult *r)
{
    return message_empty(r->raw_device) ? r->mount_point : r->raw_device;
}

/* One file system, or device without one: true when it is as good as frozen. */
static bool consistent(const Sp__FreezeResult *r, struct notes *n)
{
    const char *name = name_of(r);
    switch ((int)r->outcome) {
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_FROZEN:
        if (r->thaw_error == 0)
            return true;
        lower(n, SP__REASON__REASON_QUIESCE_FAILED, name, "could not be thawed on command");
        return false;
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_READ_ONLY:
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_NETWORK:
        return true;
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_SYNCED:
        if (!r->wrote_while_held)
            return true;
        lower(n, SP__REASON__REASON_QUIESCE_FAILED, name,
              "cannot be frozen, and something wrote to it during the hold");
        return false;
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_UNSUPPORTED:
        lower(n, SP__REASON__REASON_QUIESCE_FAILED, name,
              "cannot be frozen and is not known to have been idle");
        return false;
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_BUSY:
        lower(n, SP__REASON__REASON_QUIESCE_FAILED, name,
              "was already frozen by somebody else, who may thaw it at any time");
        return false;
    case SP__FREEZE_RESULT__OUTCOME__OUTCOME_BLOCKED:
        lower(n, SP__REASON__REASON_QUIESCE_FAILED, name, "did not freeze before the deadline");
        return false;
    default:
        lower(n, SP__REASON__REASON_QUIESCE_FAILED, name, "could not be frozen");
        return false;
    }
}

static bool hook_good(const Sp__HookResult *h)
{
    return h->exit_status == 0 && !h->timed_out;
}

/* At least one hook, and every one of both phases succeeded. */
static bool hooks_good(const struct grade_facts *f)
{
    if (f->freeze->n_hooks == 0)
        return false;
    for (size_t i = 0; i < f->freeze->n_hooks; i++) {
        if (!hook_good(f->freeze->hooks[i]))
            return false;
    }
    for (size_t i = 0; i < f->thaw->n_hooks; i++) {
        if (!hook_good(f->thaw->hooks[i]))
            return false;
    }
    return true;
}

/* A failed hook costs the application grade, which is worth a word. */
static void name_failed_hooks(const struct grade_facts *f, struct notes *n)
{
    for (size_t i = 0; i < f->freeze->n_hooks; i++) {
        if (!hook_good(f->freeze->hooks[i]))
            lower(n, SP__REASON__REASON_QUIESCE_FAILED, f->freeze->hooks[i]->name,
                  "is a pre-freeze hook that failed");
    }
}

/* Raw devices that the guest was to suspend. One that was held counts as a frozen file system: its
 * bytes are of the same moment as all the rest and no write is torn or out of order, and what its
 * application finds is what it finds after a power cut, as on a frozen file system. So it lowers
 * nothing, and by itself it gives no more than those do. One that could not be held, though its
 * guest asked for it, may be of a later moment than the file systems: crash. A raw device of which
 * nobody asked that is in no result, and counts for nothing. */
static bool all_raw_held(const struct grade_facts *f, struct notes *n)
{
    bool good = true;
    for (size_t i = 0; i < f->freeze->n_results; i++) {
        const Sp__FreezeResult *r = f->freeze->results[i];
        if (message_empty(r->raw_device))
            continue;
        Sp__FileSystem on = SP__FILE_SYSTEM__INIT;
        on.device = r->device;
        if (f->captured && !f->captured(f->self, &on))
            continue;
        const Sp__FreezeResult *last = raw_result_of(f->thaw, r);
        good = consistent(last ? last : r, n) && good;
    }
    return good;
}

/* Every read-write file system of the inventory must have a good result, and every result of the
 * freeze must be good: a file system that one list lacks is not taken for frozen. */
static bool all_consistent(const struct grade_facts *f, struct notes *n)
{
    bool good = all_raw_held(f, n);
    for (size_t i = 0; i < f->inventory->n_file_systems; i++) {
        const Sp__FileSystem *fs = f->inventory->file_systems[i];
        if (fs->read_only || fs->network || !fs->has_block_device ||
            (f->captured && !f->captured(f->self, fs)))
            continue;
        const Sp__FreezeResult *r = result_of(f, fs->mount_point);
        if (!r) {
            lower(n, SP__REASON__REASON_QUIESCE_FAILED, fs->mount_point, "was not frozen");
            good = false;
        } else if (!consistent(r, n)) {
            good = false;
        }
    }
    return good;
}

static Sp__Grade unheld(const struct grade_facts *f)
{
    /* One disk is a point in time by itself. */
    return f->held_by_source || f->disks <= 1 ? SP__GRADE__GRADE_CRASH : SP__GRADE__GRADE_NONE;
}

Sp__Grade grade_of(const struct grade_facts *f, struct grade_lowered *lowered, size_t capacity,
                   size_t *ret_lowered)
{
    struct notes n = {lowered, capacity, 0};
    Sp__Grade grade = SP__GRADE__GRADE_FILESYSTEM;
    if (!f->running) {
        grade = SP__GRADE__GRADE_OFFLINE;
    } else if (!f->freeze || !f->snapshot_inside_freeze) {
        grade = unheld(f);
    } else if (!f->thaw || !f->thaw->all_thawed_on_command) {
        lower(&n, SP__REASON__REASON_LEASE_EXPIRED, "",
              f->thaw ? "the freeze did not last until the thaw command"
                      : "the thaw was not answered");
        grade = unheld(f);
    } else if (!f->inventory) {
        lower(&n, SP__REASON__REASON_QUIESCE_FAILED, "",
              "the agent did not say which file systems are mounted");
        grade = SP__GRADE__GRADE_CRASH;
    } else if (!all_consistent(f, &n)) {
        grade = SP__GRADE__GRADE_CRASH;
    } else if (hooks_good(f)) {
        grade = SP__GRADE__GRADE_APPLICATION;
    } else {
        name_failed_hooks(f, &n);
    }
    /* Frozen or not: several disks that nothing held still at the switch are no point in time. */
    if (f->running && f->freeze && grade == SP__GRADE__GRADE_CRASH && !f->held_by_source &&
        f->disks > 1 && !grade_holds_guest(f->freeze))
        grade = SP__GRADE__GRADE_NONE;
    *ret_lowered = n.count;
    return grade;
}

bool grade_holds_guest(const Sp__FreezeAnswer *freeze)
{
    bool any = false;
    for (size_t i = 0; i < freeze->n_results; i++) {
        switch ((int)freeze->results[i]->outcome) {
        case SP__FREEZE_RESULT__OUTCOME__OUTCOME_FROZEN:
        case SP__FREEZE_RESULT__OUTCOME__OUTCOME_SYNCED:
            any = true;
            break;
        case SP__FREEZE_RESULT__OUTCOME__OUTCOME_READ_ONLY:
        case SP__FREEZE_RESULT__OUTCOME__OUTCOME_NETWORK:
            break;
        default:
            return false;
        }
    }
    return any;
}

static int rank(Sp__Grade grade)
{
    switch ((int)grade) {
    case SP__GRADE__GRADE_NONE:
        return 1;
    case SP__GRADE__GRADE_CRASH:
        return 2;
    case SP__GRADE__GRADE_FILESYSTEM:
    case SP__GRADE__GRADE_OFFLINE:
        return 3;
    case SP__GRADE__GRADE_APPLICATION:
        return 4;
    default:
        return 0;
    }
}

bool grade_reaches(Sp__Grade grade, Sp__Grade least)
{
    if (least == SP__GRADE__GRADE_UNSPECIFIED)
        return true;
    /* A grade that is not known asks for more than anything can give. */
    int wanted = rank(least);
    return wanted > 0 && rank(grade) >= wanted;
}
