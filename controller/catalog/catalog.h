/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The catalog: what the controller knows, in SQLite (WAL, synchronous=FULL). A call that returned 0
 * is durable. One connection behind one lock: any thread may call, and every call blocks for as
 * long as a disk write takes, so none belongs on an RPC loop.
 *
 * What `valid` rests on is not here: it is re-verified from the signed manifest in the vault. A
 * catalog that is lost can be built again from the vaults (engine_adopt_vault()).
 *
 *   kv        one value for each key: counters, the last table of identities
 *   machine   body: Machine (without inventory), inventory, mark: what tells copies apart
 *   vault     body: Vault
 *   point     body: Point; work: what a restart needs (see struct catalog_point)
 *   step      journal of the states that a point went through
 *   finding   of points
 *   job       body: Job
 *   audit     body: AuditEntry, hash-chained
 *   event     body: VolumeEvent; the newest of each machine
 *
 * Functions return 0 or a negative errno: -ENOENT not there, -EEXIST, -EIO and -ENOSPC from the
 * disk. Messages they hand out are the caller's, to free with message_free(). */
#ifndef SEALPOINT_CATALOG_H
#define SEALPOINT_CATALOG_H

#include "base/bytes.h"
#include "base/why.h"
#include <sealpoint/v1/admin.pb-c.h>
#include <sealpoint/v1/backup.pb-c.h>
#include <sealpoint/v1/fleet.pb-c.h>
#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>
#include <stdint.h>

struct catalog;

enum { CATALOG_SCHEMA_VERSION = 1 };

/* Opens, or makes an empty one (mode 0600). -EPROTO: a newer program wrote it; -EUCLEAN: damaged.
 */
int catalog_open(const char *path, struct catalog **ret, struct sp_why *why);
void catalog_close(struct catalog *);

/* ---- single values ---- */
int catalog_set(struct catalog *, const char *key, const void *value, size_t size);
/* Appends the value to `out`. */
int catalog_get(struct catalog *, const char *key, struct sp_buffer *out);
/* Adds one to a number that starts at 0, and returns it. */
int catalog_count_up(struct catalog *, const char *key, uint64_t *ret);

/* ---- machines ---- */
/* -EEXIST: the id or the name is taken. */
int catalog_machine_add(struct catalog *, const Sp__Machine *);
/* By id or name. With the inventory only when asked for. */
int catalog_machine_get(struct catalog *, const char *machine, bool inventory, Sp__Machine **ret);
/* Reads, lets `change` alter it (negative: give up), writes back; nothing can come between. */
int catalog_machine_change(struct catalog *, const char *machine,
                           int (*change)(Sp__Machine *, void *arg), void *arg,
                           Sp__Machine **ret_or_null);
/* Under lock, in order of names; a negative return of `each` ends the walk and is returned. */
int catalog_machine_each(struct catalog *, int (*each)(void *arg, Sp__Machine *), void *arg);
int catalog_machine_set_inventory(struct catalog *, const char *machine_id, const Sp__Inventory *);
/* The value that tells copies of a guest apart (Hello.identity_mark), "" when none is known. */
int catalog_machine_mark(struct catalog *, const char *machine_id, char *ret_mark, size_t size);
int catalog_machine_set_mark(struct catalog *, const char *machine_id, const char *mark);
int catalog_machine_remove(struct catalog *, const char *machine_id);

/* ---- vaults ---- */
int catalog_vault_add(struct catalog *, const Sp__Vault *);
/* By id or name; "" or NULL: the only one (-ENOENT none, -ENOTUNIQ several). */
int catalog_vault_get(struct catalog *, const char *vault, Sp__Vault **ret);
int catalog_vault_each(struct catalog *, int (*each)(void *arg, Sp__Vault *), void *arg);

/* ---- points ---- */

/* A point and what its job needs to go on after a crash. */
struct catalog_point {
    Sp__Point *point;          /* with findings */
    Sp__SourceConfig *source;  /* as it was when the backup started */
    Sp__Manifest *draft;       /* what the manifest will say, as far as it is known */
    char *journal;             /* of the source; NULL: nothing was begun */
    char freeze_operation[37]; /* "": none was sent */
    bool snapshot_held;        /* the source may hold something for this point */
    bool transferred;          /* every disk is durable in the vault */
    bool pinned;               /* the keeper may hold pins for this point */
    bool stored;               /* a manifest of it is in the vault */
    uint32_t revision;         /* of the newest manifest */
    uint8_t manifest_sha256[32];
};
struct catalog_point *catalog_point_new(void);
void catalog_point_free(struct catalog_point *);
static inline void sp_cleanup_catalog_point(struct catalog_point **p)
{
    catalog_point_free(*p);
}
#define CATALOG_POINT __attribute__((cleanup(sp_cleanup_catalog_point)))

int catalog_point_add(struct catalog *, const struct catalog_point *);
/* Writes all of it in one transaction (the draft only when asked: it is large) and, when `step` is
 * not NULL, adds a line to the step journal. */
int catalog_point_save(struct catalog *, const struct catalog_point *, bool draft,
                       const char *step);
/* The source's journal alone: the quickest durable write, made while a guest may be frozen. */
int catalog_point_journal(struct catalog *, const char *point_id, const char *journal);
int catalog_point_get(struct catalog *, const char *point_id, struct catalog_point **ret);
/* An id, or a unique beginning of at least 8 characters: -ENOTUNIQ when several begin so. */
int catalog_point_find(struct catalog *, const char *beginning, char ret_point_id[37]);
/* Newest first, of one machine or (NULL) all, older than `before` (page token: the rowid of the
 * last one of the page before; 0: from the newest). */
int catalog_point_each(struct catalog *, const char *machine_id, uint64_t before,
                       int (*each)(void *arg, uint64_t rowid, Sp__Point *), void *arg);
/* Ids of points whose job has not ended, or for which a source or the keeper may still hold
 * something. */
int catalog_point_unfinished(struct catalog *, int (*each)(void *arg, const char *point_id),
                             void *arg);
/* The sequence number for the machine's next stored point and the hash of the one before it
 * (zeroes: none). */
int catalog_point_chain(struct catalog *, const char *machine_id, uint64_t *ret_sequence,
                        uint8_t ret_previous[32], bool *ret_has_previous);
/* The machine's newest point ("" when there is none) and when its last valid one was taken (0). */
int catalog_point_last(struct catalog *, const char *machine_id, char ret_point_id[37],
                       Sp__PointState *ret_state, uint64_t *ret_last_valid_unix_ms);
/* The steps of a point, oldest first. */
int catalog_point_steps(struct catalog *, const char *point_id,
                        int (*each)(void *arg, uint64_t at_unix_ms, Sp__PointState,
                                    const char *step),
                        void *arg);

/* ---- jobs ---- */
int catalog_job_save(struct catalog *, const Sp__Job *);
int catalog_job_get(struct catalog *, const char *job_id, Sp__Job **ret);
int catalog_job_unended(struct catalog *, int (*each)(void *arg, Sp__Job *), void *arg);

/* ---- events ---- */
/* Writes the inventory, when there is one, and what changed with it, in one transaction. Each event
 * gets its number; the oldest of a machine that has many are forgotten. */
int catalog_events_add(struct catalog *, const char *machine_id, const Sp__Inventory *or_null,
                       Sp__VolumeEvent *const *events, size_t count);
/* Of one machine, newest first, older than `before` (0: from the newest). 1 from `each`: enough. */
int catalog_event_each(struct catalog *, const char *machine_id, uint64_t before,
                       int (*each)(void *arg, Sp__VolumeEvent *), void *arg);

/* ---- audit ---- */
/* Adds an entry at the end of the chain. */
int catalog_audit(struct catalog *, const char *who, const char *what, const char *about,
                  const char *text);
/* From `since` on, oldest first. With `verify` the chain is recomputed and `broken` says where it
 * does not hold. */
int catalog_audit_each(struct catalog *, uint64_t since_unix_ms, bool verify,
                       int (*each)(void *arg, Sp__AuditEntry *), void *arg);
/* Hash of the last entry; zeroes when there is none. */
int catalog_audit_head(struct catalog *, uint8_t ret_head[32]);

#endif
