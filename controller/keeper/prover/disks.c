/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/disks.h"

#include "base/cleanup.h"
#include "base/frame.h"
#include <string.h>

static int remote_read(void *self, uint64_t offset, void *out, uint32_t length)
{
    const struct remote_disk *disk = self;
    if (offset > disk->size_bytes || length > disk->size_bytes - offset)
        return -ERANGE;
    char *to = out;
    while (length) {
        uint32_t part = length < SP_PREAD_MAX ? length : SP_PREAD_MAX;
        int r = sp_pread_remote(disk->socket, disk->index, offset, to, part);
        if (r < 0)
            return r;
        offset += part;
        to += part;
        length -= part;
    }
    return 0;
}

int prover_disks_open(int reader_socket, Sp__LookDisk *const *asked, size_t count,
                      struct prover_disks *ret)
{
    struct prover_disks d = {.asked = asked, .count = count};
    for (size_t i = 0; i < count; i++) {
        struct prover_disks before = {.asked = asked, .count = i};
        if (!asked[i]->disk_id[0] || prover_disks_find(&before, asked[i]->disk_id))
            return -EINVAL;
    }
    d.disks = calloc(count ? count : 1, sizeof(*d.disks));
    d.remotes = calloc(count ? count : 1, sizeof(*d.remotes));
    if (!d.disks || !d.remotes) {
        prover_disks_close(&d);
        return -ENOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        d.remotes[i] = (struct remote_disk){
            .socket = reader_socket, .index = (uint32_t)i, .size_bytes = asked[i]->size_bytes};
        d.disks[i] = (struct volume_disk){
            .disk_id = asked[i]->disk_id,
            .reader = {.read_at = remote_read,
                       .self = &d.remotes[i],
                       .size_bytes = asked[i]->size_bytes},
            .logical_sector_bytes =
                asked[i]->logical_sector_bytes ? asked[i]->logical_sector_bytes : 512};
    }
    *ret = d;
    return 0;
}

void prover_disks_close(struct prover_disks *d)
{
    free(d->disks);
    free(d->remotes);
    d->disks = NULL;
    d->remotes = NULL;
}

const Sp__LookDisk *prover_disks_find(const struct prover_disks *d, const char *disk_id)
{
    for (size_t i = 0; i < d->count; i++) {
        if (strcmp(d->asked[i]->disk_id, disk_id) == 0)
            return d->asked[i];
    }
    return NULL;
}
