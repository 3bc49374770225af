/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/header.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "controller/keeper/prover/cipher.h"
#include <fcntl.h>
#include <json-c/json.h>
#include <libcryptsetup.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

const char header_library[] = "libcryptsetup " SEALPOINT_CRYPTSETUP_VERSION;

enum { MAX_SLOTS = 32 };

/* ---- libcryptsetup's last word, for the admin ---- */

/* It may quote the header, which may hold anything. */
static void keep_log(int level, const char *text, void *kept)
{
    struct sp_why *why = kept;
    if (level != CRYPT_LOG_ERROR)
        return;
    sp_why_set(why, 0, "%.*s", (int)strcspn(text, "\n"), text);
    for (char *p = why->text; *p; p++) {
        if (*p < 0x20 || *p > 0x7e)
            *p = '?';
    }
}

static void drop_log(int level, const char *text, void *unused)
{
    (void)level;
    (void)text;
    (void)unused;
}

/* ---- warming up ---- */

static void *end_by_pthread_exit(void *unused)
{
    pthread_exit(unused);
}

static int load_from_zeros(void)
{
    SP_FD int fd = memfd_create("nothing", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, 1 << 20) < 0)
        return -errno;
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    struct crypt_device *cd = NULL;
    int r = crypt_init(&cd, path);
    if (r < 0)
        return r;
    r = crypt_load(cd, CRYPT_LUKS, NULL); /* sets up its crypto, then finds nothing */
    crypt_free(cd);
    return r == -EINVAL ? 0 : r < 0 ? r : -EPROTO;
}

int header_warm_up(void)
{
    /* No openssl.cnf: nobody's configuration changes what a proof computes. */
    if (!OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL))
        return -EIO;
    sector_cipher_warm_up();
    crypt_set_log_callback(NULL, drop_log, NULL);
    /* Locks are files under /run; nobody else has the copy that we work on. It also keeps
     * libcryptsetup from repairing. */
    crypt_metadata_locking(NULL, 0);
    pthread_t thread;
    int r = pthread_create(&thread, NULL, end_by_pthread_exit, NULL);
    if (r)
        return -r;
    pthread_join(thread, NULL);
    return load_from_zeros();
}

/* ---- finding and copying ---- */

int header_find(const struct volume_reader *reader, struct header *h)
{
    *h = (struct header){.memfd = -1};
    return volume_probe(reader, &h->format, &h->facts);
}

void header_close(struct header *h)
{
    if (h->cd)
        crypt_free(h->cd);
    if (h->memfd >= 0)
        close(h->memfd);
    if (h->facts)
        sp__header_facts__free_unpacked(h->facts, NULL);
    *h = (struct header){.memfd = -1};
}

static int copy_range(const struct volume_reader *reader, int fd, uint64_t offset, uint64_t length)
{
    enum { PIECE = 256 << 10 };
    SP_FREE uint8_t *piece = malloc(PIECE);
    if (!piece)
        return -ENOMEM;
    while (length) {
        uint32_t part = length < PIECE ? (uint32_t)length : PIECE;
        int r = reader->read_at(reader->self, offset, piece, part);
        if (r < 0)
            return r;
        r = sp_pwrite_all(fd, piece, part, offset);
        if (r < 0)
            return r;
        offset += part;
        length -= part;
    }
    return 0;
}

/* The header and its keyslots at their places in a file as long as the volume, the rest a hole. */
static int copy_header(const struct volume_reader *reader, struct header *h)
{
    struct volume_ranges ranges;
    int r = h->format->header_ranges(reader, h->facts, &ranges);
    if (r < 0)
        return r;
    SP_FD int fd = memfd_create("header", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)reader->size_bytes) < 0)
        return -errno;
    for (size_t i = 0; r == 0 && i < ranges.count; i++)
        r = copy_range(reader, fd, ranges.at[i][0], ranges.at[i][1]);
    if (r < 0)
        return r;
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
        return -errno;
    h->memfd = sp_steal_fd(&fd);
    return 0;
}

int header_load(const struct volume_reader *reader, struct header *h, struct sp_why *why)
{
    int r = copy_header(reader, h);
    if (r < 0)
        return r;
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", h->memfd);
    r = crypt_init(&h->cd, path);
    if (r < 0)
        return r;
    crypt_set_log_callback(h->cd, keep_log, why);
    r = crypt_load(h->cd, CRYPT_LUKS, NULL);
    crypt_set_log_callback(h->cd, drop_log, NULL); /* the handle outlives `why` */
    return r == -EINVAL || r == -ENOENT ? -EBADMSG : r;
}

/* ---- trying ---- */

static int set_verdict(struct header_try *t, Sp__ProofVerdict verdict)
{
    t->verdict = verdict;
    return 0;
}

/* Its own sentence behind the errno in words. */
static void explain(struct header_try *t, int error)
{
    if (t->why.text[0])
        sp_why_prefix(&t->why, 0, "libcryptsetup: %s", strerror(-error));
    else
        sp_why_set(&t->why, 0, "libcryptsetup: %s", strerror(-error));
}

static bool is_active(struct crypt_device *cd, int slot)
{
    crypt_keyslot_info s = crypt_keyslot_status(cd, slot);
    return s == CRYPT_SLOT_ACTIVE || s == CRYPT_SLOT_ACTIVE_LAST;
}

static const Sp__Protector *protector_of(const Sp__HeaderFacts *f, int slot)
{
    char id[12];
    snprintf(id, sizeof(id), "%d", slot);
    for (size_t i = 0; i < f->n_protectors; i++) {
        if (strcmp(f->protectors[i]->id, id) == 0)
            return f->protectors[i];
    }
    return NULL;
}

/* Memory times passes: good enough to try the cheap ones first. */
static uint64_t cost_of(const Sp__HeaderFacts *f, int slot)
{
    const Sp__Protector *p = protector_of(f, slot);
    if (!p)
        return UINT64_MAX;
    if (!p->kdf_memory_kib)
        return p->kdf_iterations / 1000; /* of pbkdf2: ~1 KiB of argon2 in time */
    return p->kdf_iterations * p->kdf_memory_kib;
}

/* Active slots, cheapest first. */
static int slots_to_try(const struct header *h, int slots[MAX_SLOTS])
{
    int count = 0, most = crypt_keyslot_max(crypt_get_type(h->cd));
    for (int slot = 0; slot < most && slot < MAX_SLOTS; slot++) {
        if (!is_active(h->cd, slot))
            continue;
        int at = count++;
        for (; at > 0 && cost_of(h->facts, slots[at - 1]) > cost_of(h->facts, slot); at--)
            slots[at] = slots[at - 1];
        slots[at] = slot;
    }
    return count;
}

static bool kdf_is_known(const Sp__Protector *p)
{
    static const char *const known[] = {"pbkdf2", "argon2i", "argon2id"};
    for (size_t i = 0; p && i < SP_COUNT(known); i++) {
        if (strcmp(p->kdf, known[i]) == 0)
            return true;
    }
    return !p;
}

/* Are the slot's KDF and the cipher of its area such that libcryptsetup can compute them without
 * the kernel? */
static bool slot_is_checkable(struct header *h, int slot, struct sp_why *why)
{
    const Sp__Protector *protector = protector_of(h->facts, slot);
    if (!kdf_is_known(protector)) {
        sp_why_set(why, 0, "keyslot %d: the key derivation %s cannot be computed here", slot,
                   protector->kdf);
        return false;
    }
    size_t key_bytes = 0;
    const char *name = crypt_keyslot_get_encryption(h->cd, slot, &key_bytes);
    if (!name)
        return true;
    struct cipher_parameters p = {.name = name, .sector_bytes = 512};
    if (sector_cipher_check(&p, key_bytes, why) == 0)
        return true;
    sp_why_prefix(why, 0, "keyslot %d", slot);
    return false;
}

static bool memory_suffices(const struct header *h, int slot, struct sp_why *why)
{
    const Sp__Protector *p = protector_of(h->facts, slot);
    struct rlimit limit;
    enum { OURS = 256 << 20 }; /* libraries, blocks, stacks */
    if (!p || getrlimit(RLIMIT_AS, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return true;
    uint64_t may = limit.rlim_cur > OURS ? (limit.rlim_cur - OURS) >> 10 : 0;
    if (p->kdf_memory_kib <= may)
        return true;
    sp_why_set(why, 0, "keyslot %d asks for %llu MiB, the prover may use %llu MiB", slot,
               (unsigned long long)p->kdf_memory_kib >> 10, (unsigned long long)may >> 10);
    return false;
}

/* One slot. The verdict is OPENS, WRONG_KEY, UNCHECKABLE or ERROR. `other_digest`: the slot's own
 * digest, which libcryptsetup checks, is the one that counts. */
static Sp__ProofVerdict try_slot(struct header *h, int slot, bool other_digest,
                                 const struct sp_secret *secret, struct header_try *t)
{
    if (!slot_is_checkable(h, slot, &t->why))
        return SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE;
    if (!memory_suffices(h, slot, &t->why))
        return SP__PROOF_VERDICT__PROOF_VERDICT_ERROR;
    int size = crypt_get_volume_key_size(h->cd);
    if (size <= 0 || size > 512) {
        sp_why_set(&t->why, 0, "the header tells of a volume key of %d bytes", size);
        return SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED;
    }
    SP_SECRET struct sp_secret *key = sp_secret_new((size_t)size);
    if (!key) {
        explain(t, -errno);
        return SP__PROOF_VERDICT__PROOF_VERDICT_ERROR;
    }
    size_t got = (size_t)size;
    t->why.text[0] = 0;
    int r = crypt_volume_key_get(h->cd, slot, (char *)sp_secret_data(key), &got,
                                 (const char *)sp_secret_data(secret), sp_secret_size(secret));
    /* The slot's digest fits; that the payload's does too is another question. */
    if (r >= 0 && !other_digest)
        r = crypt_volume_key_verify(h->cd, (const char *)sp_secret_data(key), got);
    if (r == -EPERM)
        return SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY;
    if (r < 0) {
        explain(t, r);
        return SP__PROOF_VERDICT__PROOF_VERDICT_ERROR;
    }
    sp_secret_shrink(key, got);
    t->key = sp_steal(key);
    snprintf(t->protector_id, sizeof(t->protector_id), "%d", slot);
    return SP__PROOF_VERDICT__PROOF_VERDICT_OPENS;
}

/* All of them. What could not be tried outweighs what was wrong: the key may be for that one. */
static int try_slots(struct header *h, const int *slots, int count, bool other_digest,
                     const struct sp_secret *secret, struct header_try *t)
{
    struct sp_why kept = {0};
    Sp__ProofVerdict worst = SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY;
    for (int i = 0; i < count; i++) {
        Sp__ProofVerdict v = try_slot(h, slots[i], other_digest, secret, t);
        if (v == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS)
            return set_verdict(t, v);
        if (v == SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY)
            continue;
        worst = v;
        kept = t->why;
    }
    t->why = kept;
    if (worst == SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY && count == 1)
        sp_why_set(&t->why, 0, "the key does not open keyslot %d", slots[0]);
    else if (worst == SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY)
        sp_why_set(&t->why, 0, "the key opens none of the %d active keyslots", count);
    return set_verdict(t, worst);
}

/* The slot that the record is for; -1 when it is no number of a slot. */
static int slot_of_id(const char *id)
{
    if (!id[0] || strlen(id) > 2 || strspn(id, "0123456789") != strlen(id))
        return -1;
    int slot = id[0] - '0';
    return id[1] ? slot * 10 + (id[1] - '0') : slot;
}

static int try_passphrase(struct header *h, const struct sp_secret *secret,
                          const char *protector_id, struct header_try *t)
{
    int slots[MAX_SLOTS];
    int count = slots_to_try(h, slots);
    if (!count) {
        sp_why_set(&t->why, 0, "no keyslot of the header is active");
        return set_verdict(t, SP__PROOF_VERDICT__PROOF_VERDICT_NO_USABLE_PROTECTOR);
    }
    if (!protector_id[0])
        return try_slots(h, slots, count, false, secret, t);
    int slot = slot_of_id(protector_id);
    for (int i = 0; i < count; i++) {
        if (slots[i] == slot)
            return try_slots(h, &slot, 1, false, secret, t);
    }
    sp_why_set(&t->why, 0, "keyslot %s, which the key is for, is not active in this header",
               protector_id);
    return set_verdict(t, SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY);
}

/* The digest alone decides: an erased header no longer says how long its key is. */
static int try_volume_key(struct header *h, const struct sp_secret *secret, struct header_try *t)
{
    int r = crypt_volume_key_verify(h->cd, (const char *)sp_secret_data(secret),
                                    sp_secret_size(secret));
    if (r == -EPERM) {
        sp_why_set(&t->why, 0, "the volume key is not the one of this header");
        return set_verdict(t, SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY);
    }
    if (r < 0) {
        explain(t, r);
        return set_verdict(t, SP__PROOF_VERDICT__PROOF_VERDICT_ERROR);
    }
    t->key = sp_secret_copy(sp_secret_data(secret), sp_secret_size(secret));
    return t->key ? set_verdict(t, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS) : -errno;
}

static int end_unloaded(struct header_try *t, int error)
{
    explain(t, error);
    return set_verdict(t, error == -EBADMSG   ? SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED
                          : error == -ENOTSUP ? SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE
                                              : SP__PROOF_VERDICT__PROOF_VERDICT_ERROR);
}

int header_try(const struct volume_reader *reader, struct header *h, Sp__SecretType type,
               const struct sp_secret *secret, const char *protector_id, struct header_try *ret)
{
    *ret = (struct header_try){0};
    int r = header_load(reader, h, &ret->why);
    if (r < 0)
        return end_unloaded(ret, r);
    crypt_set_log_callback(h->cd, keep_log, &ret->why);
    r = type == SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY
            ? try_volume_key(h, secret, ret)
            : try_passphrase(h, secret, protector_id, ret);
    crypt_set_log_callback(h->cd, drop_log, NULL);
    return r;
}

/* ---- several volume keys ---- */

/* The numbers of a list of texts ("0", "12") as bits. */
static uint64_t bits_of(struct json_object *digest, const char *list, int most)
{
    struct json_object *numbers;
    uint64_t bits = 0;
    if (!json_object_object_get_ex(digest, list, &numbers) ||
        !json_object_is_type(numbers, json_type_array))
        return 0;
    for (size_t i = 0; i < json_object_array_length(numbers); i++) {
        int number = slot_of_id(json_object_get_string(json_object_array_get_idx(numbers, i)));
        if (number >= 0 && number < most)
            bits |= UINT64_C(1) << number;
    }
    return bits;
}

static size_t read_digests(struct json_object *root, struct header_digest out[HEADER_DIGESTS])
{
    struct json_object *digests;
    size_t count = 0;
    if (!json_object_object_get_ex(root, "digests", &digests) ||
        !json_object_is_type(digests, json_type_object))
        return 0;
    json_object_object_foreach(digests, id, digest)
    {
        int number = slot_of_id(id);
        if (number < 0 || count == HEADER_DIGESTS)
            continue;
        out[count++] =
            (struct header_digest){.number = (uint32_t)number,
                                   .segments = bits_of(digest, "segments", 64),
                                   .keyslots = (uint32_t)bits_of(digest, "keyslots", MAX_SLOTS)};
    }
    return count;
}

int header_digests(const struct volume_reader *reader, struct header *h,
                   struct header_digest digests[HEADER_DIGESTS], size_t *ret_count,
                   struct header_try *ret)
{
    *ret = (struct header_try){0};
    int r = header_load(reader, h, &ret->why);
    if (r < 0)
        return end_unloaded(ret, r);
    const char *text = NULL; /* libcryptsetup's */
    r = crypt_dump_json(h->cd, &text, 0);
    if (r < 0)
        return end_unloaded(ret, -EBADMSG);
    struct json_object *root = json_tokener_parse(text);
    if (!root)
        return -ENOMEM;
    *ret_count = read_digests(root, digests);
    json_object_put(root);
    return 0;
}

int header_try_digest(struct header *h, const struct header_digest *d,
                      const struct sp_secret *secret, struct header_try *ret)
{
    int slots[MAX_SLOTS], count = 0;
    *ret = (struct header_try){0};
    for (int slot = 0; slot < MAX_SLOTS; slot++) {
        crypt_keyslot_info s =
            d->keyslots >> slot & 1 ? crypt_keyslot_status(h->cd, slot) : CRYPT_SLOT_INACTIVE;
        if (s == CRYPT_SLOT_ACTIVE || s == CRYPT_SLOT_ACTIVE_LAST || s == CRYPT_SLOT_UNBOUND)
            slots[count++] = slot;
    }
    if (!count) {
        sp_why_set(&ret->why, 0, "no keyslot holds the key that part of the data is under");
        return set_verdict(ret, SP__PROOF_VERDICT__PROOF_VERDICT_NO_USABLE_PROTECTOR);
    }
    crypt_set_log_callback(h->cd, keep_log, &ret->why);
    int r = try_slots(h, slots, count, true, secret, ret);
    crypt_set_log_callback(h->cd, drop_log, NULL);
    return r;
}
