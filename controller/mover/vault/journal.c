/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/journal.h"
#include <string.h>

static const char pack_magic[8] = "SPJOURN1", root_magic[8] = "SPJROOT1";

enum {
    HEAD_BYTES = 16,
    SUM_BYTES = 32,
    MOST_IN_RECORD = 65536,
    RECORD_MAX = HEAD_BYTES + MOST_IN_RECORD * VAULT_ADDRESS_BYTES + SUM_BYTES,
};

static int put_record(struct vault *v, const char *point_id, const char magic[8],
                      struct sp_bytes what, size_t count, struct sp_why *why)
{
    uint8_t random[16], head[HEAD_BYTES], sum[SUM_BYTES];
    char name[VAULT_NAME_MAX], hex[33];
    if (count > MOST_IN_RECORD)
        return -EINVAL;
    int r = sp_random(random, sizeof random);
    if (r < 0)
        return r;
    memcpy(head, magic, 8);
    sp_put_le32(head + 8, VAULT_FORMAT);
    sp_put_le32(head + 12, (uint32_t)count);
    struct sp_bytes parts[] = {{head, sizeof head}, what, {sum, sizeof sum}};
    r = sp_sha256(parts, 2, sum);
    if (r < 0)
        return r;
    snprintf(name, sizeof name, "journals/%s/%s", point_id, sp_hex(hex, random, sizeof random));
    return v->backend->put(v->self, name, parts, SP_COUNT(parts), why);
}

int journal_put(struct vault *v, const char *point_id, const uint8_t (*packs)[PACK_ID_BYTES],
                size_t count, struct sp_why *why)
{
    struct sp_bytes what = {(const uint8_t *)packs, count * PACK_ID_BYTES};
    return put_record(v, point_id, pack_magic, what, count, why);
}

int journal_put_root(struct vault *v, const char *point_id, const uint8_t root[VAULT_ADDRESS_BYTES],
                     struct sp_why *why)
{
    return put_record(v, point_id, root_magic, (struct sp_bytes){root, VAULT_ADDRESS_BYTES}, 1,
                      why);
}

int journal_parse(const void *data, size_t size, struct journal_record *ret)
{
    struct sp_reader r = sp_reader_of(data, size);
    const uint8_t *magic = sp_reader_take(&r, 8);
    uint32_t format = sp_reader_le32(&r), count = sp_reader_le32(&r);
    if (r.failed || format != VAULT_FORMAT || count > MOST_IN_RECORD)
        return -EBADMSG;
    bool packs = !memcmp(magic, pack_magic, 8), roots = !memcmp(magic, root_magic, 8);
    size_t each = packs ? PACK_ID_BYTES : VAULT_ADDRESS_BYTES;
    if ((!packs && !roots) || sp_reader_left(&r) != count * each + SUM_BYTES)
        return -EBADMSG;
    const uint8_t *what = sp_reader_take(&r, count * each);
    uint8_t sum[SUM_BYTES];
    if (sp_sha256_of(data, size - SUM_BYTES, sum) < 0)
        return -EIO;
    if (memcmp(sum, (const uint8_t *)data + size - SUM_BYTES, SUM_BYTES))
        return -EBADMSG;
    *ret = (struct journal_record){0};
    if (packs) {
        ret->packs = (const uint8_t(*)[PACK_ID_BYTES])what;
        ret->pack_count = count;
    } else {
        ret->roots = (const uint8_t(*)[VAULT_ADDRESS_BYTES])what;
        ret->root_count = count;
    }
    return 0;
}

/* Names are gathered first: a back end need not bear changes while it lists. */
struct names {
    char (*name)[VAULT_NAME_MAX];
    size_t count, capacity;
};

static int gather(void *arg, const char *name, uint64_t bytes)
{
    struct names *n = arg;
    (void)bytes;
    if (strlen(name) >= VAULT_NAME_MAX)
        return 0;
    if (n->count == n->capacity) {
        size_t capacity = n->capacity ? n->capacity * 2 : 16;
        void *bigger = realloc(n->name, capacity * sizeof *n->name);
        if (!bigger)
            return -ENOMEM;
        n->name = bigger;
        n->capacity = capacity;
    }
    strcpy(n->name[n->count++], name);
    return 0;
}

/* "journals/POINT/RECORD" → POINT. */
static bool point_of(const char *name, char out[VAULT_ID_MAX + 1])
{
    const char *point = name + strlen("journals/"), *slash = strchr(point, '/');
    if (!slash || slash - point > VAULT_ID_MAX)
        return false;
    memcpy(out, point, (size_t)(slash - point));
    out[slash - point] = 0;
    return vault_id_valid(out);
}

int journal_each(struct vault *v,
                 int (*each)(void *arg, const char *point_id, const struct journal_record *),
                 void *arg)
{
    struct names names = {0};
    int r = v->backend->list(v->self, "journals/", gather, &names);
    for (size_t i = 0; r == 0 && i < names.count; i++) {
        char point[VAULT_ID_MAX + 1];
        if (!point_of(names.name[i], point))
            continue;
        uint8_t *data SP_FREE = NULL;
        size_t size = 0;
        struct journal_record record = {0};
        r = vault_get_whole(v, names.name[i], RECORD_MAX, &data, &size);
        if (r == -ENOENT) { /* ended meanwhile */
            r = 0;
            continue;
        }
        if (r == 0)
            r = journal_parse(data, size, &record);
        if (r == -ENOMEM)
            break;
        record.damaged = r < 0;
        r = each(arg, point, &record);
    }
    free(names.name);
    return r;
}

int journal_remove(struct vault *v, const char *point_id)
{
    char prefix[VAULT_NAME_MAX];
    struct names names = {0};
    snprintf(prefix, sizeof prefix, "journals/%s/", point_id);
    int r = v->backend->list(v->self, prefix, gather, &names);
    for (size_t i = 0; r == 0 && i < names.count; i++) {
        r = v->backend->remove(v->self, names.name[i]);
        if (r == -ENOENT)
            r = 0;
    }
    free(names.name);
    return r;
}
