/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * External escrow: systems that hold keys of guests besides the keystore. Each is one file with one
 * const descriptor and one row in the table of providers.c; each section of keeper.conf is an
 * instance of one:
 *
 *     [active-directory corp]        type and the name by which records and people call it
 *     url = ldaps://dc1.corp.example
 *
 * Answers are kept apart, by the errno that every function returns:
 *
 *     0             found
 *     -ENOENT       absent: the provider can tell, and says that there is none
 *     -EACCES       denied: not allowed, or not to be told from absent
 *     -EKEYEXPIRED  expired, disabled or deleted, but perhaps to be had back
 *     others        unreachable: no answer in time, or one that makes no sense
 *
 * A provider that answers "nothing" to whom it does not trust asks for its canary before it says
 * absent: an object that is known to be there. `why` then says what to do, and never a secret.
 *
 * Threads: every function may run in several threads at once; instances do not change after the
 * configuration was read. None is called with the keeper's lock held. */
#ifndef SEALPOINT_KEEPER_PROVIDER_H
#define SEALPOINT_KEEPER_PROVIDER_H

#include "base/bytes.h"
#include "base/config.h"
#include "base/secret.h"
#include "base/why.h"
#include <sealpoint/v1/keys.pb-c.h>
#include <stdbool.h>
#include <stddef.h>

enum {
    PROVIDER_NAME_BYTES = 25,
    PROVIDER_ITEMS_MOST = 32, /* of one answer; more is an error */
    PROVIDER_SECRET_MOST = 4096
};

/* How far a call came; what was not reached is not said to work. */
typedef Sp__ProviderStage provider_stage;

struct provider {
    const struct provider_type *type;
    char name[PROVIDER_NAME_BYTES];
    bool mirror;
    uint64_t timeout_ms; /* of one call, connection and all */
    void *settings;      /* of the type's own options */
};

/* What is looked for: keys that may open this volume of this machine. */
struct provider_query {
    const char *machine_id, *machine_name; /* name "": not known */
    const Sp__Volume *volume;
};

/* One generation of one key at the provider. */
struct provider_item {
    char *locator;      /* for fetch: a DN, a URL with version */
    char *version;      /* never reused by the provider for another value */
    char *protector_id; /* "": not known */
    char *warning;      /* NULL, or what will take it away; told where no copy is kept */
    Sp__SecretType secret_type;
    bool unwrapped; /* no KEK is around it there: who may read it has the key */
};
struct provider_items {
    struct provider_item *items;
    size_t count;
};

struct provider_type {
    const char *name;
    const struct sp_config_option *options; /* section = name */
    size_t settings_bytes;
    /* After all of the configuration was read. */
    int (*check)(const struct provider *, struct sp_why *);
    /* Whether it holds keys of such volumes at all; without a question to it. */
    bool (*serves)(const struct provider *, const Sp__Volume *);
    int (*lookup)(const struct provider *, const struct provider_query *, struct provider_items *,
                  provider_stage *, struct sp_why *);
    int (*fetch)(const struct provider *, const struct provider_item *, struct sp_secret **ret,
                 provider_stage *, struct sp_why *);
    /* What a point would rest on, in words, into out. */
    void (*describe)(const struct provider *, const struct provider_item *, char *out, size_t size);
    /* NULL, or: the item that a record was made of, by its note (what describe() said) and version,
     * so that a kept point is proved again with its own version. None: 0 and nothing added. */
    int (*recall)(const struct provider *, const Sp__EscrowRecord *, struct provider_items *);
    int (*canary)(const struct provider *, provider_stage *, struct sp_why *);
    /* NULL, or: puts a canary there, as configured, that opens nothing; one that is there stays. */
    int (*make_canary)(const struct provider *, provider_stage *, struct sp_why *);
};

/* One file each. */
extern const struct provider_type provider_ad, provider_azure, provider_clevis, provider_hashicorp,
    provider_kmip;

/* ---- all of a keeper's ---- */

struct providers;

int providers_new(struct providers **ret);
void providers_free(struct providers *);
size_t providers_count(const struct providers *); /* NULL: 0 */
const struct provider *providers_at(const struct providers *, size_t index);
/* NULL: none of this name. */
const struct provider *providers_find(const struct providers *, const char *name);
/* One more instance, with defaults; settings zeroed. Also for a test's own type. -EEXIST. */
int providers_add(struct providers *, const struct provider_type *, const char *name,
                  struct provider **ret);
/* For struct sp_config_more; self is the struct providers. */
int providers_set(void *self, const char *section, const char *key, const char *value,
                  struct sp_why *);
/* Every instance is complete. Before the first thread is made. */
int providers_check(const struct providers *, struct sp_why *);

/* ---- for providers ---- */

int provider_items_add(struct provider_items *, const char *locator, const char *version,
                       const char *protector_id, Sp__SecretType);
void provider_items_clear(struct provider_items *);
#define PROVIDER_ITEMS __attribute__((cleanup(provider_items_clear)))

/* Appends to `out` what `text` says with {machine}, {machine_id}, {volume} (without the place of a
 * cloned disk) and {uuid} (the volume's id without what is before the colon) put in by `append`.
 * `option`: where `text` is from. -EACCES: the machine has no name. */
int provider_fill(const char *text, const char *option, const struct provider_query *,
                  int (*append)(struct sp_buffer *out, const char *value), struct sp_buffer *out,
                  struct sp_why *);

/* A password from a file of mode 0600 or a systemd credential; exactly one of the two is set. */
int provider_password(const char *file, const char *credential, struct sp_secret **ret,
                      struct sp_why *);
/* Another secret of at most `most` bytes, for example a private key; `what` is for the texts. */
int provider_secret(const char *what, const char *file, const char *credential, size_t most,
                    struct sp_secret **ret, struct sp_why *);
/* For a password, before it is needed: one of the two is set. */
int provider_password_check(const struct provider *, const char *file, const char *credential,
                            struct sp_why *);

#endif
