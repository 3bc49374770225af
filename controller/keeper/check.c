/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The keystore against itself: file, journal, audit, wraps, every record, every pin. */
#include "controller/keeper/audit.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include "controller/keeper/records.h"
#include "controller/keeper/wrap.h"
#include <string.h>

static int add_problem(Sp__CheckKeystoreResponse *c, const char *text)
{
    char *copy = strdup(text);
    if (!copy || MESSAGE_ROOM(c->problems, c->n_problems) < 0) {
        free(copy);
        return -ENOMEM;
    }
    c->problems[c->n_problems++] = copy;
    return 0;
}

/* One line for each row of a query whose first column is an id. */
static int add_rows(struct keeper *k, Sp__CheckKeystoreResponse *c, const char *sql,
                    const char *what)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt, sql, "");
    while (r == 0 && (r = store_step(stmt)) == 1) {
        char text[300];
        snprintf(text, sizeof(text), "%s %.60s", what, store_text(stmt, 0));
        r = add_problem(c, text);
    }
    return r;
}

static int check_links(struct keeper *k, Sp__CheckKeystoreResponse *c)
{
    int r = add_rows(k, c,
                     "SELECT record_id FROM pins WHERE record_id NOT IN (SELECT record_id FROM "
                     "records) LIMIT 100",
                     "a point pins a record that is gone:");
    if (r == 0)
        r = add_rows(k, c,
                     "SELECT dek_id FROM wraps GROUP BY dek_id HAVING count(*)<>(SELECT count(*) "
                     "FROM keks) LIMIT 100",
                     "a key is not wrapped for every KEK:");
    return r;
}

/* Secrets that are no records, and what binds each to its place. */
static const struct {
    const char *what, *sql, *label; /* label NULL: the id alone */
} others[] = {
    {"the keeper's own secret", "SELECT name, dek_id, nonce, ciphertext FROM core",
     "sealpoint core 1"},
    {"the key of vault", "SELECT vault_id, dek_id, nonce, ciphertext FROM vault_keys",
     "sealpoint vault key 1"},
    {"token", "SELECT token_id, dek_id, nonce, ciphertext FROM tokens", "sealpoint token 1"},
    {"the volume key", "SELECT carry_id, dek_id, nonce, ciphertext FROM carry", NULL},
};

static int open_row(struct keeper *k, sqlite3_stmt *stmt, const char *label)
{
    SP_SECRET struct sp_secret *secret = NULL;
    SP_BUFFER struct sp_buffer aad = {0};
    const char *id = store_text(stmt, 0);
    int r = label ? aead_bind(&aad, label, id, NULL) : sp_buffer_append(&aad, id, strlen(id));
    return r < 0 ? r
                 : wrap_open(k, store_text(stmt, 1), store_blob(stmt, 2), sp_bytes_of(&aad),
                             store_blob(stmt, 3), &secret);
}

static int check_table(struct keeper *k, Sp__CheckKeystoreResponse *c, size_t index)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt, others[index].sql, "");
    while (r == 0 && (r = store_step(stmt)) == 1) {
        char text[200];
        int e = open_row(k, stmt, others[index].label);
        snprintf(text, sizeof(text), "%s %.80s does not open: %s", others[index].what,
                 store_text(stmt, 0), strerror(-e));
        c->secrets++;
        r = e < 0 ? add_problem(c, text) : 0;
    }
    return r;
}

static int check_others(struct keeper *k, Sp__CheckKeystoreResponse *c)
{
    int r = k->locked ? add_problem(c, "the keeper is locked: no secret could be opened") : 0;
    for (size_t i = 0; i < SP_COUNT(others) && r == 0 && !k->locked; i++)
        r = check_table(k, c, i);
    return r;
}

static int count_pins(struct keeper *k, uint32_t *ret)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    int r = store_query(k->store, &stmt, "SELECT count(*) FROM pins", "");
    if (r == 0)
        r = store_step(stmt);
    if (r == 1)
        *ret = (uint32_t)store_int(stmt, 0);
    return r < 0 ? r : 0;
}

int keeper_check(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                 Sp__KeeperResponse *out, struct sp_why *why)
{
    static int (*const checks[])(struct keeper *, struct sp_why *) = {journal_verify, audit_verify};
    struct sp_why found = {""};
    (void)request, (void)fd, (void)why;

    Sp__CheckKeystoreResponse *c =
        MESSAGE_NEW(Sp__CheckKeystoreResponse, sp__check_keystore_response__init);
    if (!c)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_CHECK;
    out->check = c;
    int r = store_integrity(k->store, &found) < 0 ? add_problem(c, found.text) : 0;
    for (size_t i = 0; i < SP_COUNT(checks) && r == 0; i++) {
        int e = checks[i](k, &found);
        if (e < 0)
            r = add_problem(c, found.text[0] ? found.text : strerror(-e));
    }
    if (r == 0 && records_verify(k, &c->records, &found) < 0)
        r = add_problem(c, found.text);
    c->secrets = k->locked ? 0 : c->records;
    if (r == 0)
        r = check_others(k, c);
    if (r == 0)
        r = count_pins(k, &c->pins);
    return r < 0 ? r : check_links(k, c);
}
