/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/backup/compare.h"
#include "controller/backup/finding.h"
#include "controller/message.h"
#include <string.h>

static bool encrypted(const Sp__Volume *v)
{
    switch ((int)v->kind) {
    case SP__VOLUME_KIND__VOLUME_KIND_CLEAR:
    case SP__VOLUME_KIND__VOLUME_KIND_UNKNOWN:
        return false;
    default:
        /* A kind that this program does not know is taken for encrypted: the worst case. */
        return true;
    }
}

bool compare_needs_proof(const Sp__Volume *v)
{
    return encrypted(v) && !v->ephemeral;
}

bool compare_from_guest_only(const Sp__Volume *v)
{
    return v->ephemeral || v->kind == SP__VOLUME_KIND__VOLUME_KIND_PLAIN ||
           v->kind == SP__VOLUME_KIND__VOLUME_KIND_VERACRYPT || (v->header && v->header->detached);
}

static bool captured(const Sp__Manifest *m, const char *disk_id)
{
    for (size_t i = 0; i < m->n_disks; i++) {
        if (strcmp(m->disks[i]->disk_id, disk_id) == 0)
            return true;
    }
    return false;
}

static bool all_captured(const Sp__Manifest *m, const Sp__Volume *v)
{
    for (size_t i = 0; i < v->n_extents; i++) {
        if (!v->extents[i]->on || !captured(m, v->extents[i]->on->disk_id))
            return false;
    }
    return v->n_extents > 0;
}

static bool overlap(const Sp__DiskExtent *a, const Sp__DiskExtent *b)
{
    return a && b && strcmp(a->disk_id, b->disk_id) == 0 &&
           a->offset_bytes < b->offset_bytes + b->length_bytes &&
           b->offset_bytes < a->offset_bytes + a->length_bytes;
}

static bool same_place(const Sp__Volume *a, const Sp__Volume *b)
{
    return a->n_extents > 0 && b->n_extents > 0 && overlap(a->extents[0]->on, b->extents[0]->on);
}

/* The volume of one side in the list of the other: by its UUID and place, else by its id (the guest
 * may not know on which disk it lies). */
static const Sp__Volume *counterpart(Sp__Volume *const *list, size_t count, const Sp__Volume *v)
{
    const Sp__Volume *found = NULL;
    for (size_t i = 0; i < count; i++) {
        if (!sp_volume_id_same_base(list[i]->volume_id, v->volume_id))
            continue;
        if (same_place(list[i], v))
            return list[i];
        if (!found || strcmp(list[i]->volume_id, v->volume_id) == 0)
            found = list[i];
    }
    return found;
}

const Sp__Volume *compare_find(const Sp__Inventory *inventory, const Sp__Volume *v)
{
    return inventory ? counterpart(inventory->volumes, inventory->n_volumes, v) : NULL;
}

/* Left out by an admin: nobody expects it in the snapshot. */
static bool excluded(const Sp__Manifest *m, const Sp__Volume *v)
{
    size_t on = 0;
    for (size_t i = 0; m->policy && i < v->n_extents; i++) {
        for (size_t j = 0; v->extents[i]->on && j < m->policy->n_excluded_disks; j++) {
            if (strcmp(m->policy->excluded_disks[j], v->extents[i]->on->disk_id) == 0) {
                on++;
                break;
            }
        }
    }
    return v->n_extents > 0 && on == v->n_extents;
}

/* A volume inside another encrypted one: nobody without the outer key can see it. */
static bool nested(const Sp__LookResponse *look, const Sp__Volume *inner)
{
    for (size_t i = 0; i < look->n_volumes; i++) {
        const Sp__Volume *outer = look->volumes[i];
        if (!encrypted(outer))
            continue;
        for (size_t j = 0; j < outer->n_extents; j++) {
            for (size_t k = 0; k < inner->n_extents; k++) {
                if (overlap(outer->extents[j]->on, inner->extents[k]->on))
                    return true;
            }
        }
    }
    return false;
}

static bool has_header(const Sp__Manifest *m, const char *volume_id)
{
    for (size_t i = 0; i < m->n_headers; i++) {
        if (m->headers[i]->from_guest && strcmp(m->headers[i]->volume_id, volume_id) == 0)
            return true;
    }
    return false;
}

static const char *device_of(const Sp__Volume *v)
{
    return message_empty(v->device) ? "it" : v->device;
}

static int missing_from_look(const Sp__LookResponse *look, Sp__Manifest *m, const Sp__Volume *v)
{
    struct finding_about about = {.volume_id = v->volume_id};
    if (!all_captured(m, v))
        return finding_add(FINDINGS(m), SP__REASON__REASON_NOT_SEEN_BY_STORAGE, about,
                           "%s of the guest does not lie on the captured disks", device_of(v));
    if (nested(look, v))
        return finding_add(FINDINGS(m), SP__REASON__REASON_NOT_SEEN_BY_STORAGE, about,
                           "%s lies inside another encrypted volume, where its key cannot be "
                           "proved from outside",
                           device_of(v));
    /* Also when the inventory is old: the volume may be gone, or its header may. */
    return finding_add(FINDINGS(m), SP__REASON__REASON_INVENTORY_MISMATCH, about,
                       "the guest has it as %s, the snapshot shows no such header", device_of(v));
}

/* A volume that only the guest can know: it joins the manifest, to be proved like the others. */
static int from_guest(enum compare_age age, const Sp__LookResponse *look, Sp__Manifest *m,
                      const Sp__Volume *v)
{
    struct finding_about about = {.volume_id = v->volume_id};
    if (!all_captured(m, v)) {
        about.note = v->ephemeral;
        return finding_add(FINDINGS(m), SP__REASON__REASON_NOT_SEEN_BY_STORAGE, about,
                           "%s of the guest does not lie on the captured disks", device_of(v));
    }
    if (nested(look, v)) {
        about.note = v->ephemeral;
        return finding_add(FINDINGS(m), SP__REASON__REASON_NOT_SEEN_BY_STORAGE, about,
                           "%s lies inside another encrypted volume, where its key cannot be "
                           "proved from outside",
                           device_of(v));
    }
    Sp__Volume *copy = message_copy(v);
    if (!copy)
        return -ENOMEM;
    /* Whoever runs without an agent may have put anything where the random swap was. */
    if (age == COMPARE_STALE)
        copy->ephemeral = 0;
    bool ephemeral = copy->ephemeral;
    int r = message_append(&m->volumes, &m->n_volumes, copy);
    if (r == 0 && ephemeral) {
        about.note = true;
        r = finding_add(FINDINGS(m), SP__REASON__REASON_EPHEMERAL_KEY, about,
                        "%s gets a new random key at every boot and needs no proof", device_of(v));
    }
    if (r == 0 && v->header && v->header->detached && !has_header(m, v->volume_id))
        r = finding_add(FINDINGS(m), SP__REASON__REASON_HEADER_MISSING, about,
                        "the agent did not hand over the detached header of %s: without it the "
                        "data cannot be opened",
                        device_of(v));
    return r;
}

static int compare_headers(Sp__Manifest *m, const Sp__Volume *guest, const Sp__Volume *seen)
{
    if (!guest->header || !seen->header || guest->header->fingerprint.len != 32 ||
        seen->header->fingerprint.len != 32 ||
        memcmp(guest->header->fingerprint.data, seen->header->fingerprint.data, 32) == 0)
        return 0;
    struct finding_about about = {.volume_id = guest->volume_id};
    return finding_add(FINDINGS(m), SP__REASON__REASON_HEADER_CHANGED, about,
                       "the header changed between the inventory and the snapshot: back up again "
                       "when no keys are being changed");
}

static int compare_guest_volume(enum compare_age age, const Sp__LookResponse *look, Sp__Manifest *m,
                                const Sp__Volume *v)
{
    if (!encrypted(v) || excluded(m, v))
        return 0;
    const Sp__Volume *seen = counterpart(look->volumes, look->n_volumes, v);
    if (seen)
        return age == COMPARE_NOW ? compare_headers(m, v, seen) : 0;
    /* A closed plain volume is nobody's to describe: its bytes stay unaccounted for. */
    if (v->kind == SP__VOLUME_KIND__VOLUME_KIND_PLAIN && !v->open && !v->ephemeral)
        return 0;
    return compare_from_guest_only(v) ? from_guest(age, look, m, v) : missing_from_look(look, m, v);
}

/* The look says what it finds in a header in its own words: then once is enough. */
static bool said(const Sp__LookResponse *look, Sp__Reason reason, const Sp__Volume *v)
{
    return finding_stands(look->findings, look->n_findings, reason, v->volume_id);
}

/* What the header itself says against the volume. */
static int judge_header(const Sp__LookResponse *look, Sp__Manifest *m, const Sp__Volume *v)
{
    struct finding_about about = {.volume_id = v->volume_id};
    const Sp__HeaderFacts *h = v->header;
    int r = 0;
    if (!h || !encrypted(v))
        return 0;
    if (h->damaged && !said(look, SP__REASON__REASON_HEADER_DAMAGED, v))
        r = finding_add(FINDINGS(m), SP__REASON__REASON_HEADER_DAMAGED, about,
                        "the header is damaged: %s", h->damage);
    if (r == 0 && h->protection_suspended &&
        !said(look, SP__REASON__REASON_PROTECTION_SUSPENDED, v))
        r = finding_add(FINDINGS(m), SP__REASON__REASON_PROTECTION_SUSPENDED, about,
                        "its key lies in the clear on the disk: resume protection and back up "
                        "again");
    if (r == 0 && h->conversion_in_progress &&
        !said(look, SP__REASON__REASON_CONVERSION_IN_PROGRESS, v))
        r = finding_add(FINDINGS(m), SP__REASON__REASON_CONVERSION_IN_PROGRESS, about,
                        "it is being converted (%u %%): back up again when that is done",
                        h->conversion_percent);
    return r;
}

static int take_look(enum compare_age age, const Sp__LookResponse *look, Sp__Manifest *m)
{
    int r = 0;
    for (size_t i = 0; i < look->n_volumes && r == 0; i++) {
        const Sp__Volume *v = look->volumes[i];
        r = message_append(&m->volumes, &m->n_volumes, message_copy(v));
        if (r == 0)
            r = judge_header(look, m, v);
        struct finding_about about = {.volume_id = v->volume_id};
        if (r == 0 && age == COMPARE_NOW && encrypted(v) && !compare_find(m->inventory, v))
            r = finding_add(FINDINGS(m), SP__REASON__REASON_INVENTORY_MISMATCH, about,
                            "the snapshot shows it, the guest says nothing of it");
    }
    for (size_t i = 0; i < look->n_ranges && r == 0; i++)
        r = message_append(&m->ranges, &m->n_ranges, message_copy(look->ranges[i]));
    for (size_t i = 0; i < look->n_headers && r == 0; i++)
        r = message_append(&m->headers, &m->n_headers, message_copy(look->headers[i]));
    return r < 0 ? r : finding_copy(FINDINGS(m), look->findings, look->n_findings);
}

int compare(enum compare_age age, const Sp__LookResponse *look, Sp__Manifest *m)
{
    int r = take_look(age, look, m);
    for (size_t i = 0; age != COMPARE_NONE && m->inventory && i < m->inventory->n_volumes && r == 0;
         i++)
        r = compare_guest_volume(age, look, m, m->inventory->volumes[i]);
    return r;
}
