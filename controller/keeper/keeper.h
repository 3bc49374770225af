/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The keeper: the only process that holds guest keys, the CA key and the sealing key.
 *
 *   server.c ── one thread a connection ──▶ keeper_handle() ── table of methods ──▶ handlers
 *                                                │
 *      store.c   the keystore's file             ├ ca.c enrol.c machines.c users.c tokens.c
 *      journal.c signed history of changes       ├ records.c pins.c prove.c look.c
 *      audit.c   who asked for what              ├ seal.c release.c copy.c vault_key.c restore.c
 *      external.c providers/: other escrows      │
 *      kek.c wrap.c secrets in the store         ├ life.c reconcile.c: how records end
 *                                                ├ keyslot.c: keys made for guests' headers
 *                                                └ execute.c order.c nonces.c: what a person signed
 *
 * Lock order: keeper.lock only. It is held by every handler but Look, Prove and those that ask
 * providers, which take it for the parts that touch the keystore, and run provers and ask without
 * it.
 *
 * Errors of handlers, which the controller turns into the API's statuses:
 *   -EINVAL arguments; -ENOENT no such thing; -EEXIST there already; -EPERM this person may not;
 *   -EKEYREJECTED token, signature or nonce not accepted; -ESTALE a precondition does not hold;
 *   -ENOKEY the keeper is locked; -ENOTCONN not initialised; -EUCLEAN the keystore does not match
 *   its journal; -EAGAIN too much at once; -EOPNOTSUPP; others: the machine's trouble. */
#ifndef SEALPOINT_KEEPER_H
#define SEALPOINT_KEEPER_H

#include "base/clock.h"
#include "base/secret.h"
#include "base/why.h"
#include "controller/keeper/kek.h"
#include "controller/keeper/nonces.h"
#include "controller/keeper/prover/run.h"
#include "controller/keeper/providers/provider.h"
#include "controller/keeper/reconcile.h"
#include "controller/keeper/store.h"
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <sealpoint/v1/keeper.pb-c.h>
#include <stdbool.h>

/* prover_run(), or a test's own. */
typedef int keeper_run_fn(const struct prover_options *, const Sp__ProverJob *, int reader_socket,
                          const struct sp_secret *secret, Sp__ProverResult **ret,
                          struct sp_secret **ret_volume_key, struct sp_why *why);

struct keeper_options {
    const char *state;  /* directory, made with mode 0700 when missing */
    const char *prover; /* program */
    struct kek_sources keks;
    const struct sp_clock *clock;      /* NULL: the system's */
    keeper_run_fn *run;                /* NULL: proofs and looks are refused */
    struct prover_nursery *nursery;    /* NULL: each job starts a process of its own */
    const struct providers *providers; /* external escrow; NULL: none */
    uint64_t destroy_wait_ms; /* between the two requests that destroy a record; 0: 3 days */
};

/* A bounded number of provers at once, and a bound on the memory that their key derivations take
 * together: argon2id takes 1 GiB and more. One alone may always run. */
struct keeper_gate {
    pthread_cond_t free;
    unsigned running, most;
    uint64_t memory_kib, memory_used_kib; /* memory_kib 0: no bound */
};

struct keeper {
    struct keeper_options options;
    const struct sp_clock *clock;
    pthread_mutex_t lock;
    struct store *store;
    int state_lock; /* fd, flock: one keeper a keystore */

    bool initialised;
    bool locked; /* no KEK opened */
    struct sp_why lock_text;
    struct sp_why damage; /* not empty: the keystore does not match its journal */
    char domain[128];
    uint8_t *sealing_der; /* public half; there even when locked */
    size_t sealing_der_size;

    struct kek_set keks;
    struct sp_secret *box_private, *mac_key;
    uint8_t box_public[32];
    EVP_PKEY *ca_key, *sealing_key;
    X509 *ca;
    uint64_t epoch_floor; /* see journal_skip() */

    struct reconcile_round round;

    struct nonces nonces;
    uint64_t refusals_since_ms; /* monotonic; refused enrolments of this minute */
    unsigned refusals, refusals_unwritten;
    struct keeper_gate proofs, looks;
};

/* Opens the keystore and unlocks it if a KEK is at hand. A locked or damaged keystore is no
 * failure: the keeper then answers what it still can. */
int keeper_open(const struct keeper_options *, struct keeper **ret, struct sp_why *why);
void keeper_close(struct keeper *);
/* Reads what the store holds and unlocks: at open, after init and after a restore. */
int keeper_load(struct keeper *, struct sp_why *why);

/* One request. *ret is always new on 0 and carries the handler's error; fd (-1: none) stays the
 * caller's. -ENOMEM otherwise. Any thread. */
int keeper_handle(struct keeper *, const Sp__KeeperRequest *, int fd, Sp__KeeperResponse **ret);

/* A handler fills `out` and returns 0, or a negative errno with a sentence for the admin. */
typedef int keeper_handler(struct keeper *, const Sp__KeeperRequest *, int fd,
                           Sp__KeeperResponse *out, struct sp_why *why);
keeper_handler keeper_status, keeper_init, keeper_issue_controller, keeper_enrol, keeper_renew,
    keeper_identities, keeper_nonce, keeper_execute, keeper_release, keeper_import,
    keeper_list_keys, keeper_keys, keeper_pin, keeper_unpin, keeper_look, keeper_prove, keeper_seal,
    keeper_keystore_copy, keeper_vault_key, keeper_audit, keeper_list_tokens, keeper_check,
    keeper_audit_note, keeper_show_key, keeper_list_keks, keeper_witness, keeper_restore,
    keeper_list_providers, keeper_test_provider, keeper_order_keyslot, keeper_end_keyslot;

/* core.c: the keeper's own secrets, made once at init, loaded at unlock. */
int core_make(struct keeper *, struct sp_why *why);
int core_store(struct keeper *, struct sp_why *why);
int core_load(struct keeper *, struct sp_why *why);
void core_forget(struct keeper *);

/* meta.c: small named values. -ENOENT when missing. The buffer is emptied first. */
int meta_get(struct keeper *, const char *name, struct sp_buffer *out);
/* In a transaction; journaled. */
int meta_set(struct keeper *, const char *name, struct sp_bytes value);

/* Who the caller says it acts for; "local" when it says nothing. */
static inline const char *keeper_who(const Sp__KeeperRequest *r)
{
    return r->peer && *r->peer ? r->peer : "local";
}
static inline uint64_t keeper_now_ms(const struct keeper *k)
{
    return k->clock->wall_ms(k->clock->self);
}

#endif
