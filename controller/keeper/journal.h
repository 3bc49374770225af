/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The signed history of the keystore. Each change of a followed row is an entry:
 *
 *   hash      = SHA-256(previous ‖ le64 epoch ‖ le64 at_ms ‖ le32 len ‖ table ‖ le32 len ‖ key
 *               ‖ digest)
 *   digest    = SHA-256 over the row's columns (or rows, where several share the key); zeroes: gone
 *   signature = by the sealing key over hash
 *
 * Old entries that newer ones for the same key have made idle are dropped from the front now and
 * then (journal_compact). Epochs only grow; which of them follow each other is said by `previous`.
 * That loses history and no proof: a row whose newest entry is missing does not hold, whoever
 * removed it.
 *
 * The newest epoch stands for the whole keystore: manifests name it. A row that does not match its
 * newest entry, or an entry whose row is gone, is tampering or a damaged file. */
#ifndef SEALPOINT_KEEPER_JOURNAL_H
#define SEALPOINT_KEEPER_JOURNAL_H

#include "base/why.h"
#include <stdint.h>

struct keeper;

/* Adds the entry for what `table` holds under `key` now. In the transaction of the change. */
int journal_note(struct keeper *, const char *table, const char *key);
/* The next entries have epochs behind `epoch`: those up to it were used by a keystore that is lost.
 */
void journal_skip(struct keeper *, uint64_t epoch);
/* 0 on an empty journal. */
uint64_t journal_epoch(struct keeper *);
/* The newest epoch that changed one of two tables. */
uint64_t journal_epoch_of(struct keeper *, const char *table, const char *other);
/* Writes an entry for every row there is and drops all before them, when most of the journal is
 * idle. `least`: not below this many entries. */
int journal_compact(struct keeper *, uint64_t least);
/* Chain, newest signature and every followed row. 0, or -EUCLEAN with what does not hold in why. */
int journal_verify(struct keeper *, struct sp_why *why);

#endif
