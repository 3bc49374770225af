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
/* Every record of every open journal. `packs` is NULL for one that is damaged: then nothing may be
 * removed. */
int journal_each(struct vault *,
                 int (*each)(void *arg, const char *point_id, const uint8_t (*packs)[PACK_ID_BYTES],
                             size_t count),
                 void *arg);
/* Removes the journal of a point. */
int journal_remove(struct vault *, const char *point_id);

/* For the parser's tests: -EBADMSG. */
int journal_parse(const void *data, size_t size, const uint8_t (**ret_packs)[PACK_ID_BYTES],
                  size_t *ret_count);

#endif
