/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/identity.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/file.h"
#include "base/sealed_box.h"
#include <errno.h>
#include <openssl/pem.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { FILE_MOST = 1 << 20 };

#define AT(field) offsetof(struct agent_identity, field)
static const struct sp_config_option table[] = {
    {"identity", "machine", SP_CONFIG_TEXT, AT(machine), 0, 0},
    {"identity", "domain", SP_CONFIG_TEXT, AT(domain), 0, 0},
    {"identity", "controller", SP_CONFIG_TEXT, AT(controller), 0, 0},
    {"identity", "mark", SP_CONFIG_TEXT, AT(mark), 0, 0},
    {0},
};

SP_DEFINE_CLEANUP(x509, X509 *, X509_free)
SP_DEFINE_CLEANUP(pkey, EVP_PKEY *, EVP_PKEY_free)
SP_DEFINE_CLEANUP(bio, BIO *, BIO_free)
#define PATH(name, state, file)                                                                    \
    SP_FREE char *name = sp_format("%s/%s", (state), (file));                                      \
    if (!name)                                                                                     \
    return -ENOMEM

static uint64_t now_ms(void)
{
    return sp_clock_system.wall_ms(sp_clock_system.self);
}

/* ---- renewals that a crash cut short ---- */

static int finish_renewal(const char *state)
{
    PATH(key, state, "agent.key");
    PATH(key_next, state, "agent.key.next");
    PATH(pem, state, "agent.pem");
    PATH(pem_next, state, "agent.pem.next");
    if (access(pem_next, F_OK) < 0)
        return 0; /* none, or no answer had come: the next renewal makes a new key */
    /* Without key.next the key was renamed already. */
    if (rename(key_next, key) < 0 && errno != ENOENT)
        return -errno;
    if (rename(pem_next, pem) < 0)
        return -errno;
    return sp_fsync_directory(state);
}

int agent_identity_begin_renewal(const char *state, EVP_PKEY **ret, struct sp_why *why)
{
    PATH(path, state, "agent.key.next");
    SP_CLEANUP(pkey) EVP_PKEY *key = sp_key_new();
    if (!key)
        return -EIO;
    int r = sp_key_save(path, key);
    if (r < 0)
        return sp_why_set(why, r, "cannot write '%s'", path);
    *ret = sp_steal(key);
    return 0;
}

int agent_identity_end_renewal(const char *state, const char *chain_pem, const char *trust_pem,
                               struct sp_why *why)
{
    PATH(trust, state, "trust.pem");
    PATH(next, state, "agent.pem.next");
    /* The bundle first: it holds the old CA as well, or the old certificate would be of no use. */
    int r = sp_file_replace(trust, trust_pem, strlen(trust_pem), 0644);
    if (r == 0)
        r = sp_file_replace(next, chain_pem, strlen(chain_pem), 0644);
    if (r == 0)
        r = finish_renewal(state);
    return r < 0 ? sp_why_set(why, r, "cannot store the new certificate in '%s'", state) : 0;
}

/* ---- load ---- */

static int read_text(const char *state, const char *file, char **ret, struct sp_why *why)
{
    PATH(path, state, file);
    int r = sp_file_read(path, FILE_MOST, ret, NULL);
    return r < 0 ? sp_why_set(why, r == -ENOENT ? -EBADMSG : r, "cannot read '%s'", path) : 0;
}

static uint64_t unix_ms_of(const ASN1_TIME *time)
{
    struct tm parts;
    if (!time || ASN1_TIME_to_tm(time, &parts) != 1)
        return 0;
    time_t seconds = timegm(&parts);
    return seconds < 0 ? 0 : (uint64_t)seconds * 1000;
}

int agent_identity_load(const char *state, struct agent_identity *identity, struct sp_why *why)
{
    *identity = (struct agent_identity){0};
    PATH(path, state, "identity");
    if (access(path, F_OK) < 0)
        return sp_why_set(why, -errno,
                          "this guest is not enrolled ('%s'): make a token with 'sealpoint token "
                          "create' and run 'sealpoint-agent enrol'",
                          path);
    int r = finish_renewal(state);
    if (r < 0)
        return sp_why_set(why, r, "cannot finish a certificate renewal in '%s'", state);
    r = sp_config_load(path, false, table, identity, why);
    if (r == 0 && (!identity->machine || !identity->domain || !identity->controller))
        r = sp_why_set(why, -EBADMSG, "'%s' is incomplete", path);
    if (r == 0)
        r = read_text(state, "agent.key", &identity->key_pem, why);
    if (r == 0)
        r = read_text(state, "agent.pem", &identity->certificate_pem, why);
    if (r == 0)
        r = read_text(state, "trust.pem", &identity->trust_pem, why);
    if (r < 0)
        return r;
    SP_CLEANUP(x509) X509 *leaf = NULL;
    r = sp_certificate_from_pem(identity->certificate_pem, strlen(identity->certificate_pem),
                                &leaf);
    if (r < 0)
        return sp_why_set(why, -EBADMSG, "'%s/agent.pem' holds no certificate", state);
    /* The certificate decides who this is: a crash in a second enrolment may leave the file behind
     * it. */
    struct sp_identity id;
    r = sp_identity_of_certificate(leaf, &id);
    if (r < 0)
        return sp_why_set(why, r, "'%s/agent.pem' names no agent", state);
    free(identity->machine);
    free(identity->domain);
    identity->machine = strdup(id.name);
    identity->domain = strdup(id.domain);
    if (!identity->machine || !identity->domain)
        return -ENOMEM;
    identity->not_before_ms = unix_ms_of(X509_get0_notBefore(leaf));
    identity->expires_ms = sp_certificate_expires_unix_ms(leaf);
    return 0;
}

void agent_identity_free(struct agent_identity *identity)
{
    if (identity->key_pem)
        sp_wipe(identity->key_pem, strlen(identity->key_pem));
    free(identity->key_pem);
    free(identity->certificate_pem);
    free(identity->trust_pem);
    sp_config_free(table, identity);
    *identity = (struct agent_identity){0};
}

uint64_t agent_identity_renew_at_ms(const struct agent_identity *identity)
{
    if (identity->expires_ms <= identity->not_before_ms)
        return 0;
    return identity->not_before_ms + (identity->expires_ms - identity->not_before_ms) / 3 * 2;
}

/* ---- keys ---- */

int agent_identity_key(const char *state, bool again, EVP_PKEY **ret, struct sp_why *why)
{
    PATH(path, state, again ? "agent.key.next" : "agent.key");
    int r = sp_make_directories(state, 0700);
    if (r < 0)
        return sp_why_set(why, r, "cannot make '%s'", state);
    if (access(path, F_OK) == 0) {
        r = sp_key_load(path, ret);
        return r < 0 ? sp_why_set(why, r, "cannot read the key '%s'", path) : 0;
    }
    SP_CLEANUP(pkey) EVP_PKEY *key = sp_key_new();
    if (!key)
        return -EIO;
    r = sp_key_save(path, key);
    if (r < 0)
        return sp_why_set(why, r, "cannot write '%s'", path);
    *ret = sp_steal(key);
    return 0;
}

int agent_identity_box(const char *state, uint8_t ret_public[32], struct sp_why *why)
{
    PATH(path, state, "box.key");
    SP_SECRET struct sp_secret *private_key = NULL;
    int r = sp_secret_read_file(path, SP_BOX_KEY_BYTES, &private_key);
    if (r == 0 && sp_secret_size(private_key) != SP_BOX_KEY_BYTES)
        r = -EBADMSG;
    if (r == 0)
        r = sp_box_public(private_key, ret_public);
    else if (r == -ENOENT) {
        r = sp_box_keypair(&private_key, ret_public);
        if (r == 0)
            r = sp_file_replace(path, sp_secret_data(private_key), SP_BOX_KEY_BYTES, 0600);
    }
    return r < 0 ? sp_why_set(why, r, "cannot read or make the key '%s'", path) : 0;
}

/* ---- what was issued ---- */

static int read_chain(const char *pem, X509 **ret_leaf, STACK_OF(X509) * chain)
{
    SP_CLEANUP(bio) BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *leaf = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    if (!leaf)
        return -EBADMSG;
    *ret_leaf = leaf;
    for (X509 *next; (next = PEM_read_bio_X509(bio, NULL, NULL, NULL));)
        if (sk_X509_push(chain, next) <= 0) {
            X509_free(next);
            return -ENOMEM;
        }
    return 0;
}

static int check_leaf(EVP_PKEY *key, X509 *leaf, STACK_OF(X509) * chain, const char *trust_pem,
                      struct sp_identity *ret, struct sp_why *why)
{
    if (X509_check_private_key(leaf, key) != 1)
        return sp_why_set(why, -EKEYREJECTED, "the issued certificate is for another key");
    int r = sp_certificate_verify(leaf, chain, trust_pem, strlen(trust_pem), false,
                                  (int64_t)(now_ms() / 1000), why);
    if (r == 0)
        r = sp_identity_of_certificate(leaf, ret);
    if (r == 0 && ret->kind != SP_IDENTITY_AGENT)
        r = sp_why_set(why, -EKEYREJECTED, "the issued certificate is not an agent's");
    return r;
}

int agent_identity_check(EVP_PKEY *key, const char *chain_pem, const char *trust_pem,
                         struct sp_identity *ret, struct sp_why *why)
{
    SP_CLEANUP(x509) X509 *leaf = NULL;
    STACK_OF(X509) *chain = sk_X509_new_null();
    if (!chain)
        return -ENOMEM;
    int r = read_chain(chain_pem, &leaf, chain);
    r = r < 0 ? sp_why_set(why, r, "the controller sent no certificate")
              : check_leaf(key, leaf, chain, trust_pem, ret, why);
    sk_X509_pop_free(chain, X509_free);
    return r;
}

static int store_mark(const char *state, const char *controller, const struct sp_identity *id)
{
    PATH(path, state, "identity");
    /* The mark tells a restored or copied state folder from the one the controller last saw. */
    uint8_t random[16];
    char mark[33];
    int r = sp_random(random, sizeof(random));
    if (r < 0)
        return r;
    SP_FREE char *text =
        sp_format("[identity]\nmachine = %s\ndomain = %s\ncontroller = %s\n"
                  "mark = %s\n",
                  id->name, id->domain, controller, sp_hex(mark, random, sizeof(random)));
    return text ? sp_file_replace(path, text, strlen(text), 0644) : -ENOMEM;
}

int agent_identity_store(const char *state, bool again, const char *controller,
                         const struct sp_identity *id, const char *chain_pem, const char *trust_pem,
                         struct sp_why *why)
{
    PATH(trust, state, "trust.pem");
    PATH(pem, state, "agent.pem");
    int r;
    if (again)
        r = agent_identity_end_renewal(state, chain_pem, trust_pem, why);
    else {
        r = sp_file_replace(trust, trust_pem, strlen(trust_pem), 0644);
        if (r == 0)
            r = sp_file_replace(pem, chain_pem, strlen(chain_pem), 0644);
    }
    if (r == 0)
        r = store_mark(state, controller, id);
    return r < 0 ? sp_why_set(why, r, "cannot store the identity in '%s'", state) : 0;
}
