/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which packs, and which chunks in them, somebody needs. sweep.c says how it is used safely. One
 * thread. */
#ifndef SEALPOINT_VAULT_MARK_H
#define SEALPOINT_VAULT_MARK_H

#include "controller/mover/vault/internal.h"

enum { MARK_BY_MANIFEST = 1, MARK_BY_JOURNAL = 2 };

struct mark_pack {
    uint8_t needed;        /* MARK_BY_… */
    uint32_t live_count;   /* bits set in live */
    uint64_t unique_bytes; /* stored, of live chunks that were found here first */
    uint8_t *live;         /* a bit for each entry; NULL: none, or bits were not asked for */
};

struct mark {
    struct vault *vault;
    struct vault_coder *coder;
    struct vault_set seen;  /* nodes and roots visited */
    struct vault_set names; /* SHA-256 of names of manifests visited */
    struct mark_pack *packs;
    uint32_t count;
    bool with_bits;
    bool journals; /* what is marked now is marked for a journal */
    bool damaged_journal;
};

/* Free with mark_free() also after a failure. */
int mark_new(struct vault *, bool with_bits, struct mark *ret);
void mark_free(struct mark *);
/* Marks what manifests need that were not there before. Damage: nothing may be removed then. */
int mark_manifests(struct mark *, struct sp_why *why);
/* Marks what open journals need. -EBADMSG: one is damaged, nothing may be removed. */
int mark_journals(struct mark *, struct sp_why *why);
static inline uint8_t mark_needed(const struct mark *m, uint32_t pack)
{
    return pack < m->count ? m->packs[pack].needed : 0;
}

#endif
