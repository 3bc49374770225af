/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * BitLocker (fve.h, bitlocker_key.h for its format and keys).
 *
 * What lies where: the first sectors of the payload (16, mostly) were moved to a place that the
 * metadata name, since the boot sector of BitLocker took theirs; each sector is encrypted under the
 * number of the place where it lies. That place and the three metadata blocks read as zeros.
 *
 * A secret is tried on the protectors of its own type, and on the one of the record's GUID alone
 * when it has one. A key in the clear is a protector too, but never speaks for a secret: it is
 * tried only when the job brings none. */
#include "controller/keeper/prover/bitlocker_key.h"

#include "base/cleanup.h"
#include "controller/keeper/prover/header.h"
#include "controller/keeper/prover/proof.h"
#include <stdlib.h>
#include <string.h>

enum { CLEAR_KEY = 0, STARTUP_KEY = 0x0200, RECOVERY_PASSWORD = 0x0800, PASSWORD = 0x2000 };
enum { METADATA_BYTES = 64 << 10, TRIES_MOST = 16 };

/* What one volume's proof works with. */
struct bitlocker {
    struct proof *p;
    const Sp__HeaderFacts *facts;
    struct fve fve;
    /* from the secret; NULL where its type has none */
    struct sp_secret *hash;     /* to be stretched */
    struct sp_secret *external; /* of a startup key */
    char external_guid[37];
    uint16_t code; /* of the protectors that it can be for */
    const char *word;
    /* from a protector */
    char guid[37];
    unsigned tried;
};

static void bitlocker_close(struct bitlocker *b)
{
    fve_close(&b->fve);
    sp_secret_free(b->hash);
    sp_secret_free(b->external);
}

/* ---- the secret ---- */

static int end_wrong(struct bitlocker *b, const char *text)
{
    int r = proof_end(b->p, SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY, "%s", text);
    return r < 0 ? r : -EKEYREJECTED;
}

static int take_recovery(struct bitlocker *b)
{
    SP_SECRET struct sp_secret *bytes = NULL;
    struct sp_why why = {0};
    b->code = RECOVERY_PASSWORD;
    b->word = "recovery password";
    int r = bitlocker_recovery_password(b->p->secret, &bytes, &why);
    if (r == -EINVAL)
        return end_wrong(b, why.text);
    return r < 0 ? r : bitlocker_hash_recovery(bytes, &b->hash);
}

static int take_password(struct bitlocker *b)
{
    b->code = PASSWORD;
    b->word = "password";
    int r = bitlocker_hash_password(b->p->secret, &b->hash);
    return r == -EILSEQ ? end_wrong(b, "the password is not UTF-8, or empty") : r;
}

static int take_startup_key(struct bitlocker *b)
{
    b->code = STARTUP_KEY;
    b->word = "startup key";
    int r = bitlocker_startup_key(b->p->secret, b->external_guid, &b->external);
    return r == -EBADMSG ? end_wrong(b, "the file is no startup key (.BEK) of BitLocker") : r;
}

/* 0; -EKEYREJECTED: the finding is made, no key can come of it. */
static int take_secret(struct bitlocker *b)
{
    if (!b->p->secret) {
        b->code = CLEAR_KEY;
        b->word = "clear key";
        return 0;
    }
    switch (b->p->ask->secret_type) {
    case SP__SECRET_TYPE__SECRET_TYPE_RECOVERY_PASSWORD:
        return take_recovery(b);
    case SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE:
        return take_password(b);
    case SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY:
    case SP__SECRET_TYPE__SECRET_TYPE_KEY_FILE:
        return take_startup_key(b);
    default:
        b->word = "secret";
        return end_wrong(b, "a secret of this type opens no BitLocker volume");
    }
}

/* ---- protectors ---- */

static int key_in_clear(struct fve_list entries, struct sp_secret **ret)
{
    struct fve_entry e;
    while (fve_next(&entries, &e)) {
        if (e.value == FVE_VALUE_KEY && e.size == 4 + 32) {
            *ret = sp_secret_copy(e.data + 4, 32);
            return *ret ? 0 : -errno;
        }
    }
    return -EBADMSG;
}

static int stretched(const struct bitlocker *b, struct fve_list entries, struct sp_secret **ret)
{
    struct fve_entry e;
    while (fve_next(&entries, &e)) {
        if (e.value == FVE_VALUE_STRETCH && e.size >= 20)
            return bitlocker_stretch(b->hash, e.data + 4, ret);
    }
    return -EBADMSG;
}

/* The VMK behind one protector. 0; -EPERM: wrong key; -EBADMSG: the protector is not whole. */
static int open_protector(const struct bitlocker *b, const struct fve_protector *v,
                          struct sp_secret **ret)
{
    SP_SECRET struct sp_secret *made = NULL;
    const struct sp_secret *key = b->external;
    int r = 0;
    if (b->code == CLEAR_KEY)
        r = key_in_clear(v->entries, &made);
    else if (b->hash)
        r = stretched(b, v->entries, &made);
    if (r < 0)
        return r;
    if (made)
        key = made;
    struct fve_list l = v->entries;
    struct fve_entry e;
    r = -EBADMSG;
    while (r != 0 && r != -ENOMEM && fve_next(&l, &e)) {
        if (e.value == FVE_VALUE_WRAPPED)
            r = bitlocker_unwrap(&e, key, ret);
    }
    return r;
}

/* Is it to be tried? The record's GUID decides, a startup key's own one too. */
static bool is_meant(const struct bitlocker *b, const struct fve_protector *v)
{
    const char *id = b->p->ask->protector_id;
    return v->code == b->code && (!id[0] || strcasecmp(id, v->guid) == 0) &&
           (!b->external || strcmp(b->external_guid, v->guid) == 0);
}

static int open_vmk(struct bitlocker *b, struct sp_secret **ret)
{
    struct fve_list l = b->fve.entries;
    struct fve_protector v;
    int found = -ENOENT;
    while (fve_next_protector(&l, &v)) {
        if (!is_meant(b, &v) || b->tried == TRIES_MOST)
            continue;
        b->tried++;
        int r = open_protector(b, &v, ret);
        if (r == 0) {
            memcpy(b->guid, v.guid, sizeof(b->guid));
            return 0;
        }
        if (r != -EPERM && r != -EBADMSG)
            return r;
        /* Wrong stands before broken: the key did not fit what is whole. */
        if (found != -EPERM)
            found = r;
    }
    return found;
}

/* ---- FVEK ---- */

static bool is_elephant(const Sp__HeaderFacts *f)
{
    return strcmp(f->cipher, "aes-cbc-elephant") == 0;
}

/* Of the 64 bytes for the diffuser each half holds a key of its own; else the key comes first. */
static int take_fvek(const struct bitlocker *b, const struct sp_secret *raw, struct sp_secret **ret)
{
    size_t size = b->facts->key_bits / 8, half = 32;
    bool xts = strncmp(b->facts->cipher, "aes-xts", 7) == 0;
    size_t whole = xts || is_elephant(b->facts) ? 2 * size : size;
    size_t need = is_elephant(b->facts) ? half + size : whole;
    if (!whole || need > sp_secret_size(raw))
        return -EBADMSG;
    struct sp_secret *key = sp_secret_copy(sp_secret_data(raw), whole);
    if (!key)
        return -errno;
    if (is_elephant(b->facts))
        memcpy(sp_secret_data(key) + size, sp_secret_data(raw) + half, size);
    *ret = key;
    return 0;
}

static int open_fvek(const struct bitlocker *b, const struct sp_secret *vmk, struct sp_secret **ret)
{
    struct fve_list l = b->fve.entries;
    struct fve_entry e;
    int r = -EBADMSG;
    while (r != 0 && fve_next(&l, &e)) {
        if (e.type != FVE_TYPE_FVEK || e.value != FVE_VALUE_WRAPPED)
            continue;
        SP_SECRET struct sp_secret *raw = NULL;
        r = bitlocker_unwrap(&e, vmk, &raw);
        if (r == 0)
            r = take_fvek(b, raw, ret);
    }
    return r;
}

/* ---- the payload ---- */

struct range {
    uint64_t at, end;
};

static int compare_ranges(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

struct layout {
    struct payload_piece pieces[PAYLOAD_MAX_PIECES];
    size_t count;
    uint64_t at;
};

static void add_piece(struct layout *l, struct payload_piece piece)
{
    piece.iv_sector = piece.on_bytes / 512;
    l->pieces[l->count++] = piece;
    l->at += piece.length_bytes;
}

/* From where it stands up to `end`, each byte at its own place. What a conversion has not reached
 * is not encrypted. */
static void add_up_to(struct layout *l, const struct payload_piece *like, uint64_t end,
                      uint64_t encrypted_bytes)
{
    struct payload_piece piece = *like;
    if (l->at < end && l->at < encrypted_bytes) {
        piece.on_bytes = l->at;
        piece.length_bytes = (end < encrypted_bytes ? end : encrypted_bytes) - l->at;
        add_piece(l, piece);
    }
    if (l->at < end)
        add_piece(l, (struct payload_piece){.on_bytes = l->at,
                                            .length_bytes = end - l->at,
                                            .sector_bytes = like->sector_bytes});
}

static void lay_out(const struct fve *f, struct sector_cipher *cipher, uint32_t sector_bytes,
                    uint64_t encrypted_bytes, uint64_t size, struct layout *l)
{
    struct range holes[4] = {{f->first_offset, f->first_offset + f->first_size}};
    for (size_t i = 0; i < 3; i++)
        holes[i + 1] = (struct range){f->blocks[i], f->blocks[i] + METADATA_BYTES};
    qsort(holes, SP_COUNT(holes), sizeof(holes[0]), compare_ranges);
    struct payload_piece piece = {.cipher = cipher,
                                  .sector_bytes = sector_bytes,
                                  .on_bytes = f->first_offset,
                                  .length_bytes = f->first_size};
    add_piece(l, piece);
    for (size_t i = 0; i < SP_COUNT(holes); i++) {
        add_up_to(l, &piece, holes[i].at, encrypted_bytes);
        if (holes[i].end > l->at)
            add_piece(l, (struct payload_piece){.length_bytes = holes[i].end - l->at,
                                                .sector_bytes = sector_bytes,
                                                .hidden = true});
    }
    add_up_to(l, &piece, size, encrypted_bytes);
}

/* While a volume is encrypted "on write" only a map tells which sectors are; it is not read here.
 * Else a conversion goes from front to end (or back), and the metadata say how far it is. */
static bool is_on_write(const Sp__HeaderFacts *f)
{
    return strcmp(f->state, "encrypt-on-write") == 0;
}

static int end_converting(struct bitlocker *b)
{
    return proof_end(b->p, SP__PROOF_VERDICT__PROOF_VERDICT_NOT_RECOGNISED,
                     "the key opens the header; encryption or decryption is under way, and what "
                     "decrypts is not recognised yet: prove again when it has ended "
                     "(manage-bde -status)");
}

static int look_inside(struct bitlocker *b, const struct sp_secret *fvek)
{
    struct proof *p = b->p;
    struct sp_why why = {0};
    struct layout l = {.count = 0};
    struct sector_cipher *cipher = NULL;
    uint32_t sector_bytes = b->facts->sector_bytes ? b->facts->sector_bytes : 512;
    struct cipher_parameters parameters = {
        .name = b->facts->cipher, .sector_bytes = sector_bytes, .iv_large_sectors = true};
    uint64_t size = snapshot_reader(p->snapshot).size_bytes;
    bool moves = b->facts->conversion_in_progress;
    uint64_t encrypted = moves && !is_on_write(b->facts) ? b->fve.encrypted_bytes : size;
    encrypted -= encrypted % sector_bytes;
    int r = sector_cipher_new(&parameters, fvek, &cipher, &why);
    if (r == 0) {
        lay_out(&b->fve, cipher, sector_bytes, encrypted, size, &l);
        r = proof_payload(p, l.pieces, l.count, b->facts->cipher, &why);
    }
    sector_cipher_free(cipher);
    if (r == 0 && moves)
        return end_converting(b);
    return proof_end_opened(p, r, &why);
}

/* ---- all of it ---- */

static int prove_carried(struct bitlocker *b)
{
    b->p->finding->level = SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_HEADER;
    int r = proof_method(b->p, "header proved before, volume key kept");
    return r < 0 ? r : look_inside(b, b->p->secret);
}

/* Can anything that escrow holds open it at all? */
static bool has_escrowable(const struct fve *f)
{
    struct fve_list l = f->entries;
    struct fve_protector v;
    while (fve_next_protector(&l, &v)) {
        if (v.code == STARTUP_KEY || v.code == RECOVERY_PASSWORD || v.code == PASSWORD)
            return true;
    }
    return false;
}

static int end_unopened(struct bitlocker *b, int error)
{
    struct proof *p = b->p;
    if (error == -EPERM && b->tried == 1)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY,
                         "the %s does not open its protector", b->word);
    if (error == -EPERM)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY,
                         "the %s opens none of %u protectors", b->word, b->tried);
    if (error == -EBADMSG)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED,
                         "the protector for a %s is not whole", b->word);
    if (error != -ENOENT)
        return error;
    if (!has_escrowable(&b->fve))
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_NO_USABLE_PROTECTOR,
                         "the volume has no recovery password, password or startup key that "
                         "escrow could hold: add one (manage-bde -protectors -add)");
    if (b->code == CLEAR_KEY)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_NO_USABLE_PROTECTOR,
                         "no key lies in the clear in the volume's metadata");
    return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY,
                     "the volume has no %s%s%s (protectors are matched by type and GUID)", b->word,
                     p->ask->protector_id[0] ? " protector " : " protector", p->ask->protector_id);
}

/* A VMK in escrow proves itself, for it unwraps the FVEK; a bare FVEK has nothing that vouches. */
static int take_vmk(struct bitlocker *b, struct sp_secret **ret)
{
    b->word = "volume master key";
    *ret = sp_secret_copy(sp_secret_data(b->p->secret), sp_secret_size(b->p->secret));
    return *ret ? 0 : -errno;
}

static int end_unwrapped(struct bitlocker *b, int error)
{
    bool is_vmk = b->p->ask->secret_type == SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY && b->p->secret;
    if (is_vmk && (error == -EPERM || error == -EBADMSG))
        return proof_end(b->p, SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE,
                         "the key is not this volume's master key (VMK), and nothing in BitLocker "
                         "vouches for a bare FVEK: put the recovery password into escrow");
    if (error == -EPERM || error == -EBADMSG)
        return proof_end(b->p, SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED,
                         "the %s opens its protector, but the volume's own key (FVEK) behind it "
                         "is damaged",
                         b->word);
    return error;
}

static int prove_new(struct bitlocker *b)
{
    struct proof *p = b->p;
    SP_SECRET struct sp_secret *vmk = NULL, *fvek = NULL;
    bool raw = p->secret && p->ask->secret_type == SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY;
    int r = raw ? take_vmk(b, &vmk) : take_secret(b);
    if (r == 0 && !raw)
        r = open_vmk(b, &vmk);
    int e = proof_method(p, "own code, OpenSSL 3, %s%s%s", b->word, b->guid[0] ? " " : "", b->guid);
    if (e < 0)
        return e;
    if (r == -EKEYREJECTED)
        return 0;
    if (r < 0)
        return end_unopened(b, r);
    r = open_fvek(b, vmk, &fvek);
    if (r < 0)
        return end_unwrapped(b, r);
    r = proof_opened(p, b->guid, &fvek);
    return r < 0 ? r : look_inside(b, p->volume_key);
}

static int prove_header(struct bitlocker *b, const struct volume_reader *reader, struct header *h,
                        struct sp_why *why)
{
    struct proof *p = b->p;
    int r = header_find(reader, h);
    if (r < 0)
        return sp_why_set(why, r, "the header could not be read");
    if (r == 0)
        return proof_end(p, SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED,
                         "there is no BitLocker volume where it began");
    bool good;
    r = proof_check_header(p, h->format, h->facts, &good);
    if (r < 0 || !good)
        return r;
    b->facts = h->facts;
    struct sp_why damage = {0};
    r = fve_open(reader, h->facts, &b->fve, &damage);
    if (r == -EBADMSG || r == -ENOTSUP)
        return proof_end(p,
                         r == -EBADMSG ? SP__PROOF_VERDICT__PROOF_VERDICT_HEADER_DAMAGED
                                       : SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE,
                         "%s", damage.text);
    if (r < 0)
        return r;
    return p->ask->header_opened_before ? prove_carried(b) : prove_new(b);
}

static int prove(struct proof *p, struct sp_why *why)
{
    if (p->ask->header && p->ask->header->bytes.len)
        return sp_why_set(why, -EINVAL, "BitLocker has no detached headers");
    if (p->ask->header_opened_before && !p->secret)
        return sp_why_set(why, -EINVAL, "a kept key is missing");
    struct volume_reader reader = snapshot_reader(p->snapshot);
    struct bitlocker b = {.p = p};
    struct header h;
    int r = prove_header(&b, &reader, &h, why);
    header_close(&h);
    bitlocker_close(&b);
    return r;
}

const struct proof_kind proof_bitlocker = {SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER, prove};
