/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Arrays and volume groups from their members. What cannot be put together is named in a note; its
 * bytes stay unaccounted for. */
#include "volume/look.h"
#include <string.h>

enum { LV_DEPTH_MAX = 6 };

/* ---- MD ---- */

static int by_role(const void *a, const void *b)
{
    const struct look_md *x = *(struct look_md *const *)a, *y = *(struct look_md *const *)b;
    return x->md.role < y->md.role ? -1 : x->md.role > y->md.role;
}

static struct look_md **gather(struct look *l, const char *uuid, size_t *count)
{
    struct look_md **members = calloc(l->md_count, sizeof *members);
    *count = 0;
    for (size_t i = 0; members && i < l->md_count; i++)
        if (!l->mds[i].done && !strcmp(l->mds[i].md.uuid, uuid))
            members[(*count)++] = &l->mds[i];
    if (members)
        qsort(members, *count, sizeof *members, by_role);
    return members;
}

static uint64_t newest(struct look_md **members, size_t count)
{
    uint64_t events = 0;
    for (size_t i = 0; i < count; i++)
        if (members[i]->md.in_sync && members[i]->md.events > events)
            events = members[i]->md.events;
    return events;
}

/* As the kernel has it: the superblocks of the legs are written one after the other, so one that
 * is a single event behind is in sync. */
static bool is_current(const struct volume_md *md, uint64_t events)
{
    return md->in_sync && (md->events == events || md->events + 1 == events);
}

/* The legs in sync with the newest hold the same bytes; one is read, all are accounted for. */
static struct volume_node *build_raid1(struct look_md **members, size_t count)
{
    struct volume_node *array = NULL;
    uint64_t events = newest(members, count);
    for (size_t i = 0; i < count; i++) {
        const struct volume_md *md = &members[i]->md;
        if (!is_current(md, events))
            continue;
        if (!array) {
            uint64_t size = md->used_size ? md->used_size : md->data_size;
            array = volume_node_window(members[i]->node, md->data_offset, size);
            continue;
        }
        struct volume_leg twin = {.on = members[i]->node, .offset = md->data_offset};
        (void)volume_node_add_twin(array, &twin); /* one too short is not accounted for */
    }
    return array;
}

/* Exactly one member for each role, all of the same age. */
static bool is_complete(struct look_md **members, size_t count)
{
    if (count == 0 || count != members[0]->md.raid_disks)
        return false;
    for (size_t i = 0; i < count; i++)
        if (members[i]->md.role != (int32_t)i || !members[i]->md.in_sync)
            return false;
    return true;
}

static uint64_t whole_chunks(const struct volume_md *md)
{
    return md->chunk_bytes ? md->data_size / md->chunk_bytes * md->chunk_bytes : md->data_size;
}

static struct volume_node *build_linear(struct look_md **members, size_t count)
{
    struct volume_node *array = volume_node_new();
    for (size_t i = 0; array && i < count; i++) {
        struct volume_leg leg = {.on = members[i]->node, .offset = members[i]->md.data_offset};
        if (volume_node_add(array, whole_chunks(&members[i]->md), 0, &leg, 1) < 0) {
            volume_node_free(array);
            return NULL;
        }
    }
    return array;
}

/* Members of different sizes make zones: the first over all of them up to the smallest, the next
 * over those that reach further, and so on. The kernel has two ways to lay out the later zones;
 * only the newer one (layout 2), which counts within the zone, is followed. */
static struct volume_node *build_raid0(struct look_md **members, size_t count)
{
    struct volume_node *array = volume_node_new();
    struct volume_leg *legs = calloc(count, sizeof *legs);
    uint64_t done = 0, chunk = members[0]->md.chunk_bytes;
    bool good = array && legs && chunk;
    while (good) {
        size_t in_zone = 0;
        uint64_t least = UINT64_MAX;
        for (size_t i = 0; i < count; i++) {
            uint64_t size = whole_chunks(&members[i]->md);
            if (size <= done)
                continue;
            legs[in_zone].on = members[i]->node;
            good &=
                !volume_add_overflows(members[i]->md.data_offset, done, &legs[in_zone++].offset);
            least = size < least ? size : least;
        }
        if (in_zone == 0)
            break;
        uint64_t length;
        good &= done == 0 || members[0]->md.layout == 2;
        good &= !volume_mul_overflows(least - done, in_zone, &length) &&
                volume_node_add(array, length, chunk, legs, in_zone) == 0;
        done = least;
    }
    free(legs);
    if (good && array->segment_count)
        return array;
    volume_node_free(array);
    return NULL;
}

/* NULL: cannot be built. *ret_wait: because members may still turn up. */
static struct volume_node *build_array(struct look_md **members, size_t count, bool *ret_wait)
{
    const struct volume_md *md = &members[0]->md;
    *ret_wait = false;
    for (size_t i = 0; i < count; i++)
        if (members[i]->md.major != 1 || members[i]->md.reshaping ||
            members[i]->md.level != md->level)
            return NULL;
    if (md->level == 1)
        return build_raid1(members, count);
    if (md->level != 0 && md->level != -1)
        return NULL;
    *ret_wait = !is_complete(members, count);
    if (*ret_wait)
        return NULL;
    return md->level == 0 ? build_raid0(members, count) : build_linear(members, count);
}

static int name_members(struct look *l, struct look_md **members, size_t count, bool built)
{
    uint64_t events = newest(members, count);
    for (size_t i = 0; i < count; i++) {
        const struct volume_md *md = &members[i]->md;
        if (built && is_current(md, events))
            continue;
        int rc = look_find(l, SP__REASON__REASON_UNIDENTIFIED_CONTENT, true, members[i]->node, NULL,
                           built ? "a member of the %s array %s that is not in sync with it"
                                 : "a member of the %s array %s, which could not be put together",
                           volume_md_level_name(md->level), md->uuid);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* Of all members with the UUID of number `of`. 1: a node was pushed. */
static int assemble_array(struct look *l, size_t of, bool last)
{
    size_t count;
    struct look_md **members = gather(l, l->mds[of].md.uuid, &count);
    if (!members)
        return -ENOMEM;
    bool wait;
    struct volume_node *array = build_array(members, count, &wait);
    int rc = 0;
    if (array || !wait || last) {
        for (size_t i = 0; i < count; i++)
            members[i]->done = true;
        bool built = array != NULL;
        if (built)
            rc = look_push(l, array);
        if (rc == 0)
            rc = name_members(l, members, count, built);
        rc = rc < 0 ? rc : built;
    }
    free(members);
    return rc;
}

/* ---- LVM2 ---- */

static struct volume_node *pv_node(const struct look *l, const char *id)
{
    for (size_t i = 0; i < l->pv_count; i++)
        if (!strcmp(l->pvs[i].pv->id, id))
            return l->pvs[i].node;
    return NULL;
}

static bool group_is_whole(const struct look *l, const struct volume_vg *vg)
{
    for (size_t i = 0; i < vg->pv_count; i++)
        if (!pv_node(l, vg->pvs[i].id))
            return false;
    return true;
}

static struct volume_node *build_lv(struct look *l, const struct volume_vg *vg,
                                    const struct volume_lv *lv, unsigned depth);

/* What one stripe lies on: extents of a PV, or of another LV of the group. */
static bool find_leg(struct look *l, const struct volume_vg *vg, const struct volume_stripe *s,
                     unsigned depth, struct volume_leg *ret)
{
    if (volume_mul_overflows(s->extent, vg->extent_bytes, &ret->offset))
        return false;
    for (size_t i = 0; i < vg->pv_count; i++) {
        if (strcmp(vg->pvs[i].name, s->on) != 0)
            continue;
        ret->on = pv_node(l, vg->pvs[i].id);
        return ret->on && !volume_add_overflows(ret->offset, vg->pvs[i].start_bytes, &ret->offset);
    }
    for (size_t i = 0; i < vg->lv_count; i++) {
        if (strcmp(vg->lvs[i].name, s->on) != 0)
            continue;
        struct volume_node *part = build_lv(l, vg, &vg->lvs[i], depth + 1);
        if (!part || look_keep(l, part) < 0)
            return false;
        ret->on = part;
        return true;
    }
    return false;
}

static bool add_lv_segment(struct look *l, const struct volume_vg *vg,
                           const struct volume_lv_segment *s, unsigned depth,
                           struct volume_node *node)
{
    uint64_t start, length;
    if (strcmp(s->type, "striped") != 0 || s->stripe_count == 0 || s->count % s->stripe_count ||
        volume_mul_overflows(s->start, vg->extent_bytes, &start) ||
        volume_mul_overflows(s->count, vg->extent_bytes, &length) ||
        start != node->reader.size_bytes)
        return false;
    struct volume_leg *legs = calloc(s->stripe_count, sizeof *legs);
    bool good = legs != NULL;
    for (size_t i = 0; good && i < s->stripe_count; i++)
        good = find_leg(l, vg, &s->stripes[i], depth, &legs[i]);
    good = good && volume_node_add(node, length, s->stripe_bytes, legs, s->stripe_count) == 0;
    free(legs);
    return good;
}

static int by_start(const void *a, const void *b)
{
    const struct volume_lv_segment *x = a, *y = b;
    return x->start < y->start ? -1 : x->start > y->start;
}

/* NULL: of a type that is not followed, on a PV that is not there, or against the rules. */
static struct volume_node *build_lv(struct look *l, const struct volume_vg *vg,
                                    const struct volume_lv *lv, unsigned depth)
{
    if (depth > LV_DEPTH_MAX || lv->segment_count == 0)
        return NULL;
    struct volume_node *node = volume_node_new();
    qsort(lv->segments, lv->segment_count, sizeof lv->segments[0], by_start);
    for (size_t i = 0; node && i < lv->segment_count; i++)
        if (!add_lv_segment(l, vg, &lv->segments[i], depth, node)) {
            volume_node_free(node);
            return NULL;
        }
    return node;
}

static int assemble_group(struct look *l, const struct volume_vg *vg, struct volume_node *any)
{
    int made = 0;
    for (size_t i = 0; i < vg->lv_count; i++) {
        const struct volume_lv *lv = &vg->lvs[i];
        if (!lv->visible) /* a part of another one */
            continue;
        struct volume_node *node = build_lv(l, vg, lv, 0);
        if (node) {
            int rc = look_push(l, node);
            if (rc < 0)
                return rc;
            made++;
            continue;
        }
        const char *type = lv->segment_count && lv->segments[0].type ? lv->segments[0].type : "?";
        int rc = look_find(l, SP__REASON__REASON_UNIDENTIFIED_CONTENT, true, any, NULL,
                           "the logical volume %s/%s (type %s) could not be put together: only "
                           "linear and striped ones on physical volumes that are all there are",
                           vg->name, lv->name, type);
        if (rc < 0)
            return rc;
    }
    return made;
}

static bool is_done(const struct look *l, const char *id)
{
    for (size_t i = 0; i < l->group_count; i++)
        if (!strcmp(l->groups_done[i], id))
            return true;
    return false;
}

/* Every PV with a metadata area has the text of its group; the highest sequence is in force. */
static int newest_text(const struct look *l, const char *id, struct volume_vg **best)
{
    for (size_t i = 0; i < l->pv_count; i++) {
        SP_CLEANUP(volume_vg) struct volume_vg *vg = NULL;
        const struct volume_pv *pv = l->pvs[i].pv;
        int rc = pv->text ? volume_vg_parse(pv->text, pv->text_size, &vg) : -EBADMSG;
        if (rc == -ENOMEM)
            return rc;
        if (rc < 0 || strcmp(vg->id, id) != 0 || vg->sequence <= (*best)->sequence)
            continue;
        volume_vg_free(*best);
        *best = sp_steal(vg);
    }
    return 0;
}

static int assemble_group_of(struct look *l, const struct look_pv *member, bool last)
{
    SP_CLEANUP(volume_vg) struct volume_vg *vg = NULL;
    int rc =
        member->pv->text ? volume_vg_parse(member->pv->text, member->pv->text_size, &vg) : -EBADMSG;
    if (rc < 0)
        return rc == -ENOMEM ? rc : 0;
    if (is_done(l, vg->id))
        return 0;
    if ((rc = newest_text(l, vg->id, &vg)) < 0)
        return rc;
    if (!last && !group_is_whole(l, vg))
        return 0;
    char *id = strdup(vg->id);
    if (!id || volume_append(&l->groups_done, &l->group_count, id) < 0) {
        free(id);
        return -ENOMEM;
    }
    return assemble_group(l, vg, member->node);
}

int look_assemble(struct look *l, bool last)
{
    int made = 0;
    for (size_t i = 0; i < l->md_count; i++) {
        int rc = l->mds[i].done ? 0 : assemble_array(l, i, last);
        if (rc < 0)
            return rc;
        made += rc;
    }
    for (size_t i = 0; i < l->pv_count; i++) {
        int rc = assemble_group_of(l, &l->pvs[i], last);
        if (rc < 0)
            return rc;
        made += rc;
    }
    return made;
}
