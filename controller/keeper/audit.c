/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/audit.h"

#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include <stdarg.h>
#include <string.h>

enum { AUDIT_PAGE = 500 };

MESSAGE_CLEANUP(entry, Sp__AuditEntry, sp__audit_entry__free_unpacked)

static int read_head(struct keeper *k, uint64_t *ret_number, uint8_t ret_hash[32])
{
    return store_chain_head(k->store, "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1",
                            ret_number, ret_hash);
}

static int hash_packed(const uint8_t previous[32], struct sp_bytes packed, uint8_t out[32])
{
    struct sp_bytes parts[] = {{previous, 32}, packed};
    return sp_sha256(parts, SP_COUNT(parts), out);
}

/* Texts come from outside in part: nothing in them may look like another entry or a terminal's
 * command, and protobuf wants UTF-8. */
static void tidy(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++)
        if (*c < 0x20 || *c >= 0x7f)
            *c = '?';
}

static int append(struct keeper *k, Sp__AuditEntry *e)
{
    SP_FREE uint8_t *packed = NULL;
    uint8_t previous[32], hash[32];
    uint64_t number = 0;
    size_t size = 0;

    int r = read_head(k, &number, previous);
    if (r < 0)
        return r;
    e->number = number + 1;
    e->previous = (ProtobufCBinaryData){sizeof(previous), previous};
    r = sp_pack(&e->base, &packed, &size);
    if (r == 0)
        r = hash_packed(previous, (struct sp_bytes){packed, size}, hash);
    if (r == 0)
        r = store_run(k->store, "INSERT INTO audit VALUES(?,?,?)", "ibb", (int64_t)e->number,
                      packed, size, hash, sizeof(hash));
    return r;
}

int audit_write(struct keeper *k, const char *who, const char *what, const char *about,
                const char *format, ...)
{
    char who_text[320], about_text[320], text[800];
    Sp__AuditEntry e = SP__AUDIT_ENTRY__INIT;
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    snprintf(who_text, sizeof(who_text), "%s", who);
    snprintf(about_text, sizeof(about_text), "%s", about ? about : "");
    tidy(who_text);
    tidy(about_text);
    tidy(text);
    e.log = (char *)(uintptr_t) "keeper";
    e.at_unix_ms = keeper_now_ms(k);
    e.who = who_text;
    e.what = (char *)(uintptr_t)what;
    e.about = about_text;
    e.text = text;
    return append(k, &e);
}

int audit_head(struct keeper *k, uint8_t out[32])
{
    uint64_t number;
    return read_head(k, &number, out);
}

bool audit_knows(struct keeper *k, const void *hash, size_t size)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    return size == 32 &&
           store_query(k->store, &stmt, "SELECT 1 FROM audit WHERE hash=?", "b", hash, size) == 0 &&
           store_step(stmt) == 1;
}

/* One row against the one before it. Fills *ret when the entry can be read. */
static bool row_holds(sqlite3_stmt *stmt, uint64_t number, const uint8_t *previous,
                      Sp__AuditEntry **ret)
{
    struct sp_bytes packed = store_blob(stmt, 1), hash = store_blob(stmt, 2);
    uint8_t computed[32];

    *ret = sp__audit_entry__unpack(NULL, packed.size, packed.data);
    return *ret && hash.size == 32 && (uint64_t)store_int(stmt, 0) == number &&
           (*ret)->number == number && (*ret)->previous.len == 32 &&
           (!previous || memcmp((*ret)->previous.data, previous, 32) == 0) &&
           hash_packed((*ret)->previous.data, packed, computed) == 0 &&
           memcmp(computed, hash.data, 32) == 0;
}

/* Number of the first entry that there is to be. */
static uint64_t read_base(struct keeper *k)
{
    SP_BUFFER struct sp_buffer value = {0};
    return meta_get(k, "audit_base", &value) == 0 && value.size == 8 ? sp_le64(value.data) : 1;
}

int audit_set_base(struct keeper *k)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    uint8_t value[8];
    int r = store_query(k->store, &stmt, "SELECT min(number) FROM audit", "");
    if (r == 0)
        r = store_step(stmt);
    if (r < 0)
        return r;
    sp_put_le64(value, (uint64_t)store_int(stmt, 0));
    return meta_set(k, "audit_base", (struct sp_bytes){value, sizeof(value)});
}

int audit_verify(struct keeper *k, struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    uint8_t previous[32] = {0};
    uint64_t base = read_base(k), number = base;

    int r = store_query(k->store, &stmt, "SELECT * FROM audit ORDER BY number", "");
    while (r == 0 && (r = store_step(stmt)) == 1) {
        SP_CLEANUP(entry) Sp__AuditEntry *e = NULL;
        /* What lay before the first entry of a restored log is not here to be compared. */
        if (!row_holds(stmt, number, number == base && base > 1 ? NULL : previous, &e))
            return sp_why_set(why, -EUCLEAN, "the keeper's audit does not hold at entry %llu",
                              (unsigned long long)number);
        memcpy(previous, store_blob(stmt, 2).data, 32);
        number++;
        r = 0;
    }
    return r;
}

/* ---- the call ---- */

static int add_entry(Sp__AuditPage *page, sqlite3_stmt *stmt, uint64_t number,
                     const uint8_t *previous, bool verify)
{
    SP_CLEANUP(entry) Sp__AuditEntry *e = NULL;
    bool holds = row_holds(stmt, number, previous, &e);
    struct sp_bytes hash = store_blob(stmt, 2);

    if (!e && !(e = MESSAGE_NEW(Sp__AuditEntry, sp__audit_entry__init)))
        return -ENOMEM;
    e->number = (uint64_t)store_int(stmt, 0);
    e->broken = verify && !holds;
    free(e->hash.data);
    int r = message_bytes(&e->hash, hash.data, hash.size);
    if (r == 0)
        r = MESSAGE_ROOM(page->entries, page->n_entries);
    if (r == 0)
        page->entries[page->n_entries++] = sp_steal(e);
    return r;
}

int keeper_audit(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                 Sp__KeeperResponse *out, struct sp_why *why)
{
    const Sp__KeeperAuditRequest *ask = request->audit;
    SP_STMT sqlite3_stmt *stmt = NULL;
    uint8_t previous[32] = {0};
    (void)fd, (void)why;

    Sp__AuditPage *page = MESSAGE_NEW(Sp__AuditPage, sp__audit_page__init);
    if (!page)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_AUDIT;
    out->audit = page;
    uint64_t base = read_base(k);
    uint64_t from = ask->from_number > base ? ask->from_number : base, expected = from;
    if (from > INT64_MAX)
        return -EINVAL;
    /* One more than asked for before them, to compare the first one with. */
    int r =
        store_query(k->store, &stmt, "SELECT * FROM audit WHERE number>=? ORDER BY number LIMIT ?",
                    "ii", (int64_t)(from - 1), (int64_t)AUDIT_PAGE + 2);
    while (r == 0 && (r = store_step(stmt)) == 1) {
        r = 0;
        uint64_t number = (uint64_t)store_int(stmt, 0);
        if (page->n_entries == AUDIT_PAGE) {
            page->more = true;
            return 0;
        }
        if (number >= from)
            r = add_entry(page, stmt, expected, number == base && base > 1 ? NULL : previous,
                          ask->verify);
        expected = number + 1; /* one that is missing breaks the chain once, not to the end */
        struct sp_bytes hash = store_blob(stmt, 2);
        if (hash.size == 32)
            memcpy(previous, hash.data, 32);
    }
    return r;
}

int keeper_audit_note(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                      Sp__KeeperResponse *out, struct sp_why *why)
{
    const Sp__AuditNote *note = request->audit_note;
    char what[80];
    (void)fd, (void)why;

    /* What the controller notes can never pass for what the keeper itself did. */
    snprintf(what, sizeof(what), "controller.%s", note->what);
    tidy(what);
    int r = audit_write(k, keeper_who(request), what, note->about, "%s", note->text);
    if (r < 0)
        return r;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_AUDIT_NOTE;
    out->audit_note = MESSAGE_NEW(Sp__Done, sp__done__init);
    return out->audit_note ? 0 : -ENOMEM;
}
