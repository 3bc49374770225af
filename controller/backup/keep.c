/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What keeps points and what removes them; see vault.h. What the vault says counts, the catalog
 * follows. */
#include "base/file.h"
#include "base/log.h"
#include "controller/backup/run.h"
#include "controller/mover/vault/retention.h"
#include <inttypes.h>
#include <string.h>
#include <time.h>

/* ---- time ---- */

/* Milliseconds that never run ahead of the time that has passed: they begin with the wall clock
 * once, and grow by the time since boot alone. Setting the clock moves nothing; a boot in between
 * loses what passed while nobody looked, which only keeps points longer. */
static int elapsed_now(struct engine *e, uint64_t *ret)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct sp_buffer old SP_BUFFER = {0};
    char boot[64] = "", boot_then[64] = "", text[160];
    SP_FREE char *id = NULL;
    struct timespec t;
    uint64_t at = engine_now_ms(), boot_ms_then = 0, stored = 0;
    if (clock_gettime(CLOCK_BOOTTIME, &t) < 0)
        return -errno;
    uint64_t boot_ms = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
    if (sp_file_read("/proc/sys/kernel/random/boot_id", 63, &id, NULL) == 0)
        snprintf(boot, sizeof boot, "%.36s", id);
    pthread_mutex_lock(&lock);
    int r = catalog_get(e->options.catalog, "elapsed-clock", &old);
    if (r == 0 && sscanf(sp_buffer_text(&old), "%" SCNu64 " %" SCNu64 " %63s", &stored,
                         &boot_ms_then, boot_then) >= 2) {
        bool same = !strcmp(boot, boot_then) && boot_ms >= boot_ms_then;
        at = stored + (same ? boot_ms - boot_ms_then : boot_ms);
    }
    snprintf(text, sizeof text, "%" PRIu64 " %" PRIu64 " %s", at, boot_ms, boot);
    if (r == 0 || r == -ENOENT)
        r = catalog_set(e->options.catalog, "elapsed-clock", text, strlen(text));
    pthread_mutex_unlock(&lock);
    *ret = at;
    return r;
}

/* ---- immutable vaults ---- */

static int read_days(struct engine *e, const char *vault_id, uint32_t *ret)
{
    struct sp_buffer text SP_BUFFER = {0};
    char key[64];
    *ret = 0;
    snprintf(key, sizeof key, "immutable %s", vault_id);
    int r = catalog_get(e->options.catalog, key, &text);
    if (r == 0)
        (void)sscanf(sp_buffer_text(&text), "%" SCNu32, ret);
    return r == -ENOENT ? 0 : r;
}

uint32_t engine_immutable_days(struct engine *e, const char *vault_id)
{
    uint32_t days;
    return read_days(e, vault_id, &days) == 0 ? days : 0;
}

int engine_make_immutable(struct engine *e, const char *vault_id, uint32_t days, struct sp_why *why)
{
    uint32_t now;
    char key[64], text[16];
    int r = read_days(e, vault_id, &now);
    if (r == 0 && days < now)
        r = sp_why_set(why, -EPERM, "the vault is immutable for %u days: that is never lowered",
                       now);
    snprintf(key, sizeof key, "immutable %s", vault_id);
    snprintf(text, sizeof text, "%u", days);
    return r < 0 ? r : catalog_set(e->options.catalog, key, text, strlen(text));
}

/* A point that cannot be locked as its vault demands is not sealed. */
int keep_lock(struct run *run, Sp__Manifest *m)
{
    uint32_t days;
    uint64_t now;
    int r = read_days(run->engine, run->vault_entry->vault_id, &days);
    if (r < 0 || days == 0)
        return r;
    r = elapsed_now(run->engine, &now);
    m->lock_until_unix_ms = now + (uint64_t)days * 24 * 3600 * 1000;
    return r;
}

/* ---- one point ---- */

static int copy_marks(struct vault *v, Sp__Point *p)
{
    struct vault_mark mark;
    bool held = vault_get_mark(v, VAULT_HOLD, p->machine_id, p->point_id, &mark) == 0;
    int r = message_set(&p->held_by, held ? (mark.who[0] ? mark.who : "?") : "");
    if (r == 0)
        r = message_set(&p->held_why, held ? mark.why : "");
    p->deleted_unix_ms = vault_get_mark(v, VAULT_DELETION, p->machine_id, p->point_id, &mark) == 0
                             ? mark.unix_ms
                             : 0;
    return r;
}

static int mark(struct engine *e, struct vault *v, enum engine_mark what, const char *who,
                const char *text, struct catalog_point *cp, struct sp_why *why)
{
    const Sp__Point *p = cp->point;
    struct vault_mark m = {0};
    snprintf(m.who, sizeof m.who, "%s", who);
    snprintf(m.why, sizeof m.why, "%s", text);
    int r = elapsed_now(e, &m.unix_ms);
    if (r < 0)
        return r;
    switch (what) {
    case ENGINE_HOLD:
        return vault_hold(v, p->machine_id, p->point_id, &m, why);
    case ENGINE_DELETE:
        return vault_delete_point(v, p->machine_id, p->point_id, &m, why);
    case ENGINE_UNHOLD:
    case ENGINE_UNDELETE:
        r = vault_unmark(v, what == ENGINE_UNHOLD ? VAULT_HOLD : VAULT_DELETION, p->machine_id,
                         p->point_id);
        return r == -ENOENT ? sp_why_set(why, r, "point %s is not %s", p->point_id,
                                         what == ENGINE_UNHOLD ? "under legal hold" : "deleted")
                            : r;
    }
    return -EINVAL;
}

int engine_mark_point(struct engine *e, const char *point, enum engine_mark what, const char *who,
                      const char *text, Sp__Point **ret, struct sp_why *why)
{
    char id[37];
    struct catalog_point *cp CATALOG_POINT = NULL;
    struct vault *vault = NULL;
    int r = catalog_point_find(e->options.catalog, point, id);
    if (r == 0)
        r = catalog_point_get(e->options.catalog, id, &cp);
    if (r < 0)
        return sp_why_set(why, r, "no point '%s': 'sealpoint point list' shows them", point);
    if (!cp->stored)
        return sp_why_set(why, -ENODATA, "point %s holds no data", id);
    r = engine_vault(e, cp->point->vault_id, false, &vault, why);
    if (r == 0)
        r = mark(e, vault, what, who, text, cp, why);
    if (r == 0)
        r = copy_marks(vault, cp->point);
    if (r == 0)
        r = catalog_point_save(e->options.catalog, cp, false, NULL);
    if (r < 0)
        return r;
    engine_publish_point(e, cp->point);
    *ret = sp_steal(cp->point);
    return 0;
}

/* ---- retention ---- */

struct machine_points {
    struct retention_point *at;
    char (*ids)[37];
    size_t count;
    const char *vault_id;
};

static int gather_point(void *arg, uint64_t rowid, Sp__Point *p)
{
    struct machine_points *m = arg;
    (void)rowid;
    if (strcmp(p->vault_id, m->vault_id) != 0 || p->sequence == 0 || p->deleted_unix_ms ||
        p->state == SP__POINT_STATE__POINT_STATE_EXPIRED)
        return 0;
    struct retention_point *at = realloc(m->at, (m->count + 1) * sizeof *at);
    if (at)
        m->at = at;
    char(*ids)[37] = realloc(m->ids, (m->count + 1) * sizeof *ids);
    if (ids)
        m->ids = ids;
    if (!at || !ids)
        return -ENOMEM;
    m->at[m->count] = (struct retention_point){
        .taken_unix_ms = p->taken_unix_ms,
        .sequence = p->sequence,
        .valid = p->state == SP__POINT_STATE__POINT_STATE_VALID,
        .held = !message_empty(p->held_by),
    };
    snprintf(m->ids[m->count++], sizeof m->ids[0], "%s", p->point_id);
    return 0;
}

struct collect {
    struct engine *engine;
    const char *vault_id;
    struct vault *vault;
    bool dry_run;
    Sp__CollectProgress *done;
    char **machines; /* ids */
    size_t machine_count;
};

static int gather_machine(void *arg, Sp__Machine *m)
{
    struct collect *c = arg;
    return m->policy && m->policy->retention
               ? message_append_text(&c->machines, &c->machine_count, m->machine_id)
               : 0;
}

static int expire_machine(struct collect *c, const char *machine_id)
{
    struct catalog *catalog = c->engine->options.catalog;
    struct machine_points p = {.vault_id = c->vault_id};
    Sp__Machine *m = NULL;
    int r = catalog_machine_get(catalog, machine_id, false, &m);
    if (r == 0)
        r = catalog_point_each(catalog, machine_id, 0, gather_point, &p);
    if (r == 0 && m->policy)
        retention_apply(m->policy->retention, p.at, p.count);
    for (size_t i = 0; r == 0 && i < p.count; i++) {
        Sp__Point *point = NULL;
        if (p.at[i].keep)
            continue;
        r = c->dry_run ? 0
                       : engine_mark_point(c->engine, p.ids[i], ENGINE_DELETE, "retention",
                                           "expired by the machine's retention", &point, NULL);
        message_free(point);
        if (r == 0)
            r = message_append_text(&c->done->expired_points, &c->done->n_expired_points, p.ids[i]);
        /* Held, locked, or the last one after all: it stays. */
        r = r == -EPERM || r == -EEXIST ? 0 : r;
    }
    message_free(m);
    free(p.at);
    free(p.ids);
    return r;
}

/* ---- what is gone from the vault ---- */

static int gather_deleted(void *arg, uint64_t rowid, Sp__Point *p)
{
    struct collect *c = arg;
    (void)rowid;
    return p->deleted_unix_ms && strcmp(p->vault_id, c->vault_id) == 0 &&
                   p->state != SP__POINT_STATE__POINT_STATE_EXPIRED
               ? message_append_text(&c->machines, &c->machine_count, p->point_id)
               : 0;
}

static int follow(struct collect *c, const char *point_id)
{
    struct catalog *catalog = c->engine->options.catalog;
    struct catalog_point *cp CATALOG_POINT = NULL;
    Sp__Signed *sealed SP_CLEANUP(signed_message) = NULL;
    Sp__Manifest *m SP_CLEANUP(manifest) = NULL;
    struct sp_bytes none = {0};
    int r = catalog_point_get(catalog, point_id, &cp);
    if (r < 0)
        return r;
    r = vault_get_manifest(c->vault, cp->point->machine_id, point_id, none, &sealed, &m, NULL);
    if (r != -ENOENT)
        return 0;
    cp->point->state = SP__POINT_STATE__POINT_STATE_EXPIRED;
    cp->stored = false;
    r = catalog_point_save(catalog, cp, false, "removed");
    if (r < 0)
        return r;
    engine_publish_point(c->engine, cp->point);
    /* Records that only this point claimed may go from here on; a keeper that is away keeps them.
     */
    (void)keeper_unpin(c->engine, NULL, point_id, NULL, 0, NULL);
    return 0;
}

static void forget_names(struct collect *c)
{
    for (size_t i = 0; i < c->machine_count; i++)
        free(c->machines[i]);
    free(c->machines);
    c->machines = NULL;
    c->machine_count = 0;
}

static int collect(struct collect *c, const atomic_bool *cancel, struct sp_why *why)
{
    struct catalog *catalog = c->engine->options.catalog;
    struct vault_gc gc = {.grace_ms = VAULT_GRACE_MS, .dry_run = c->dry_run, .cancel = cancel};
    struct vault_gc_done done = {0};
    int r = elapsed_now(c->engine, &gc.now_unix_ms);
    if (r == 0)
        r = catalog_machine_each(catalog, gather_machine, c);
    for (size_t i = 0; r == 0 && i < c->machine_count; i++)
        r = expire_machine(c, c->machines[i]);
    forget_names(c);
    if (r == 0)
        r = vault_gc(c->vault, &gc, &done, why);
    c->done->points_removed = done.points_removed;
    c->done->packs_removed = done.packs_removed;
    c->done->bytes_freed = done.bytes_freed;
    c->done->packs_repacked = done.packs_repacked;
    c->done->bytes_copied = done.bytes_copied;
    if (r == 0 && !c->dry_run)
        r = catalog_point_each(catalog, NULL, 0, gather_deleted, c);
    for (size_t i = 0; r == 0 && i < c->machine_count; i++)
        r = follow(c, c->machines[i]);
    forget_names(c);
    return r;
}

int engine_collect(struct engine *e, const char *name, bool dry_run, Sp__CollectProgress **ret,
                   struct sp_why *why)
{
    Sp__Vault *entry = NULL;
    int r = catalog_vault_get(e->options.catalog, name, &entry);
    if (r < 0)
        return sp_why_set(why, r, "no vault '%s': 'sealpoint vault list' shows them", name);
    struct collect c = {.engine = e, .vault_id = entry->vault_id, .dry_run = dry_run};
    c.done = message_new(&sp__collect_progress__descriptor);
    r = c.done ? engine_vault(e, entry->vault_id, true, &c.vault, why) : -ENOMEM;
    if (r == 0)
        r = collect(&c, &e->stopping, why);
    message_free(entry);
    if (r < 0) {
        message_free(c.done);
        return r;
    }
    c.done->ended = 1;
    *ret = c.done;
    return 0;
}

/* ---- a second vault ---- */

static bool is_empty(const char *directory)
{
    SP_FREE char *descriptor = sp_format("%s/vault.json", directory);
    return descriptor && access(descriptor, F_OK) != 0;
}

/* Opens the replica in a directory; `make`: makes one where nothing is. */
static int open_replica(struct engine *e, const char *vault_id, const char *directory, bool make,
                        struct vault **ret, struct sp_why *why)
{
    Sp__DirectoryVault d = SP__DIRECTORY_VAULT__INIT;
    Sp__VaultConfig config = SP__VAULT_CONFIG__INIT;
    struct sp_secret *key SP_SECRET = NULL;
    d.path = (char *)(uintptr_t)directory;
    config.kind_case = SP__VAULT_CONFIG__KIND_DIRECTORY;
    config.directory = &d;
    if (directory[0] != '/')
        return sp_why_set(why, -EINVAL, "a vault's directory is an absolute path");
    int r = make && is_empty(directory) ? vault_create_replica(&config, vault_id, why) : 0;
    if (r == 0)
        r = vaults_key(e, vault_id, &key, why);
    return r < 0 ? r : vault_open(&config, vault_id, key, ret, why);
}

int engine_copy_vault(struct engine *e, const char *name, const char *directory,
                      const char *machine,
                      int (*each)(void *, const char *point_id, const struct vault_copied *),
                      void *arg, struct vault_copied *ret, struct sp_why *why)
{
    Sp__Vault *entry = NULL;
    Sp__Machine *m = NULL;
    struct vault *from = NULL, *to = NULL;
    int r = catalog_vault_get(e->options.catalog, name, &entry);
    if (r < 0)
        return sp_why_set(why, r, "no vault '%s': 'sealpoint vault list' shows them", name);
    if (!message_empty(machine)) {
        r = catalog_machine_get(e->options.catalog, machine, false, &m);
        if (r < 0)
            (void)sp_why_set(why, r, "no machine '%s'", machine);
    }
    if (r == 0)
        r = engine_vault(e, entry->vault_id, true, &from, why);
    if (r == 0)
        r = open_replica(e, entry->vault_id, directory, true, &to, why);
    if (r == 0)
        r = vault_copy(from, to, m ? m->machine_id : NULL, each, arg, ret, why);
    vault_close(to);
    message_free(entry);
    message_free(m);
    return r;
}

int engine_scrub_vault(struct engine *e, const char *name, const char *directory,
                       uint64_t bytes_per_second, int (*each)(void *, const Sp__CheckProgress *),
                       void *arg, struct sp_why *why)
{
    Sp__Vault *entry = NULL;
    struct vault *vault = NULL;
    struct vault_scrub scrub = {.bytes_per_second = bytes_per_second, .each = each, .arg = arg};
    int r = catalog_vault_get(e->options.catalog, name, &entry);
    if (r < 0)
        return sp_why_set(why, r, "no vault '%s': 'sealpoint vault list' shows them", name);
    r = engine_vault(e, entry->vault_id, true, &vault, why);
    if (r == 0 && !message_empty(directory))
        r = open_replica(e, entry->vault_id, directory, false, &scrub.replica, why);
    if (r == 0)
        r = vault_scrub(vault, &scrub, why);
    vault_close(scrub.replica);
    message_free(entry);
    return r;
}
