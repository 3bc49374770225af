/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The commonest contents, recognised from a few sectors. libblkid wants some MiB laid out in a file
 * for its three dozen probers; for a carried-over proof, which is made for every volume of every
 * backup, that is nine tenths of the work. Each rule here asks for more than libblkid does for the
 * same type: two places that have to fit each other. What no rule knows goes to libblkid. */
#include "base/bytes.h"
#include "controller/keeper/prover/recognise.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fill(Sp__Content *c, const char *type, const char *uuid, const char *label, size_t most,
                const char *usage)
{
    c->type = strdup(type);
    c->uuid = strdup(uuid);
    c->label = strndup(label, most);
    c->usage = strdup(usage);
    if (!c->type || !c->uuid || !c->label || !c->usage)
        return -ENOMEM;
    /* Made by whoever made the file system. */
    for (char *p = c->label; *p; p++) {
        if (*p < 0x20 || *p > 0x7e)
            *p = '?';
    }
    return 1;
}

static void uuid_text(const uint8_t *u, char out[37])
{
    (void)snprintf(out, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                   u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12],
                   u[13], u[14], u[15]);
}

/* libblkid's words: ext3 is ext2 with a journal, ext4 what has features beyond theirs. */
static const char *ext_type(const uint8_t *s)
{
    uint32_t compatible = sp_le32(s + 0x5c), needed = sp_le32(s + 0x60),
             to_write = sp_le32(s + 0x64);
    bool journal = compatible & 0x4;
    if (needed & 0x8 || sp_le32(s + 0x160) & 0x4) /* a journal device; under test */
        return NULL;
    if (to_write & ~0x7u || needed & ~(journal ? 0x16u : 0x12u))
        return "ext4";
    return journal ? "ext3" : "ext2";
}

static int glance_ext(const struct volume_reader *r, Sp__Content *c)
{
    uint8_t s[1024];
    char uuid[37];
    int e = r->size_bytes < 4096 ? 0 : r->read_at(r->self, 1024, s, sizeof(s));
    if (e < 0 || r->size_bytes < 4096 || sp_le16(s + 56) != 0xef53)
        return e;
    const char *type = ext_type(s);
    if (!type || sp_is_zero(s + 0x68, 16) || !prover_ext_counts_fit(s, r->size_bytes))
        return 0;
    uuid_text(s + 0x68, uuid);
    return fill(c, type, uuid, (const char *)s + 0x78, 16, "filesystem");
}

static int glance_xfs(const struct volume_reader *r, Sp__Content *c)
{
    uint8_t s[512], group[512];
    char uuid[37];
    int e = r->size_bytes < 65536 ? 0 : r->read_at(r->self, 0, s, sizeof(s));
    if (e < 0 || r->size_bytes < 65536 || memcmp(s, "XFSB", 4) != 0)
        return e;
    uint32_t sector = sp_be16(s + 102);
    if (sector < 512 || sector > 32768 || sp_is_zero(s + 32, 16))
        return 0;
    e = r->read_at(r->self, sector, group, sizeof(group));
    if (e < 0 || memcmp(group, "XAGF", 4) != 0)
        return e;
    uuid_text(s + 32, uuid);
    return fill(c, "xfs", uuid, (const char *)s + 108, 12, "filesystem");
}

/* Boot sector, and the first record of the MFT where it says. */
static int glance_ntfs(const struct volume_reader *r, Sp__Content *c)
{
    uint8_t s[512], record[512];
    char serial[17];
    int e = r->size_bytes < 65536 ? 0 : r->read_at(r->self, 0, s, sizeof(s));
    if (e < 0 || r->size_bytes < 65536 || memcmp(s + 3, "NTFS    ", 8) != 0)
        return e;
    uint64_t cluster = (uint64_t)sp_le16(s + 11) * s[13], at;
    if (s[510] != 0x55 || s[511] != 0xaa || !cluster || s[13] > 128 || sp_is_zero(s + 72, 8) ||
        __builtin_mul_overflow(sp_le64(s + 48), cluster, &at) || at > r->size_bytes - 512)
        return 0;
    e = r->read_at(r->self, at, record, sizeof(record));
    if (e < 0 || memcmp(record, "FILE", 4) != 0)
        return e;
    (void)snprintf(serial, sizeof(serial), "%016llX", (unsigned long long)sp_le64(s + 72));
    return fill(c, "ntfs", serial, "", 0, "filesystem"); /* the label lies deeper */
}

/* A label in sector 1: two words of 8 bytes, its own number, 32 letters and digits. */
static int glance_lvm(const struct volume_reader *r, Sp__Content *c)
{
    uint8_t s[512];
    char uuid[39];
    int e = r->size_bytes < 65536 ? 0 : r->read_at(r->self, 512, s, sizeof(s));
    if (e < 0 || r->size_bytes < 65536 || memcmp(s, "LABELONE", 8) != 0 ||
        memcmp(s + 24, "LVM2 001", 8) != 0 || sp_le64(s + 8) != 1 || sp_le32(s + 20) != 32)
        return e;
    size_t to = 0;
    for (size_t i = 0; i < 32; i++) {
        uint8_t ch = s[32 + i];
        if (!((ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')))
            return 0;
        if (i >= 6 && i <= 26 && (i - 6) % 4 == 0)
            uuid[to++] = '-';
        uuid[to++] = (char)ch;
    }
    uuid[to] = 0;
    return fill(c, "LVM2_member", uuid, "", 0, "raid");
}

int prover_glance(const struct volume_reader *r, Sp__Content **ret)
{
    static int (*const rules[])(const struct volume_reader *,
                                Sp__Content *) = {glance_ext, glance_xfs, glance_ntfs, glance_lvm};
    Sp__Content *c = malloc(sizeof(*c));
    if (!c)
        return -ENOMEM;
    sp__content__init(c);
    int e = 0;
    for (size_t i = 0; e == 0 && i < sizeof(rules) / sizeof(rules[0]); i++)
        e = rules[i](r, c);
    if (e == 1) {
        *ret = c;
        return 1;
    }
    sp__content__free_unpacked(c, NULL);
    return e;
}
