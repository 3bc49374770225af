/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Inside the engine: one job at work. A run belongs to the worker that runs it; its job is shared
 * with whoever watches or cancels it, behind the engine's lock.
 *
 *   backup.c    the order of things, failing, cleaning up
 *   capture.c   pin, freeze, snapshot, thaw, first look, transfer
 *   increment.c what a transfer may build on
 *   evidence.c  look, compare, prove, account: fills a manifest
 *   seal.c      verdict, keystore copy, signature, manifest into the vault
 *   verify.c    evidence again, over a stored point
 *   recover.c   after a start
 *   retry.c     again, for what nobody could answer
 *   reproof.c   again, for as long as a point is kept
 *   vaults.c    open vaults, their keys, adopting and checking
 *   witness.c   manifests shown to the keeper
 *   keeper_calls.c  the questions to the keeper */
#ifndef SEALPOINT_BACKUP_RUN_H
#define SEALPOINT_BACKUP_RUN_H

#include "controller/backup/compare.h"
#include "controller/backup/engine.h"
#include "controller/backup/finding.h"
#include "controller/backup/match.h"
#include "controller/message.h"
#include "controller/pool.h"
#include <pthread.h>

enum { RUN_LOOK_TIMEOUT_MS = 300000, RUN_PROVE_TIMEOUT_MS = 300000, RUN_KEEPER_TIMEOUT_MS = 30000 };

struct open_vault {
    struct open_vault *next;
    char vault_id[37];
    bool keyed;
    struct vault *vault;
};

struct attempt;

struct job {
    struct job *next;
    struct engine *engine;
    Sp__Job *view; /* engine->lock */
    atomic_bool cancel;
    bool allow_no_agent;
    bool resumed;
    bool background; /* nobody asked for it: it makes way for what somebody asks for */
    uint64_t
        published_ns; /* worker only: progress is not told more often than ten times a second */
};

struct engine {
    struct engine_options options;
    char *trust_path, *fleece_directory; /* of the options */
    pthread_mutex_t lock;                /* jobs, vaults, sealing_key */
    pthread_cond_t job_gone;
    struct job *jobs;
    struct open_vault *vaults;
    struct pool *pool;
    pthread_mutex_t tidy_lock; /* one tidy at a time */
    uint8_t *sealing_key;
    size_t sealing_key_size;
    atomic_bool stopping;
    struct attempt *attempts;       /* tidy_lock; of retry.c */
    uint64_t reproof_not_before_ms; /* tidy_lock; monotonic */
};

struct run {
    struct engine *engine;
    struct job *job;
    struct catalog_point *cp;
    struct vault *vault;
    Sp__Vault *vault_entry;
    const struct source *source;
    struct source_snapshot *snapshot;
    Sp__DescribeResponse *described;
    Sp__SnapshotResponse *taken;
    char **base_ids; /* points that an increment may rest on */
    size_t n_base_ids;
    Sp__LookResponse *layout;
    Sp__FreezeAnswer *freeze;
    Sp__ThawAnswer *thaw;
    bool frozen; /* a freeze was sent and not yet ended */
    bool inside_freeze;
    bool agent_there;
    struct match match;
    bool matched;
    bool stored;       /* the manifest is durable: whatever fails now, the point is there */
    Sp__Reason reason; /* of the failure, when one ended the run */
    struct sp_why why;
};

/* ---- engine.c ---- */
/* Registers a job for a machine; -EBUSY when one runs, but one in the background is cancelled and
 * waited for. The view is taken. */
int job_add(struct engine *, Sp__Job *view, bool background, struct job **ret, struct sp_why *why);
void job_remove(struct job *);
/* Changes the view under lock and tells the watchers; NULL or 0 leaves a member as it is. */
void job_tell(struct job *, Sp__PointState state, const char *step);
void job_progress(struct job *, uint64_t done, uint64_t total, const char *step);
/* Ends the job for good: findings, grade and state of the point; durable. It still is to be freed
 * with job_remove(). */
void job_end(struct job *, const Sp__Point *);
void engine_publish_point(struct engine *, const Sp__Point *);
/* Verifies a point when a worker is free and nothing else runs in the background; with -EBUSY
 * nothing was begun. */
int background_verify(struct engine *, const char *point_id);
bool background_has_room(struct engine *);
uint64_t engine_now_ms(void);

/* ---- reproof.c ---- */
/* It has not been proved for so long that "could not be asked" is no excuse any more. */
bool reproof_patience_over(const struct engine *, const Sp__Point *);

/* ---- backup.c ---- */
void backup_work(void *arg);
void run_close(struct run *);
/* Enters a state: durable, then told. */
int run_enter(struct run *, Sp__PointState, const char *step, bool draft);
/* -ECANCELED when the job was cancelled or the engine stops. */
int run_check(struct run *);
/* Notes why the run fails; returns `error`. */
int run_fail(struct run *, Sp__Reason, int error);
/* Releases the snapshot if one is held; *held stays set when the source cannot be reached. */
int run_release(struct engine *, struct catalog_point *, struct sp_why *why);
/* Everything a failed point must leave behind: snapshot, journal of chunks, pins. */
void run_clean_failed(struct engine *, struct catalog_point *);

/* ---- capture.c ---- */
int capture_preflight(struct run *);
int capture_snapshot(struct run *);
int capture_transfer(struct run *);

/* ---- increment.c ---- */
/* Ids of the points that the next copy may build on, newest first, appended. */
int increment_candidates(struct run *, char ***ids, size_t *count);
/* Their disks that the source has a record of changes for. */
int increment_bases(struct run *, Sp__TransferRequest *);
void increment_free(Sp__TransferRequest *);
/* What the draft says of it; the draft's disks are those of `stored` already. */
int increment_note(struct run *, const Sp__TransferResponse *stored);

/* ---- evidence.c ---- */
/* From the stored disks of `m` to its volumes, ranges, headers, proofs and findings. */
int evidence_collect(struct run *, Sp__Manifest *m, bool reproof);
enum compare_age evidence_age(const Sp__Manifest *);
/* ---- seal.c ---- */
/* Judges `m`, seals it, stores it and makes the point's new state durable. */
int seal_point(struct run *, Sp__Manifest *m, bool reproof);
/* Takes over what a manifest in the vault says (its job was killed after it was stored). */
int seal_adopt(struct engine *, struct catalog_point *, const Sp__Signed *, const Sp__Manifest *);
/* Releases all pins but those that the proofs of a manifest rest on. */
int seal_unpin(struct engine *, const Sp__Manifest *);

/* ---- verify.c ---- */
void verify_work(void *arg);

/* ---- vaults.c ---- */
/* Takes points of the vault that the catalog does not know into it. */
int vaults_adopt(struct engine *, struct vault *, const char *vault_id, const char *name);

/* ---- witness.c ---- */
/* Show the newest manifest to the keeper, which notices an old keystore by it. */
void witness_vault(struct engine *, const char *vault_id);
void witness_machine(struct engine *, const char *machine_id);

/* Locks the point, if its vault is immutable. */
int keep_lock(struct run *, Sp__Manifest *);
/* The key for the clear chunks of a vault. */
int vaults_key(struct engine *, const char *vault_id, struct sp_secret **ret, struct sp_why *why);

/* ---- retry.c ---- */
void retry_forget(struct engine *);

/* ---- keeper_calls.c ---- */
/* One question, asked again while the keeper is away and may come back (it restarts within
 * seconds). `read_at` NULL: one that reads no disk. *cancel may be NULL. */
int keeper_ask(struct engine *, const atomic_bool *cancel, Sp__KeeperRequest *,
               int (*read_at)(void *self, uint32_t disk, uint64_t offset, void *out,
                              uint32_t length),
               void *self, int timeout_ms, Sp__KeeperResponse **ret, struct sp_why *why);
/* For *cancel: whoever asks does not wait for a keeper that is away, since it will ask again. */
extern const atomic_bool keeper_now_or_later;
int keeper_pin(struct engine *, const atomic_bool *cancel, const char *machine_id,
               const char *point_id, const char *const *volume_ids, size_t count,
               struct sp_why *why);
int keeper_unpin(struct engine *, const atomic_bool *cancel, const char *point_id, char **keep,
                 size_t count, struct sp_why *why);
/* Ids of the volumes that the machine has records for, appended. */
int keeper_known_volumes(struct engine *, const atomic_bool *cancel, const char *machine_id,
                         char ***ids, size_t *count, struct sp_why *why);
int keeper_status(struct engine *, Sp__KeeperResponse **ret, struct sp_why *why);
int keeper_seal(struct engine *, const Sp__Manifest *, Sp__Signed **ret, struct sp_why *why);
/* The keystore, encrypted to the recovery kit, into the vault. */
int keeper_copy_to(struct engine *, struct vault *, char ret_name[128], uint64_t *ret_epoch,
                   struct sp_why *why);

#endif
