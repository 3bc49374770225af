/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/headers.h"
#include "agent/linux/scan.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The first block of a copy holds what moves with every change: LUKS2 its sequence number and
 * checksum, LUKS1 the table of keyslots, BitLocker the checked metadata's beginning. */
enum { BLOCK_BYTES = 4096, COPIES_MOST = 4 };

struct header {
    char *device; /* "/dev/…" */
    uint64_t offsets[COPIES_MOST];
    unsigned count;
    bool known;
    uint8_t digest[32];
};

struct headers {
    struct header *all;
    size_t count;
};

struct headers *headers_new(void)
{
    return calloc(1, sizeof(struct headers));
}

static void forget(struct headers *h)
{
    for (size_t i = 0; i < h->count; i++)
        free(h->all[i].device);
    free(h->all);
    *h = (struct headers){0};
}

void headers_free(struct headers *h)
{
    if (!h)
        return;
    forget(h);
    free(h);
}

static bool same_place(const struct header *a, const struct header *b)
{
    return strcmp(a->device, b->device) == 0 && a->count == b->count &&
           memcmp(a->offsets, b->offsets, sizeof(a->offsets)) == 0;
}

static void follow(struct headers *new, const struct headers *old, const Sp__Volume *volume)
{
    if (!volume->header || volume->header->detached || !volume->device[0])
        return;
    struct header header = {.device = strdup(volume->device)};
    if (!header.device)
        return;
    for (size_t i = 0; i < volume->header->n_copies && header.count < COPIES_MOST; i++)
        header.offsets[header.count++] = volume->header->copies[i]->offset_bytes;
    if (!header.count)
        header.count = 1; /* of LUKS1 there is one, at 0 */
    for (size_t i = 0; i < old->count; i++) {
        if (!same_place(&old->all[i], &header))
            continue;
        header.known = old->all[i].known;
        memcpy(header.digest, old->all[i].digest, sizeof(header.digest));
    }
    new->all[new->count++] = header;
}

void headers_follow(struct headers *h, const Sp__Inventory *inventory)
{
    struct headers new = {.all = calloc(inventory->n_volumes + 1, sizeof(struct header))};
    if (!new.all)
        return;
    for (size_t i = 0; i < inventory->n_volumes; i++)
        follow(&new, h, inventory->volumes[i]);
    forget(h);
    *h = new;
}

static bool is_suspended(const char *device)
{
    const char *name = strrchr(device, '/');
    SP_FREE char *folder = sp_format("/sys/block/%s/dm", name ? name + 1 : device);
    return !folder || scan_number(folder, "suspended") != 0;
}

static int digest_of(const struct header *header, uint8_t out[32])
{
    uint8_t blocks[COPIES_MOST][BLOCK_BYTES] = {0};
    struct sp_bytes parts[COPIES_MOST];
    if (is_suspended(header->device))
        return -EAGAIN;
    SP_FD int fd = open(header->device, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    for (unsigned i = 0; i < header->count; i++) {
        ssize_t size = pread(fd, blocks[i], BLOCK_BYTES, (off_t)header->offsets[i]);
        if (size < 0)
            return -errno;
        parts[i] = (struct sp_bytes){blocks[i], (size_t)size};
    }
    return sp_sha256(parts, header->count, out);
}

bool headers_changed(struct headers *h)
{
    bool changed = false;
    for (size_t i = 0; i < h->count; i++) {
        uint8_t digest[32];
        if (digest_of(&h->all[i], digest) < 0)
            continue;
        changed |= h->all[i].known && memcmp(h->all[i].digest, digest, sizeof(digest)) != 0;
        memcpy(h->all[i].digest, digest, sizeof(digest));
        h->all[i].known = true;
    }
    return changed;
}
