/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A keeper in this process: a keystore in a folder of its own, a clock that stands still until it
 * is moved, a prover that is a function here, people with keys. Every helper asserts. */
#ifndef KEEPER_RIG_H
#define KEEPER_RIG_H

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/identity.h"
#include "base/secret.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/keeper_client.h"
#include <sealpoint/v1/keeper.pb-c.h>
#include <sqlite3.h>

#define DOMAIN  "test.example"
#define MACHINE "11111111-1111-4111-8111-111111111111"
#define OTHER   "22222222-2222-4222-8222-222222222222"
#define POINT   "33333333-3333-4333-8333-333333333333"
#define POINT_2 "44444444-4444-4444-8444-444444444444"
#define VAULT   "55555555-5555-4555-8555-555555555555"
#define VOLUME  "luks:99999999-9999-4999-8999-999999999999"
#define DISK    "data0"

struct person {
    char name[64];
    EVP_PKEY *key;
    X509 *certificate;
};

/* What the made-up prover does: a secret equal to `opens` opens. */
struct fake_prover {
    const char *opens;
    const char *volume_key;     /* handed back, and what carry-over must come with */
    Sp__ProofVerdict otherwise; /* WRONG_KEY unless set */
    Sp__ProofVerdict carried;   /* verdict of a carried-over job; 0: OPENS with the right key */
    uint8_t fingerprint[32];
    const char *content_type, *content_uuid;
    int error; /* returned instead */
    unsigned jobs, carried_jobs, looks;
    uint8_t seen[64]; /* what it read at disk 0, offset 0 */
    char last_secret[64], last_protector[64];
    bool reads, leaves_a_read; /* sends a read and does not take the answer */
};

struct rig {
    char folder[64], state[80], passphrase[80];
    uint64_t wall_ms, monotonic_ns;
    struct sp_clock clock;
    struct keeper_options options;
    struct keeper *k;
    struct keeper_client *client; /* not NULL: a keeper process is spoken to instead */
    struct person admin;
    EVP_PKEY *controller_key;
    struct sp_secret *kit;
    char *bundle;
    uint8_t box[32];
    EVP_PKEY *sealing;
    uint8_t *controller_certificate;
    size_t controller_certificate_size;
};
extern struct fake_prover fake;

/* For cmocka: a fresh initialised rig in *state. */
int rig_setup(void **state);
int rig_setup_empty(void **state);
int rig_teardown(void **state);

/* Closes the keeper and opens it again, as after a restart. */
void rig_reopen(struct rig *);
void rig_close(struct rig *);
int rig_open(struct rig *, struct sp_why *why);

/* The answer, which must carry no error / this errno. */
Sp__KeeperResponse *rig_call(struct rig *, Sp__KeeperRequest *);
Sp__KeeperResponse *rig_call_fd(struct rig *, Sp__KeeperRequest *, int fd);
/* Its text must hold `text`. */
void rig_refused(struct rig *, Sp__KeeperRequest *, int error, const char *text);
void rig_refused_fd(struct rig *, Sp__KeeperRequest *, int fd, int error, const char *text);
void answer_free(Sp__KeeperResponse *);
/* SP_CLEANUP(answer). */
static inline void sp_cleanup_answer(Sp__KeeperResponse **p)
{
    if (*p)
        answer_free(*p);
}
#define ANSWER SP_CLEANUP(answer) Sp__KeeperResponse *

Sp__KeeperResponse *rig_init(struct rig *);
/* Fetches the keeper's keys and checks that the CA signed them. */
void rig_read_keys(struct rig *);
/* A folder, a passphrase file and a clock, but no keeper. */
struct rig *rig_new(void);
void nonce_of(struct rig *, uint8_t out[32]);
/* A request signed by `who` with a fresh nonce. */
Sp__SignedRequest *sign(struct rig *, const struct person *who, const char *method,
                        const ProtobufCMessage *arguments);
/* Signs and executes. */
Sp__KeeperResponse *execute(struct rig *, const struct person *who, const char *method,
                            const ProtobufCMessage *arguments);
void execute_refused(struct rig *, const struct person *who, const char *method,
                     const ProtobufCMessage *arguments, int error, const char *text);
/* A user with one role, made by the admin. */
struct person add_user(struct rig *, const char *name, Sp__Role role, const char *group);
void person_free(struct person *);
X509 *first_certificate(ProtobufCBinaryData chain);
ProtobufCBinaryData csr_of(EVP_PKEY *key); /* to free() its data */

/* A token for `machine_name` (may be ""), opened. */
struct test_token {
    char id[37];
    struct sp_secret *secret;
};
struct test_token make_token(struct rig *, const Sp__TokenSpec *spec);
/* A new guest key enrols with it. */
struct guest {
    EVP_PKEY *key;
    uint8_t box[32];
    char machine_id[37];
    X509 *certificate;
};
struct guest enrol_guest(struct rig *, const struct test_token *, const char *name);
/* Only the request's proof and keys are made; frees with enrol_free(). */
Sp__EnrolRequest *enrol_request(const struct test_token *, EVP_PKEY *key, const uint8_t box[32],
                                const char *name);
void enrol_free(Sp__EnrolRequest *);
void guest_free(struct guest *);
Sp__TokenSpec *token_spec(struct rig *); /* count 1, an hour; static storage */

/* Imports a passphrase; returns the result's record id in out. */
void import_key(struct rig *, const char *machine, const char *volume, const char *protector,
                const char *secret, char out[37]);
Sp__SealedBox *seal_key(struct rig *, const char *machine, const char *volume,
                        const char *protector, Sp__SecretType type, const char *secret,
                        Sp__PlainParameters *plain);

/* Pins, proves and packs: the parts of a point. */
void pin_point(struct rig *, const char *point, const char *machine, const char *volume);
struct proof_options {
    const char *machine, *point, *volume;
    uint8_t root; /* every byte of the disk root; 0: from the source */
    bool carry, reproof;
    Sp__VolumeKind kind;
    const char *expected_type, *expected_uuid;
    const char *machine_name; /* as the controller says it */
    Sp__ProtectorType only;   /* the header's only protector; 0: not known */
    const char *protector;    /* its id */
    uint64_t kdf_memory_kib;  /* what it takes */
    bool suspended;
};
Sp__ProofStatement *prove(struct rig *, struct proof_options, Sp__Signed **ret_signed);

/* The text of every audit entry and log must hold / not hold this. */
bool audit_has(struct rig *, const char *what, const char *text);
void sql(struct rig *, const char *statement);
bool folder_has(struct rig *, const void *bytes, size_t size);

#endif
