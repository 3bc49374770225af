/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/commands.h"
#include "agent/linux/keyslot.h"
#include "agent/message.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REMEMBERED = 8, ID_BYTES = 64 };

/* One operation that was asked for. */
struct operation {
    char id[ID_BYTES];
    bool freezing;   /* a Freeze that has not been answered */
    uint8_t *answer; /* packed; NULL: still under way */
    size_t answer_bytes;
    uint64_t order; /* when it came; the oldest answered one makes room */
};

struct commands {
    struct commands_options options;
    pthread_mutex_t lock; /* everything below */
    uint64_t fence, order;
    bool quarantined;
    struct operation operations[REMEMBERED];
};

struct job {
    struct commands *commands;
    Sp__Command *command;
    uint64_t received_ms;
};

int commands_new(const struct commands_options *options, struct commands **ret)
{
    struct commands *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->options = *options;
    pthread_mutex_init(&c->lock, NULL);
    *ret = c;
    return 0;
}

void commands_free(struct commands *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < REMEMBERED; i++)
        free(c->operations[i].answer);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

int commands_set_fence(struct commands *c, uint64_t fence)
{
    pthread_mutex_lock(&c->lock);
    int r = fence < c->fence ? -ESTALE : 0;
    if (r == 0)
        c->fence = fence;
    pthread_mutex_unlock(&c->lock);
    return r;
}

void commands_set_quarantined(struct commands *c, bool quarantined)
{
    pthread_mutex_lock(&c->lock);
    c->quarantined = quarantined;
    pthread_mutex_unlock(&c->lock);
}

/* ---- answers ---- */

static struct operation *find(struct commands *c, const char *id)
{
    for (size_t i = 0; i < REMEMBERED; i++)
        if (c->operations[i].order && strcmp(c->operations[i].id, id) == 0)
            return &c->operations[i];
    return NULL;
}

/* A place for a new operation: a free one, else the oldest that is answered. NULL: all are under
 * way. */
static struct operation *make_room(struct commands *c)
{
    struct operation *best = NULL;
    for (size_t i = 0; i < REMEMBERED; i++) {
        struct operation *o = &c->operations[i];
        if (o->order && !o->answer)
            continue;
        if (!best || o->order < best->order)
            best = o;
    }
    if (best) {
        free(best->answer);
        *best = (struct operation){.order = ++c->order};
    }
    return best;
}

/* Keeps the answer and sends it. */
static void deliver(struct commands *c, const Sp__Answer *answer)
{
    uint8_t *packed = NULL;
    size_t size = 0;
    if (sp_pack(&answer->base, &packed, &size) == 0) {
        pthread_mutex_lock(&c->lock);
        struct operation *o = find(c, answer->operation_id);
        if (o) {
            o->freezing = false;
            free(o->answer);
            o->answer = packed;
            o->answer_bytes = size;
            packed = NULL;
        }
        pthread_mutex_unlock(&c->lock);
        free(packed);
    }
    c->options.answer(c->options.self, answer);
}

static void refuse(struct commands *c, const char *id, int error, const char *text, bool keep)
{
    Sp__Answer answer = SP__ANSWER__INIT;
    answer.operation_id = (char *)(uintptr_t)id;
    answer.error = error;
    answer.text = (char *)(uintptr_t)text;
    if (!quiesce_is_frozen(c->options.quiesce)) /* the log may lie on what is frozen */
        sp_log(SP_LOG_WARNING, "command refused", "operation", id, "why", text, NULL);
    if (keep)
        deliver(c, &answer);
    else
        c->options.answer(c->options.self, &answer);
}

/* ---- running, on the worker ---- */

static int run_freeze(struct commands *c, const Sp__Command *command, Sp__Answer *answer,
                      struct sp_why *why)
{
    Sp__FreezeAnswer *freeze = NULL;
    int r =
        quiesce_freeze(c->options.quiesce, command->operation_id, command->freeze, &freeze, why);
    if (freeze) {
        answer->kind_case = SP__ANSWER__KIND_FREEZE;
        answer->freeze = freeze;
    }
    return r;
}

static int run_thaw(struct commands *c, const Sp__Command *command, Sp__Answer *answer,
                    struct sp_why *why)
{
    Sp__ThawAnswer *thaw = NULL;
    int r = quiesce_thaw(c->options.quiesce, command->thaw->freeze_operation_id, &thaw, why);
    if (thaw) {
        answer->kind_case = SP__ANSWER__KIND_THAW;
        answer->thaw = thaw;
    }
    return r;
}

static int run_inventory(struct commands *c, Sp__Answer *answer, struct sp_why *why)
{
    Sp__Inventory *inventory = NULL;
    int r = inventory_read(c->options.roots, &inventory, why);
    if (r == 0) {
        answer->kind_case = SP__ANSWER__KIND_INVENTORY;
        answer->inventory = inventory;
    }
    return r;
}

static int run_keyslot(struct commands *c, const Sp__Command *command, Sp__Answer *answer,
                       struct sp_why *why)
{
    Sp__KeyslotAnswer *keyslot = NULL;
    if (!c->options.config->escrow_enrol)
        return sp_why_set(why, -EPERM,
                          "this agent's configuration does not allow it: '[escrow] enrol = on'");
    int r =
        keyslot_command(c->options.config, c->options.roots, command->enrol_keyslot, &keyslot, why);
    if (r == 0) {
        answer->kind_case = SP__ANSWER__KIND_KEYSLOT;
        answer->keyslot = keyslot;
    }
    return r;
}

static int run(struct commands *c, const Sp__Command *command, Sp__Answer *answer,
               struct sp_why *why)
{
    switch (command->kind_case) {
    case SP__COMMAND__KIND_FREEZE:
        return run_freeze(c, command, answer, why);
    case SP__COMMAND__KIND_THAW:
        return run_thaw(c, command, answer, why);
    case SP__COMMAND__KIND_INVENTORY:
        return run_inventory(c, answer, why);
    case SP__COMMAND__KIND_ENROL_KEYSLOT:
        return run_keyslot(c, command, answer, why);
    default:
        return sp_why_set(why, -EOPNOTSUPP, "agent %s does not know this command",
                          SEALPOINT_VERSION);
    }
}

/* Nothing is logged between a freeze and its thaw: the log may lie on what is frozen. */
static void log_result(const Sp__Command *command, int r, const struct sp_why *why)
{
    bool freeze = command->kind_case == SP__COMMAND__KIND_FREEZE;
    if (r < 0 && !(freeze && r == -ETIME))
        sp_log_error("command failed", r, why, "operation", command->operation_id, NULL);
    else if (command->kind_case == SP__COMMAND__KIND_THAW)
        sp_log(SP_LOG_INFO, "thawed", "operation", command->thaw->freeze_operation_id, NULL);
}

static void run_job(void *arg)
{
    struct job *job = arg;
    struct commands *c = job->commands;
    const Sp__Command *command = job->command;
    uint64_t waited_ms = sp_clock_monotonic_ms(&sp_clock_system) - job->received_ms;
    if (command->not_after_ms && waited_ms > command->not_after_ms) {
        refuse(c, command->operation_id, ETIMEDOUT, "the command waited too long here", true);
    } else {
        Sp__Answer *answer = malloc(sizeof(*answer));
        struct sp_why why = {0};
        if (answer) {
            sp__answer__init(answer);
            int r = run(c, command, answer, &why);
            if (r < 0) {
                answer->error = -r;
                message_text(&answer->text, why.text[0] ? why.text : strerror(-r));
            }
            message_text(&answer->operation_id, command->operation_id);
            deliver(c, answer);
            sp__answer__free_unpacked(answer, NULL);
            log_result(command, r, &why);
        }
    }
    sp__command__free_unpacked(job->command, NULL);
    free(job);
}

/* ---- receiving, on the loop ---- */

static void answer_status(struct commands *c, const Sp__Command *command)
{
    Sp__Answer answer = SP__ANSWER__INIT;
    Sp__StatusAnswer status = SP__STATUS_ANSWER__INIT;
    Sp__FreezeState *state = malloc(sizeof(*state));
    if (!state)
        return;
    sp__freeze_state__init(state);
    quiesce_state(c->options.quiesce, state);
    answer.operation_id = command->operation_id;
    answer.kind_case = SP__ANSWER__KIND_STATUS;
    answer.status = &status;
    status.freeze = state;
    c->options.answer(c->options.self, &answer);
    sp__freeze_state__free_unpacked(state, NULL);
}

static void queue(struct commands *c, const Sp__Command *command)
{
    struct job *job = malloc(sizeof(*job));
    Sp__Command *copy = (Sp__Command *)sp_message_copy(&command->base);
    if (job && copy) {
        *job = (struct job){
            .commands = c, .command = copy, .received_ms = sp_clock_monotonic_ms(&sp_clock_system)};
        if (worker_push(c->options.worker, run_job, job) == 0)
            return;
    }
    free(job);
    sp__command__free_unpacked(copy, NULL);
    refuse(c, command->operation_id, ENOMEM, "out of memory", true);
}

/* A Thaw that comes while its Freeze is under way ends it, since the worker is busy with it. */
static bool stops_a_freeze(struct commands *c, const Sp__Command *command)
{
    if (command->kind_case != SP__COMMAND__KIND_THAW)
        return false;
    struct operation *o = find(c, command->thaw->freeze_operation_id);
    return o && o->freezing;
}

bool commands_busy(struct commands *c)
{
    bool busy = false;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < REMEMBERED; i++)
        busy = busy || (c->operations[i].order && !c->operations[i].answer);
    pthread_mutex_unlock(&c->lock);
    return busy;
}

void commands_receive(struct commands *c, const Sp__Command *command)
{
    const char *id = command->operation_id;
    if (!id[0] || strlen(id) >= ID_BYTES) {
        refuse(c, id, EINVAL, "the operation id is empty or too long", false);
        return;
    }
    pthread_mutex_lock(&c->lock);
    bool stale = command->fence < c->fence, quarantined = c->quarantined;
    struct operation *known = find(c, id), *made = NULL;
    Sp__Answer *again = known && known->answer
                            ? sp__answer__unpack(NULL, known->answer_bytes, known->answer)
                            : NULL;
    bool direct = command->kind_case == SP__COMMAND__KIND_STATUS;
    bool held = !known && !direct && command->kind_case != SP__COMMAND__KIND_THAW &&
                quiesce_is_frozen(c->options.quiesce);
    bool stop = false;
    if (!stale && !quarantined && !known && !direct && !held) {
        stop = stops_a_freeze(c, command);
        made = make_room(c);
        if (made) {
            snprintf(made->id, sizeof(made->id), "%s", id);
            made->freezing = command->kind_case == SP__COMMAND__KIND_FREEZE;
        }
    }
    pthread_mutex_unlock(&c->lock);

    if (stale)
        refuse(c, id, ESTALE, "an older controller session sent this command", false);
    else if (quarantined)
        refuse(c, id, EPERM, "this guest is quarantined: it runs no commands", false);
    else if (held)
        refuse(c, id, EBUSY, "this guest is frozen: only Status and Thaw are answered", false);
    else if (again)
        c->options.answer(c->options.self, again);
    else if (direct)
        answer_status(c, command);
    else if (made) {
        if (stop)
            quiesce_abort(c->options.quiesce, true);
        queue(c, command);
    } else if (!known)
        refuse(c, id, EBUSY, "too many commands are under way", false);
    if (again)
        sp__answer__free_unpacked(again, NULL);
}
