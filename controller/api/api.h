/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The API: one handler for each method, on a worker.
 *
 *   RPC loop:  api_authorise (role, revocation) ─▶ api_message: copy, hand to a pool
 *   worker:    handler ─▶ answer, or an error with a sentence; refusals go into the audit
 *
 * What needs a role has it checked twice: on the loop for any machine group (the method table's
 * column), in the handler for the group of the very machine (api_allow). */
#ifndef SEALPOINT_API_API_H
#define SEALPOINT_API_API_H

#include "controller/api/refusals.h"
#include "controller/backup/engine.h"
#include "controller/catalog/catalog.h"
#include "controller/fleet/fleet.h"
#include "controller/fleet/identities.h"
#include "controller/message.h"
#include "controller/pool.h"
#include "rpc/methods.h"
#include "rpc/rpc.h"

struct watch;
struct keyslots;

struct api {
    struct catalog *catalog;
    struct identities *identities;
    struct fleet *fleet;
    struct engine *engine;
    struct pool *requests; /* short work */
    struct pool *streams;  /* what takes as long as its reader does */
    struct pool *audits;   /* one thread: the order of what happened */
    struct refusals *refusals;
    struct watch *watch;
    struct keyslots *keyslots; /* keyslot.h */
    /* As keeper_call, with a missing keeper as -EHOSTUNREACH. */
    int (*keeper)(void *self, Sp__KeeperRequest *, int timeout_ms, Sp__KeeperResponse **ret,
                  struct sp_why *);
    /* Takes over the keeper's table of identities now; called after what changes it. */
    void (*identities_changed)(void *self);
    void *self;
};

/* Tables for rpc_server_new(); the server's `self` must be the struct api. */
const struct rpc_method *const *api_tables(void);
/* rpc_server_options.authorise. */
int api_authorise(void *self, const struct rpc_call *, struct sp_why *);
/* rpc_server_options.refused: into the audit. */
void api_note_refusal(void *self, const struct rpc_call *, const struct sp_why *);

/* ---- for handlers ---- */

/* Answers one request: 0 with *ret to send (freed by the caller of the handler), or a negative
 * errno. Streams send by themselves (api_send) and leave *ret NULL; -EINPROGRESS: the call stays
 * open, and somebody else ends it. */
typedef int api_handler(struct api *, struct rpc_call *, const ProtobufCMessage *request,
                        ProtobufCMessage **ret, struct sp_why *);

api_handler api_list_events, api_list_machines, api_get_machine, api_watch, api_add_machine,
    api_set_source, api_set_policy, api_release_quarantine, api_get_status;
api_handler api_start, api_watch_job, api_cancel_job, api_list_points, api_get_point,
    api_read_manifest, api_verify_point, api_read_disk, api_add_vault, api_list_vaults,
    api_delete_point, api_undelete_point, api_hold_point, api_unhold_point, api_collect_vault,
    api_copy_vault, api_scrub_vault, api_check_vault;
api_handler api_get_keeper_keys, api_get_nonce, api_import, api_list_keys, api_release;
api_handler api_create_token, api_list_tokens, api_revoke_token, api_add_user, api_list_users,
    api_revoke_user, api_revoke_machine, api_approve_machine, api_list_audit;
api_handler api_enrol, api_renew;
api_handler api_show_key, api_compromise_key, api_destroy_key, api_list_keks, api_add_kek,
    api_remove_kek, api_check_keystore, api_export_keystore, api_reconcile, api_list_providers,
    api_test_provider, api_enrol_keyslot;

/* The caller may do this to machines of that group ("" : all machines). */
int api_allow(struct api *, const struct rpc_call *, const char *group, struct sp_why *);
/* Whether the caller may see machines of that group. */
bool api_may_see(struct api *, const struct rpc_call *, const char *group);
/* The machine by id or name, if the caller may do this to it. */
int api_machine(struct api *, const struct rpc_call *, const char *name, bool inventory,
                Sp__Machine **ret, struct sp_why *);
/* As api_allow, for the machine of a point or job. */
int api_allow_machine_id(struct api *, const struct rpc_call *, const char *machine_id,
                         struct sp_why *);
/* Adds what is live and what the last points were. */
int api_fill_machine(struct api *, Sp__Machine *);
/* Asks the keeper in the caller's name. */
int api_ask_keeper(struct api *, const struct rpc_call *, Sp__KeeperRequest *,
                   Sp__KeeperResponse **ret, struct sp_why *);
/* The same; *ret is the message that answers this kind of request. -EPROTO: the keeper gave
 * another. */
int api_relay(struct api *, const struct rpc_call *, Sp__KeeperRequest *, ProtobufCMessage **ret,
              struct sp_why *);
/* Relays the request as it is, of this kind, for callers who may ask it of all machines. */
int api_relay_for_all(struct api *, const struct rpc_call *, Sp__KeeperRequest__KindCase kind,
                      const ProtobufCMessage *request, ProtobufCMessage **ret, struct sp_why *);
/* Relays a signed call; the keeper's packed result becomes the answer. */
int api_execute(struct api *, struct rpc_call *, const ProtobufCMessage *request, const char *what,
                ProtobufCMessage **ret, struct sp_why *);
/* Sends one message of a stream, waiting for a slow reader; -EPIPE when it is gone. */
int api_send(struct rpc_call *, const ProtobufCMessage *);
/* Into the audit, soon and in order; never waits. `call` NULL: local. */
void api_audit(struct api *, const struct rpc_call *, const char *what, const char *about,
               const char *format, ...) __attribute__((format(printf, 5, 6)));
/* As api_audit, for what was refused: bounded, see refusals.h. */
void api_audit_refusal(struct api *, const struct rpc_call *, const char *what, const char *about,
                       const char *format, ...) __attribute__((format(printf, 5, 6)));
/* Writes how many refusals were not written one by one; with `all` at once. Call now and then. */
void api_tell_refusals(struct api *, bool all);
/* The caller's name: "spiffe://…"; "" without a certificate. */
char *api_who(const struct rpc_call *, char out[320]);

/* ---- watch.c ---- */
int watch_new(struct api *, struct watch **ret);
void watch_free(struct watch *);
/* Follows a job from its present state on; machine "": every machine the caller may see. */
int watch_job(struct watch *, struct rpc_call *, const char *job_id);
int watch_fleet(struct watch *, struct rpc_call *, const char *machine_id);
void watch_closed(struct watch *, struct rpc_call *);
/* From any thread: something changed. */
void watch_on_job(struct watch *, const Sp__Job *);
void watch_on_point(struct watch *, const char *machine_id, const char *point_id, Sp__PointState);
void watch_on_machine(struct watch *, const char *machine_id);
void watch_on_volume(struct watch *, const Sp__VolumeEvent *);

#endif
