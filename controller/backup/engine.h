/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The engine: backups and verifications as jobs on a bounded pool of workers.
 *
 *   requested ─▶ freezing ─▶ snapshotted ─▶ transferring ─▶ looking ─▶ proving ─▶ valid
 *       │            │            │              │             │          │        unproven
 *       └────────────┴────────────┴──────────────┘             └──────────┘        invalid
 *             killed here: failed (INTERRUPTED)           killed here: goes on     failed
 *
 * Each state is durable in the catalog before its work begins; what the source is about to do is
 * durable in the point's journal before it does it. One job for each machine at a time.
 *
 * Threads: every function may be called from any thread but RPC loops (they wait for the disk). */
#ifndef SEALPOINT_BACKUP_ENGINE_H
#define SEALPOINT_BACKUP_ENGINE_H

#include "base/why.h"
#include "controller/catalog/catalog.h"
#include "controller/mover/mover.h"
#include <sealpoint/v1/agent_link.pb-c.h>
#include <sealpoint/v1/keeper.pb-c.h>
#include <stdatomic.h>

struct engine;

/* The keeper, as keeper_client.h has it, with -EHOSTUNREACH for a keeper that does not run: what
 * the engine asks may be asked twice, so it then waits for it to come back. Tests give their own.
 */
struct engine_keeper {
    int (*call)(void *self, Sp__KeeperRequest *, int timeout_ms, Sp__KeeperResponse **ret,
                struct sp_why *);
    int (*call_reading)(void *self, Sp__KeeperRequest *,
                        int (*read_at)(void *read_self, uint32_t disk, uint64_t offset, void *out,
                                       uint32_t length),
                        void *read_self, int timeout_ms, Sp__KeeperResponse **ret, struct sp_why *);
};

enum engine_agent_state { ENGINE_AGENT_ABSENT, ENGINE_AGENT_PRESENT, ENGINE_AGENT_QUARANTINED };

/* The agents, as the fleet has them. */
struct engine_agents {
    /* Waits at most timeout_ms for the machine's agent (0: says what is). */
    enum engine_agent_state (*wait)(void *self, const char *machine_id, unsigned timeout_ms,
                                    const atomic_bool *cancel);
    bool (*can)(void *self, const char *machine_id, const char *capability);
    /* Sends a command (operation_id is set, the fence is filled in) and waits for its answer. 0
     * with an answer whose error may be set; -ENOTCONN, -ETIMEDOUT, -ECANCELED. */
    int (*command)(void *self, const char *machine_id, Sp__Command *, unsigned timeout_ms,
                   const atomic_bool *cancel, Sp__Answer **ret, struct sp_why *);
    /* The detached header of a volume. */
    int (*header)(void *self, const char *machine_id, const char *volume_id, unsigned timeout_ms,
                  const atomic_bool *cancel, struct sp_buffer *out, struct sp_why *);
};

/* Told of every change, from whatever thread makes it; must not block. */
struct engine_events {
    void (*job)(void *self, const Sp__Job *);
    void (*point)(void *self, const char *machine_id, const char *point_id, Sp__PointState);
};

struct engine_options {
    struct catalog *catalog;
    const struct engine_keeper *keeper;
    void *keeper_self;
    const struct engine_agents *agents;
    void *agents_self;
    const struct engine_events *events;
    void *events_self;
    const struct source *(*source_for)(const Sp__SourceConfig *); /* NULL: the sources' own */
    const char *trust_path; /* PEM: the CA that vouches for the keeper's keys; NULL: not checked */
    const char *fleece_directory; /* for sources that name none */
    unsigned parallel;            /* jobs at once; 0: 2 */
    unsigned agent_wait_ms;       /* for an agent that is not there; 0: 10 s */
    unsigned keeper_wait_ms;      /* for a keeper that restarts; 0: 30 s */
    /* Kept points are proved again so long after the last time; 0: never by themselves. */
    uint64_t reproof_after_ms;
    unsigned reproofs_per_hour; /* at most, 1 or more */
    /* So much later still, a point whose key nobody could be asked about is at risk. */
    uint64_t unreachable_most_ms;
};

int engine_new(const struct engine_options *, struct engine **ret);
/* After a start, before anything else: ends what cannot go on, releases snapshots, tidies the
 * vaults, and puts points that were being looked at or proved back to work. What cannot be released
 * yet is tried again by engine_tidy(). */
int engine_recover(struct engine *, struct sp_why *why);
/* Releases what earlier attempts could not. Call now and then. */
void engine_tidy(struct engine *);
/* Starts the verification of one point that is unproven only for want of an answer, if a worker is
 * free and the keeper is there. Call now and then. */
void engine_retry(struct engine *);
/* Starts the proof of the kept point that has gone longest without, if one is due, a worker is
 * free, the rate allows it and the keeper is there. Call now and then. */
void engine_reproof(struct engine *);
/* Ends running jobs (what is being looked at or proved goes on after the next start) and waits. */
void engine_stop(struct engine *);
void engine_free(struct engine *);

/* ---- jobs ---- */
/* *ret to free with message_free(). -ENOENT no such machine, -EBUSY a job runs for it, -EINVAL no
 * source or vault is set, -EAGAIN too many jobs wait. */
int engine_start_backup(struct engine *, const char *name, bool allow_no_agent, Sp__Job **ret,
                        struct sp_why *why);
int engine_start_verify(struct engine *, const char *point, Sp__Job **ret, struct sp_why *why);
int engine_cancel(struct engine *, const char *job_id, Sp__Job **ret, struct sp_why *why);
int engine_job(struct engine *, const char *job_id, Sp__Job **ret, struct sp_why *why);
unsigned engine_running(struct engine *);

/* ---- vaults and points ---- */
/* Opens the directory's vault or makes one, and takes the points that it holds into the catalog. */
int engine_add_vault(struct engine *, const char *name, const Sp__VaultConfig *, Sp__Vault **ret,
                     struct sp_why *why);
/* The vault by id or name, open; stays the engine's. Without `key` only its structure can be read.
 */
int engine_vault(struct engine *, const char *name, bool key, struct vault **ret,
                 struct sp_why *why);
/* A point's newest manifest; with *ret_sealed false it carries no good seal of the keeper. */
int engine_manifest(struct engine *, const char *point, Sp__Signed **ret,
                    Sp__Manifest **ret_manifest, bool *ret_sealed, struct sp_why *why);
/* Unpacks a proof and checks that it is the keeper's and about this volume of this point; NULL with
 * why when it is not. */
Sp__ProofStatement *engine_statement(struct engine *, const Sp__Signed *, const char *machine_id,
                                     const char *point_id, struct sp_why *why);
/* Whether this sealed manifest, read anew, still says and proves that its point is valid: the state
 * it was sealed with, and for each encrypted volume a proof of the keeper or an admin's exception.
 */
bool engine_manifest_holds(struct engine *, const Sp__Manifest *, bool sealed);
/* Shows every manifest of every vault to the keeper, whose pins are rebuilt by them. What could not
 * be read is in out->unread. */
int engine_show_manifests(struct engine *, Sp__ReconcileResponse *out, struct sp_why *why);
/* Compares catalog, keystore and vault; *each* gets progress and problems. */
int engine_check_vault(struct engine *, const char *name, bool read_data,
                       int (*each)(void *arg, const Sp__CheckProgress *), void *arg,
                       struct sp_why *why);
/* ---- what keeps and removes points ---- */
enum engine_mark { ENGINE_HOLD, ENGINE_UNHOLD, ENGINE_DELETE, ENGINE_UNDELETE };
/* By id or a unique beginning; *ret as it is then. Errors as vault.h has them. */
int engine_mark_point(struct engine *, const char *point, enum engine_mark, const char *who,
                      const char *text, Sp__Point **ret, struct sp_why *why);
/* From now on no point of the vault can be deleted, by anybody, for so many days after it was made.
 * -EPERM: fewer days than now. */
int engine_make_immutable(struct engine *, const char *vault_id, uint32_t days, struct sp_why *why);
uint32_t engine_immutable_days(struct engine *, const char *vault_id);
/* Applies the machines' retention, removes what nobody needs. */
int engine_collect(struct engine *, const char *vault, bool dry_run, Sp__CollectProgress **ret,
                   struct sp_why *why);
/* Into the replica in a directory, which is made when there is none. machine: "": all. */
int engine_copy_vault(struct engine *, const char *vault, const char *directory,
                      const char *machine,
                      int (*each)(void *arg, const char *point_id, const struct vault_copied *),
                      void *arg, struct vault_copied *ret, struct sp_why *why);
/* directory: of a replica to heal from; "": only told. */
int engine_scrub_vault(struct engine *, const char *vault, const char *directory,
                       uint64_t bytes_per_second, int (*each)(void *arg, const Sp__CheckProgress *),
                       void *arg, struct sp_why *why);
/* The keeper's sealing key, DER SubjectPublicKeyInfo, as the CA vouches for it; valid until
 * engine_free(). */
int engine_sealing_key(struct engine *, struct sp_bytes *ret, struct sp_why *why);

#endif
