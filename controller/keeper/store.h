/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The keystore's file: SQLite, WAL, synchronous=FULL, so that what a committed transaction wrote is
 * durable. Only this file and its callers in the keeper know SQL. One thread at a time: the
 * keeper's lock.
 *
 * Each secret under its own DEK, the DEK wrapped for every KEK in `wraps`:
 *
 *   core        the keeper's own: CA key, sealing key, box key, MAC key
 *   records     generations of guests' keys; never overwritten
 *   tokens      enrolment tokens
 *   vault_keys  keys of clear chunks, one a vault
 *   carry       volume keys of headers that a record opened before
 *
 * Without secrets:
 *
 *   states, destructions   what each record went through, and which are to be destroyed
 *   keks, wraps, meta, controllers, users, machines, pins, seals
 *   journal     signed, hash-chained: every change of the tables above but wraps, carry and seals
 *   audit       hash-chained: who asked for what, and what came of it */
#ifndef SEALPOINT_KEEPER_STORE_H
#define SEALPOINT_KEEPER_STORE_H

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/why.h"
#include <sqlite3.h>
#include <stdint.h>

struct store;

/* Makes the file (mode 0600) and its schema when missing. -EUCLEAN: it is no keystore or is
 * damaged; -EPROTONOSUPPORT: made by a newer program. */
int store_open(const char *path, struct store **ret, struct sp_why *why);
void store_close(struct store *);

int store_begin(struct store *);
/* Commits when r is 0 or more, else rolls back. Returns r, or the commit's error. */
int store_end(struct store *, int r);

/* A prepared statement with its values bound. `types` has a letter for each: 's' const char *, 'i'
 * int64_t, 'b' const void * and size_t. 0 or a negative errno. */
int store_query(struct store *, sqlite3_stmt **ret, const char *sql, const char *types, ...);
/* 1: a row is there; 0: no more; negative errno (-ENOSPC, -EIO, -EUCLEAN, -EEXIST, …). */
int store_step(sqlite3_stmt *);
/* A statement without rows. */
int store_run(struct store *, const char *sql, const char *types, ...);

/* "" for NULL; valid until the next step. */
const char *store_text(sqlite3_stmt *, int column);
struct sp_bytes store_blob(sqlite3_stmt *, int column);
static inline int64_t store_int(sqlite3_stmt *s, int column)
{
    return sqlite3_column_int64(s, column);
}

/* The newest number and hash of a hash chain, which `sql` selects; 0 and zeros: it is empty.
 * -EUCLEAN: the hash is none. */
int store_chain_head(struct store *, const char *sql, uint64_t *ret_number, uint8_t ret_hash[32]);

/* A copy of the database as it is committed now, changed by `sql` and packed tight: the bytes of
 * its file, to sqlite3_free(). */
int store_copy(struct store *, const char *sql, uint8_t **ret, size_t *ret_size);
/* Folds the write-ahead log into the file and empties it: what was removed before is then in
 * neither (secure_delete). Outside a transaction. -EBUSY: somebody reads the file. */
int store_forget(struct store *);
/* SQLite's own check; problems as a text in why. 0 or -EUCLEAN. */
int store_integrity(struct store *, struct sp_why *why);

SP_DEFINE_CLEANUP(stmt, sqlite3_stmt *, sqlite3_finalize)
#define SP_STMT SP_CLEANUP(stmt)

#endif
