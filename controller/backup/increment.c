/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which earlier points of a machine an increment may rest on: those whose manifest is in the same
 * vault and carries the keeper's seal. An unsigned root could be anybody's. */
#include "controller/backup/run.h"
#include <string.h>

/* A source keeps its record of changes since the last point that was copied whole, so few suffice:
 * those that failed between hold nothing. */
enum { MOST_CANDIDATES = 16 };

struct candidates {
    struct run *run;
    char ***ids;
    size_t *count;
};

static int gather(void *arg, uint64_t rowid, Sp__Point *point)
{
    struct candidates *c = arg;
    (void)rowid;
    if (*c->count == MOST_CANDIDATES)
        return 1;
    if (strcmp(point->vault_id, c->run->cp->point->vault_id) != 0 || point->sequence == 0 ||
        point->deleted_unix_ms || strcmp(point->point_id, c->run->cp->point->point_id) == 0)
        return 0;
    return message_append_text(c->ids, c->count, point->point_id);
}

int increment_candidates(struct run *run, char ***ids, size_t *count)
{
    struct candidates c = {run, ids, count};
    int r =
        catalog_point_each(run->engine->options.catalog, run->cp->point->machine_id, 0, gather, &c);
    return r < 0 ? r : 0;
}

static int add_bases(const Sp__Manifest *m, Sp__TransferRequest *request)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < m->n_disks; i++) {
        Sp__BaseDisk *base = message_new(&sp__base_disk__descriptor);
        r = base ? message_set(&base->point_id, m->point_id) : -ENOMEM;
        if (r == 0)
            r = message_set(&base->machine_id, m->machine_id);
        if (r == 0 && !(base->image = message_copy(m->disks[i])))
            r = -ENOMEM;
        if (r < 0)
            message_free(base);
        else
            r = message_append(&request->bases, &request->n_bases, base);
    }
    return r;
}

static bool has_base(const Sp__TransferRequest *request, const char *point_id)
{
    for (size_t i = 0; i < request->n_bases; i++) {
        if (strcmp(request->bases[i]->point_id, point_id) == 0)
            return true;
    }
    return false;
}

int increment_bases(struct run *run, Sp__TransferRequest *request)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < run->taken->n_disks; i++) {
        const char *point_id = run->taken->disks[i]->base_point_id;
        Sp__Signed *sealed SP_CLEANUP(signed_message) = NULL;
        Sp__Manifest *m SP_CLEANUP(manifest) = NULL;
        bool good = false;
        if (message_empty(point_id) || has_base(request, point_id))
            continue;
        /* Without it the mover copies in full, and says why. */
        if (engine_manifest(run->engine, point_id, &sealed, &m, &good, NULL) < 0 || !good ||
            strcmp(m->machine_id, run->cp->point->machine_id) != 0)
            continue;
        r = add_bases(m, request);
    }
    return r;
}

void increment_free(Sp__TransferRequest *request)
{
    for (size_t i = 0; i < request->n_bases; i++)
        message_free(request->bases[i]);
    free(request->bases);
    request->bases = NULL;
    request->n_bases = 0;
}

int increment_note(struct run *run, const Sp__TransferResponse *stored)
{
    Sp__Manifest *draft = run->cp->draft;
    int r = finding_copy(FINDINGS(draft), stored->notes, stored->n_notes);
    draft->fleece_limit_bytes = run->taken->fleece_limit_bytes;
    for (size_t i = 0; r == 0 && i < draft->n_disks; i++) {
        if (!message_empty(draft->disks[i]->base_point_id))
            r = message_set(&draft->parent_point_id, draft->disks[i]->base_point_id);
    }
    return r;
}
