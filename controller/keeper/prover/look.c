/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/look.h"

#include "base/cleanup.h"
#include "controller/keeper/prover/disks.h"

/* The messages move; nothing is copied. */
static void take(struct volume_look *from, Sp__LookResponse *to)
{
    to->volumes = sp_steal(from->volumes);
    to->n_volumes = from->volume_count;
    to->ranges = sp_steal(from->ranges);
    to->n_ranges = from->range_count;
    to->headers = sp_steal(from->headers);
    to->n_headers = from->header_count;
    to->findings = sp_steal(from->findings);
    to->n_findings = from->finding_count;
}

int prover_look(const Sp__LookRequest *ask, int reader_socket, Sp__LookResponse **ret,
                struct sp_why *why)
{
    struct prover_disks disks;
    int r = prover_disks_open(reader_socket, ask->disks, ask->n_disks, &disks);
    if (r < 0)
        return sp_why_set(why, r, "the list of disks makes no sense");
    Sp__LookResponse *answer = malloc(sizeof(*answer));
    struct volume_look look = {0};
    r = answer ? volume_look(disks.disks, disks.count, ask->layout_only, &look) : -ENOMEM;
    prover_disks_close(&disks);
    if (r < 0) {
        free(answer);
        return sp_why_set(why, r, "the disks could not be looked at");
    }
    sp__look_response__init(answer);
    take(&look, answer);
    *ret = answer;
    return 0;
}
