/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/plan.h"
#include "agent/linux/raw.h"
#include "agent/linux/suspend.h"
#include "agent/linux/sync.h"
#include "agent/message.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* A sync that takes longer leaves enough new data behind for another one to pay. */
enum { SYNC_AGAIN_MS = 50, SYNC_ROUNDS = 4 };

#define OUTCOME(name) SP__FREEZE_RESULT__OUTCOME__OUTCOME_##name

static bool is_excluded(const struct agent_config *config, const Sp__FreezeCommand *command,
                        const char *mount_point)
{
    for (size_t i = 0; i < command->n_exclude_mount_points; i++)
        if (strcmp(command->exclude_mount_points[i], mount_point) == 0)
            return true;
    return agent_config_lists(config->exclude, mount_point) ||
           (config->only[0] && !agent_config_lists(config->only, mount_point));
}

/* What is known before anything is frozen; opens the mount of what is to be frozen. Its mount point
 * may be hidden below another mount, so it is opened by its superblock. */
static void preset(const struct agent_config *config, const Sp__FreezeCommand *command,
                   const Sp__FileSystem *fs, struct held *held)
{
    held->fd = held->target = -1;
    if (fs->network)
        held->outcome = OUTCOME(NETWORK);
    else if (fs->read_only)
        held->outcome = OUTCOME(READ_ONLY);
    else if (is_excluded(config, command, fs->mount_point)) {
        held->outcome = OUTCOME(FAILED);
        held->error = ECANCELED;
    } else if (fs->elsewhere) {
        held->outcome = OUTCOME(FAILED);
        held->error = EXDEV;
    } else {
        held->fd = freeze_open_superblock(fs->devno);
        if (held->fd < 0) {
            held->outcome = OUTCOME(FAILED);
            held->error = -held->fd;
            held->fd = -1;
        }
    }
}

/* A loop device's file system before the one that holds its file. With the same number of loop
 * devices below them file systems come first: one may lie on a raw device in a way that is not seen
 * (served to this guest by itself), never the other way round. */
static uint32_t level_of(const Sp__Inventory *inventory, const char *device, bool raw)
{
    return 2 * inventory_loop_depth(inventory, device) + (raw ? 0 : 1);
}

static uint32_t level_of_file_system(const Sp__Inventory *inventory, const Sp__FileSystem *fs)
{
    uint32_t level = level_of(inventory, fs->device, false);
    for (size_t i = 0; i < fs->n_devices; i++) {
        uint32_t of_device = level_of(inventory, fs->devices[i], false);
        level = of_device > level ? of_device : level;
    }
    return level;
}

static int add_raw(struct plan *plan, const struct inventory_roots *roots,
                   const Sp__Inventory *inventory, const struct raw_device *raw)
{
    struct held *grown = reallocarray(plan->at, plan->count + 1, sizeof(*plan->at));
    if (!grown)
        return -ENOMEM;
    plan->at = grown;
    struct held *held = &grown[plan->count++];
    *held = (struct held){.mount_point = strdup(raw->path),
                          .type = strdup(""),
                          .device = strdup(raw->device->name),
                          .devno = strdup(raw->device->devno),
                          .node = sp_format("%s/%s", roots->dev, raw->device->name),
                          .level = level_of(inventory, raw->device->name, true),
                          .fd = -1,
                          .target = -1,
                          .outcome = OUTCOME(BUSY)};
    if (raw->verdict == RAW_MAY) {
        int control = suspend_open();
        held->fd = control < 0 ? -1 : control;
        held->outcome = OUTCOME(FAILED); /* unless it is suspended */
        held->error = control < 0 ? -control : 0;
    }
    return held->mount_point && held->type && held->device && held->devno && held->node ? 0
                                                                                        : -ENOMEM;
}

/* Raw devices that are not meant, or must not be touched, are in no result: whoever did not ask for
 * their suspension has them in a snapshot as ever. */
static int add_raws(struct plan *plan, const struct agent_config *config,
                    const struct inventory_roots *roots, const Sp__FreezeCommand *command,
                    const Sp__Inventory *inventory)
{
    if (!config->suspend || !config->suspend[0])
        return 0;
    struct raw_device *raws = NULL;
    size_t count = 0;
    int r = raw_find(roots, inventory, config->suspend, &raws, &count);
    for (size_t i = 0; r == 0 && i < count; i++)
        if (raws[i].listed && (raws[i].verdict == RAW_MAY || raws[i].verdict == RAW_BUSY) &&
            !is_excluded(config, command, raws[i].path))
            r = add_raw(plan, roots, inventory, &raws[i]);
    raw_free(raws, count);
    return r;
}

int plan_make(struct plan *plan, const struct agent_config *config,
              const struct inventory_roots *roots, const Sp__FreezeCommand *command,
              const Sp__Inventory *inventory)
{
    plan_drop(plan);
    plan->at = calloc(inventory->n_file_systems ? inventory->n_file_systems : 1, sizeof(*plan->at));
    if (!plan->at)
        return -ENOMEM;
    for (size_t i = 0; i < inventory->n_file_systems; i++) {
        const Sp__FileSystem *fs = inventory->file_systems[i];
        struct held *held = &plan->at[plan->count++];
        held->mount_point = strdup(fs->mount_point);
        held->type = strdup(fs->type);
        held->device = strdup(fs->device);
        held->devno = strdup(fs->devno);
        held->level = level_of_file_system(inventory, fs);
        preset(config, command, fs, held);
        if (!held->mount_point || !held->type || !held->device || !held->devno)
            return -ENOMEM;
    }
    return add_raws(plan, config, roots, command, inventory);
}

void plan_close(struct plan *plan)
{
    for (size_t i = 0; i < plan->count; i++) {
        if (plan->at[i].fd >= 0)
            close(plan->at[i].fd);
        plan->at[i].fd = -1;
    }
}

void plan_drop(struct plan *plan)
{
    plan_close(plan);
    for (size_t i = 0; i < plan->count; i++) {
        free(plan->at[i].mount_point);
        free(plan->at[i].type);
        free(plan->at[i].device);
        free(plan->at[i].devno);
        free(plan->at[i].node);
    }
    free(plan->at);
    *plan = (struct plan){0};
}

/* ---- sync ---- */

/* What is synced: the mount, or the device itself, open for no longer than that: closing it would
 * have to wait once it is suspended. */
static int sync_fd(const struct held *held)
{
    return held->node ? open(held->node, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
                      : fcntl(held->fd, F_DUPFD_CLOEXEC, 0);
}

static int sync_once(struct plan *plan, unsigned budget_ms)
{
    int fds[FREEZE_LIST_MOST] = {0}, results[FREEZE_LIST_MOST] = {0};
    struct held *of[FREEZE_LIST_MOST];
    size_t count = 0;
    for (size_t i = 0; i < plan->count; i++)
        count += plan->at[i].fd >= 0;
    if (count > FREEZE_LIST_MOST)
        return -E2BIG;
    count = 0;
    for (size_t i = 0; i < plan->count; i++)
        if (plan->at[i].fd >= 0) {
            of[count] = &plan->at[i];
            fds[count++] = sync_fd(&plan->at[i]);
        }
    int r = sync_bounded(fds, count, budget_ms, results);
    for (size_t i = 0; i < count; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        if (r == 0 && results[i] == -ETIMEDOUT) {
            of[i]->outcome = OUTCOME(BLOCKED);
            of[i]->error = ETIMEDOUT;
            close(of[i]->fd);
            of[i]->fd = -1;
        }
    }
    return r;
}

int plan_sync(struct plan *plan, unsigned budget_ms, uint64_t *ret_us)
{
    uint64_t from = freeze_now_ns(), until = from + budget_ms * 1000000ull, before, now = from;
    int r = 0;
    for (int round = 0; r == 0 && round < SYNC_ROUNDS && now < until; round++) {
        before = now;
        r = sync_once(plan, (unsigned)((until - now + 999999) / 1000000));
        now = freeze_now_ns();
        if (now - before < SYNC_AGAIN_MS * 1000000ull)
            break;
    }
    *ret_us = (now - from) / 1000;
    return r;
}

/* ---- who wrote in spite of it ---- */

/* Sectors written since boot: the seventh number of the stat file (Documentation/block/stat.rst).
 */
static bool read_sectors(const char *sys, const char *device, uint64_t *ret)
{
    SP_FREE char *path = sp_format("%s/class/block/%s/stat", sys, device);
    SP_FREE char *text = NULL;
    if (!path || sp_file_read(path, 4096, &text, NULL) < 0)
        return false;
    unsigned long long n[7];
    if (sscanf(text, "%llu %llu %llu %llu %llu %llu %llu", &n[0], &n[1], &n[2], &n[3], &n[4], &n[5],
               &n[6]) != 7)
        return false;
    *ret = n[6];
    return true;
}

uint32_t plan_targets(struct plan *plan, const char *sys, struct freezer_target *targets)
{
    uint32_t count = 0;
    for (size_t i = 0; i < plan->count; i++) {
        struct held *held = &plan->at[i];
        if (held->fd < 0)
            continue;
        held->sectors_known = read_sectors(sys, held->device, &held->sectors_before);
        held->target = (int)count;
        targets[count++] = (struct freezer_target){.mount_point = held->mount_point,
                                                   .devno = held->devno,
                                                   .level = held->level,
                                                   .kind = held->node ? FREEZE_KIND_DEVICE
                                                                      : FREEZE_KIND_FILE_SYSTEM,
                                                   .fd = held->fd};
    }
    return count;
}

void plan_settle(struct plan *plan, const char *sys)
{
    for (size_t i = 0; i < plan->count; i++) {
        struct held *held = &plan->at[i];
        uint64_t now;
        if (held->outcome != OUTCOME(UNSUPPORTED) || !held->sectors_known)
            continue;
        held->wrote = !read_sectors(sys, held->device, &now) || now != held->sectors_before;
        if (!held->wrote)
            held->outcome = OUTCOME(SYNCED);
    }
}

/* ---- outcomes ---- */

static Sp__FreezeResult__Outcome outcome_of_error(int error)
{
    switch (error) {
    case EOPNOTSUPP:
    case ENOTTY:
        return OUTCOME(UNSUPPORTED);
    case EBUSY:
        return OUTCOME(BUSY);
    case EINTR: /* a suspension that the freezer gave up */
        return OUTCOME(BLOCKED);
    default:
        return OUTCOME(FAILED);
    }
}

void plan_take(struct plan *plan, const struct freezer_report *report)
{
    for (size_t i = 0; i < plan->count; i++) {
        struct held *held = &plan->at[i];
        if (held->target < 0)
            continue;
        const struct freezer_outcome *outcome = &report->outcomes[held->target];
        held->freeze_us = outcome->freeze_us;
        held->error = outcome->freeze_error;
        switch (outcome->state) {
        case FREEZE_ENTRY_FROZEN:
        case FREEZE_ENTRY_THAWING:
        case FREEZE_ENTRY_THAWED:
            held->outcome = OUTCOME(FROZEN);
            break;
        case FREEZE_ENTRY_REFUSED:
            held->outcome = outcome_of_error(held->error);
            break;
        case FREEZE_ENTRY_IDLE:
        case FREEZE_ENTRY_QUEUED:
            held->outcome = OUTCOME(FAILED); /* its turn never came */
            held->error = ETIME;
            break;
        default:
            held->outcome = OUTCOME(BLOCKED);
            break;
        }
    }
}

bool plan_all_thawed(const struct plan *plan, const struct freezer_report *report)
{
    for (size_t i = 0; i < plan->count; i++) {
        const struct held *held = &plan->at[i];
        if (held->outcome != OUTCOME(FROZEN))
            continue;
        const struct freezer_outcome *outcome = &report->outcomes[held->target];
        if (outcome->state != FREEZE_ENTRY_THAWED || outcome->thaw_error != 0)
            return false;
    }
    return true;
}

const char *plan_blocked(const struct plan *plan)
{
    for (size_t i = 0; i < plan->count; i++)
        if (plan->at[i].target >= 0 && plan->at[i].outcome == OUTCOME(BLOCKED))
            return plan->at[i].mount_point;
    return NULL;
}

static int add_result(const struct held *held, const struct freezer_report *report,
                      Sp__FreezeResult ***array, size_t *count)
{
    Sp__FreezeResult *m = malloc(sizeof(*m));
    if (!m)
        return -ENOMEM;
    sp__freeze_result__init(m);
    int r = message_append(array, count, m);
    if (r < 0) {
        free(m);
        return r;
    }
    m->outcome = held->outcome;
    m->error = held->error;
    m->freeze_us = held->freeze_us;
    m->wrote_while_held = held->wrote;
    if (report && held->target >= 0) {
        m->thaw_us = report->outcomes[held->target].thaw_us;
        m->thaw_error = report->outcomes[held->target].thaw_error;
    }
    r = message_text(held->node ? &m->raw_device : &m->mount_point, held->mount_point);
    if (r == 0)
        r = message_text(&m->type, held->type);
    return r == 0 ? message_text(&m->device, held->device) : r;
}

int plan_results(const struct plan *plan, const struct freezer_report *report,
                 Sp__FreezeResult ***array, size_t *count)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < plan->count; i++)
        r = add_result(&plan->at[i], report, array, count);
    return r;
}
