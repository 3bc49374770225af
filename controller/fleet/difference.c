/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/fleet/difference.h"
#include "base/file.h"
#include "controller/message.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define CHANGE(name) SP__CHANGE_KIND__CHANGE_KIND_##name

struct list {
    const char *machine_id;
    uint64_t at_unix_ms;
    Sp__VolumeEvent **events;
    size_t count;
};

/* ---- making events ---- */

/* PROTECTOR_ADDED is "protector-added". */
static char *kind_word(Sp__ChangeKind change)
{
    char *word = strdup(sp_enum_name(&sp__change_kind__descriptor, (int)change, "CHANGE_KIND_"));
    for (char *p = word; p && *p; p++)
        *p = *p == '_' ? '-' : (char)tolower((unsigned char)*p);
    return word;
}

Sp__VolumeEvent *difference_event(const char *machine_id, uint64_t at_unix_ms, const char *kind,
                                  const char *subject, const char *text)
{
    Sp__VolumeEvent *e = message_new(&sp__volume_event__descriptor);
    if (!e)
        return NULL;
    e->at_unix_ms = at_unix_ms;
    if (message_set(&e->machine_id, machine_id) == 0 && message_set(&e->kind, kind) == 0 &&
        message_set(&e->subject, subject) == 0 && message_set(&e->text, text) == 0)
        return e;
    message_free(e);
    return NULL;
}

/* Adds an event; takes `text`. The event, to be filled on, or NULL: no memory. */
static Sp__VolumeEvent *add(struct list *l, Sp__ChangeKind change, const char *subject, char *text)
{
    SP_FREE char *owned = text, *kind = kind_word(change);
    Sp__VolumeEvent *e =
        owned && kind ? difference_event(l->machine_id, l->at_unix_ms, kind, subject, owned) : NULL;
    if (e)
        e->change = change;
    return message_append(&l->events, &l->count, e) == 0 ? e : NULL;
}

static int add_volume(struct list *l, Sp__ChangeKind change, const Sp__Volume *before,
                      const Sp__Volume *after, const char *protector_id, char *text)
{
    const Sp__Volume *either = after ? after : before;
    Sp__VolumeEvent *e = add(l, change, either->volume_id, text);
    if (!e)
        return -ENOMEM;
    e->before = message_copy(before);
    e->after = message_copy(after);
    if ((before && !e->before) || (after && !e->after))
        return -ENOMEM;
    return message_set(&e->protector_id, protector_id);
}

static int add_disk(struct list *l, Sp__ChangeKind change, const Sp__BlockDevice *before,
                    const Sp__BlockDevice *after, char *text)
{
    const Sp__BlockDevice *either = after ? after : before;
    Sp__VolumeEvent *e = add(l, change, *either->serial ? either->serial : either->name, text);
    if (!e)
        return -ENOMEM;
    e->disk_before = message_copy(before);
    e->disk_after = message_copy(after);
    return (before && !e->disk_before) || (after && !e->disk_after) ? -ENOMEM : 0;
}

/* ---- comparing ---- */

/* 1 equal, 0 different, -ENOMEM. */
static int equal(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
    SP_FREE uint8_t *packed_a = NULL, *packed_b = NULL;
    size_t size_a = 0, size_b = 0;
    int r = sp_pack(a, &packed_a, &size_a);
    if (r == 0)
        r = sp_pack(b, &packed_b, &size_b);
    if (r < 0)
        return r;
    return size_a == size_b && (size_a == 0 || memcmp(packed_a, packed_b, size_a) == 0);
}

static const Sp__Protector *protector_of(const Sp__HeaderFacts *header, const char *id)
{
    for (size_t i = 0; i < header->n_protectors; i++) {
        if (strcmp(header->protectors[i]->id, id) == 0)
            return header->protectors[i];
    }
    return NULL;
}

static bool is_luks(const Sp__Volume *v)
{
    return v->kind == SP__VOLUME_KIND__VOLUME_KIND_LUKS1 ||
           v->kind == SP__VOLUME_KIND__VOLUME_KIND_LUKS2;
}

static int compare_protectors(struct list *l, const Sp__Volume *a, const Sp__Volume *b)
{
    const char *word = is_luks(b) ? "keyslot" : "protector";
    int r = 0;
    for (size_t i = 0; r == 0 && i < a->header->n_protectors; i++) {
        const Sp__Protector *p = a->header->protectors[i];
        if (!protector_of(b->header, p->id))
            r = add_volume(l, CHANGE(PROTECTOR_REMOVED), a, b, p->id,
                           sp_format("%s %s was removed", word, p->id));
    }
    for (size_t i = 0; r == 0 && i < b->header->n_protectors; i++) {
        const Sp__Protector *p = b->header->protectors[i];
        const Sp__Protector *was = protector_of(a->header, p->id);
        int same = was ? equal(&was->base, &p->base) : 0;
        if (same < 0)
            return same;
        if (!same)
            r = add_volume(l, was ? CHANGE(PROTECTOR_CHANGED) : CHANGE(PROTECTOR_ADDED), a, b,
                           p->id,
                           sp_format("%s %s was %s", word, p->id, was ? "changed" : "added"));
    }
    return r;
}

static int compare_flags(struct list *l, const Sp__Volume *a, const Sp__Volume *b)
{
    const struct {
        bool before, after;
        Sp__ChangeKind on, off;
        const char *text_on, *text_off;
    } flags[] = {
        {a->header->conversion_in_progress, b->header->conversion_in_progress,
         CHANGE(CONVERSION_STARTED), CHANGE(CONVERSION_ENDED),
         is_luks(b) ? "re-encryption has begun" : "conversion has begun",
         is_luks(b) ? "re-encryption has ended" : "conversion has ended"},
        {a->header->protection_suspended, b->header->protection_suspended,
         CHANGE(PROTECTION_SUSPENDED), CHANGE(PROTECTION_RESUMED),
         "protection is suspended: the key lies in the clear on the disk", "protection is back"},
        {a->header->damaged, b->header->damaged, CHANGE(HEADER_DAMAGED), CHANGE(HEADER_REPAIRED),
         "the header is damaged", "the header is whole again"},
    };
    int r = 0;
    for (size_t i = 0; r == 0 && i < SP_COUNT(flags); i++) {
        bool on = flags[i].after;
        if (on != flags[i].before)
            r = add_volume(l, on ? flags[i].on : flags[i].off, a, b, "",
                           strdup(on ? flags[i].text_on : flags[i].text_off));
    }
    return r;
}

/* While a conversion runs its header changes all the time, and that says nothing new. */
static int compare_headers(struct list *l, const Sp__Volume *a, const Sp__Volume *b)
{
    size_t before = l->count;
    int r = compare_protectors(l, a, b);
    if (r == 0)
        r = compare_flags(l, a, b);
    if (r < 0 || l->count != before ||
        (a->header->conversion_in_progress && b->header->conversion_in_progress))
        return r;
    int same = equal(&a->header->base, &b->header->base);
    if (same < 0 || same)
        return same < 0 ? same : 0;
    return add_volume(l, CHANGE(HEADER_CHANGED), a, b, "", strdup("the header was changed"));
}

static int compare_volume(struct list *l, const Sp__Volume *a, const Sp__Volume *b)
{
    int r = 0;
    if (!a->open && b->open)
        r = add_volume(l, CHANGE(VOLUME_OPENED), a, b, "",
                       sp_format("was opened as %s", b->mapped_name));
    else if (a->open && !b->open)
        r = add_volume(l, CHANGE(VOLUME_CLOSED), a, b, "", strdup("was closed"));
    if (r == 0 && a->size_bytes != b->size_bytes)
        r = add_volume(l, CHANGE(VOLUME_RESIZED), a, b, "",
                       sp_format("has %llu bytes now", (unsigned long long)b->size_bytes));
    return r == 0 && a->header && b->header ? compare_headers(l, a, b) : r;
}

/* ---- matching ---- */

/* First those that are in the same place, then those that moved. Indices into `after`, SIZE_MAX for
 * what is gone. */
static void match_volumes(const Sp__Inventory *before, const Sp__Inventory *after, size_t *matches,
                          bool *taken)
{
    for (size_t i = 0; i < before->n_volumes; i++)
        matches[i] = SIZE_MAX;
    for (int moved = 0; moved < 2; moved++) {
        for (size_t i = 0; i < before->n_volumes; i++) {
            const Sp__Volume *a = before->volumes[i];
            for (size_t k = 0; matches[i] == SIZE_MAX && k < after->n_volumes; k++) {
                const Sp__Volume *b = after->volumes[k];
                if (taken[k] || strcmp(a->volume_id, b->volume_id) != 0 ||
                    (!moved && strcmp(a->device, b->device) != 0))
                    continue;
                matches[i] = k;
                taken[k] = true;
            }
        }
    }
}

static int compare_volumes(struct list *l, const Sp__Inventory *before, const Sp__Inventory *after)
{
    SP_FREE size_t *matches = calloc(before->n_volumes + 1, sizeof(*matches));
    SP_FREE bool *taken = calloc(after->n_volumes + 1, sizeof(*taken));
    if (!matches || !taken)
        return -ENOMEM;
    match_volumes(before, after, matches, taken);
    int r = 0;
    for (size_t i = 0; r == 0 && i < before->n_volumes; i++) {
        const Sp__Volume *a = before->volumes[i];
        if (matches[i] != SIZE_MAX)
            r = compare_volume(l, a, after->volumes[matches[i]]);
        else
            r = add_volume(l, CHANGE(VOLUME_GONE), a, NULL, "",
                           sp_format("is no longer on %s", a->device));
    }
    for (size_t k = 0; r == 0 && k < after->n_volumes; k++) {
        const Sp__Volume *b = after->volumes[k];
        if (!taken[k])
            r = add_volume(l, CHANGE(VOLUME_APPEARED), NULL, b, "",
                           sp_format("was found on %s", b->device));
    }
    return r;
}

static bool is_disk(const Sp__BlockDevice *d)
{
    return strcmp(d->type, "disk") == 0;
}

static const Sp__BlockDevice *disk_like(const Sp__Inventory *in, const Sp__BlockDevice *d)
{
    for (size_t i = 0; i < in->n_devices; i++) {
        const Sp__BlockDevice *other = in->devices[i];
        if (is_disk(other) && strcmp(other->serial, d->serial) == 0 &&
            (*d->serial || strcmp(other->name, d->name) == 0))
            return other;
    }
    return NULL;
}

static int compare_disks(struct list *l, const Sp__Inventory *before, const Sp__Inventory *after)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < before->n_devices; i++) {
        const Sp__BlockDevice *a = before->devices[i];
        const Sp__BlockDevice *b = is_disk(a) ? disk_like(after, a) : a;
        if (!b)
            r = add_disk(l, CHANGE(DISK_REMOVED), a, NULL, sp_format("%s was removed", a->name));
        else if (b->size_bytes != a->size_bytes)
            r = add_disk(
                l, CHANGE(DISK_RESIZED), a, b,
                sp_format("%s has %llu bytes now", b->name, (unsigned long long)b->size_bytes));
    }
    for (size_t i = 0; r == 0 && i < after->n_devices; i++) {
        const Sp__BlockDevice *b = after->devices[i];
        if (is_disk(b) && !disk_like(before, b))
            r = add_disk(l, CHANGE(DISK_ADDED), NULL, b, sp_format("%s was added", b->name));
    }
    return r;
}

int difference(const char *machine_id, uint64_t at_unix_ms, const Sp__Inventory *before,
               const Sp__Inventory *after, Sp__VolumeEvent ***ret, size_t *count)
{
    struct list l = {.machine_id = machine_id, .at_unix_ms = at_unix_ms};
    int r = compare_disks(&l, before, after);
    if (r == 0)
        r = compare_volumes(&l, before, after);
    if (r < 0) {
        for (size_t i = 0; i < l.count; i++)
            message_free(l.events[i]);
        free(l.events);
        return r;
    }
    *ret = l.events;
    *count = l.count;
    return 0;
}
