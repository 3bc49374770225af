/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Journals: what an unfinished backup rests on. FORMAT.md, "Journals". A point has an open journal
 * from the first writer on until vault_end_journal(). While it is open, packs that it wrote (their
 * footers say so) and packs that it names are not removed. */
#ifndef SEALPOINT_VAULT_JOURNAL_H
#define SEALPOINT_VAULT_JOURNAL_H

#include "controller/mover/vault/internal.h"

/* Adds a durable record that names `count` packs (0: the journal is open, no more). */
int journal_put(struct vault *, const char *point_id, const uint8_t (*packs)[PACK_ID_BYTES],
                size_t count, struct sp_why *why);
/* Adds a durable record that names the root of a disk map: all below it is relied on. */
int journal_put_root(struct vault *, const char *point_id, const uint8_t root[VAULT_ADDRESS_BYTES],
                     struct sp_why *why);

struct journal_record {
    bool damaged; /* then nothing may be removed */
    const uint8_t (*packs)[PACK_ID_BYTES];
    size_t pack_count;
    const uint8_t (*roots)[VAULT_ADDRESS_BYTES];
    size_t root_count;
};

/* Every record of every open journal. */
int journal_each(struct vault *,
                 int (*each)(void *arg, const char *point_id, const struct journal_record *),
                 void *arg);
/* Removes the journal of a point. */
int journal_remove(struct vault *, const char *point_id);

/* For the parser's tests: -EBADMSG. */
int journal_parse(const void *data, size_t size, struct journal_record *ret);

#endif
