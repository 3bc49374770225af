/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The disks of a job, read over the socket that the prover inherited. One thread. */
#ifndef SEALPOINT_PROVER_DISKS_H
#define SEALPOINT_PROVER_DISKS_H

#include "volume/volume.h"
#include <sealpoint/v1/keeper.pb-c.h>

struct remote_disk {
    int socket;
    uint32_t index;
    uint64_t size_bytes;
};

/* disks[i] reads through remotes[i]; `asked` are the job's, which must outlive this. */
struct prover_disks {
    struct volume_disk *disks;
    struct remote_disk *remotes;
    Sp__LookDisk *const *asked;
    size_t count;
};

/* 0 or -ENOMEM; -EINVAL for a list that makes no sense (no id, one id twice). */
int prover_disks_open(int reader_socket, Sp__LookDisk *const *asked, size_t count,
                      struct prover_disks *ret);
void prover_disks_close(struct prover_disks *);
/* The job's disk of that id, NULL when there is none. */
const Sp__LookDisk *prover_disks_find(const struct prover_disks *, const char *disk_id);

#endif
