/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Inside the catalog: SQL with typed arguments, so that no statement is ever put together from
 * text.
 *
 * `types` has one letter for each parameter: t text (const char *), n number (uint64_t), b bytes
 * (struct sp_bytes), m message (const ProtobufCMessage *, packed). Every call needs the catalog's
 * lock (sql_lock), which is recursive. */
#ifndef SEALPOINT_CATALOG_SQL_H
#define SEALPOINT_CATALOG_SQL_H

#include "base/bytes.h"
#include "controller/catalog/catalog.h"
#include "controller/message.h"
#include <sqlite3.h>

void sql_lock(struct catalog *);
void sql_unlock(struct catalog *);
sqlite3 *sql_handle(struct catalog *);

/* Runs a statement to its end. */
int sql_run(struct catalog *, const char *sql, const char *types, ...);
/* Runs a query; `row` for each row, a negative return ends it and is returned. 1 from `row`:
 * enough. */
int sql_each(struct catalog *, int (*row)(void *arg, sqlite3_stmt *), void *arg, const char *sql,
             const char *types, ...);
/* Transactions nest: only the outermost begins and commits; any failure rolls all of it back. */
int sql_begin(struct catalog *);
/* Commits when result >= 0, else rolls back; returns result, or why the commit failed. */
int sql_end(struct catalog *, int result);

/* Columns. */
const char *sql_text(sqlite3_stmt *, int column);
uint64_t sql_number(sqlite3_stmt *, int column);
struct sp_bytes sql_bytes(sqlite3_stmt *, int column);
/* A packed message; NULL with *error set (-EUCLEAN: does not unpack, -ENOENT: NULL in the table).
 */
void *sql_message(sqlite3_stmt *, int column, const ProtobufCMessageDescriptor *, int *error);

#endif
