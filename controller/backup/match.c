/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/backup/match.h"
#include "base/file.h"
#include "controller/message.h"
#include <string.h>

/* virtio-blk hands the guest this many characters of a serial. */
enum { VIRTIO_SERIAL_MAX = 20 };

static bool could_hold_data(const Sp__BlockDevice *d)
{
    return strcmp(d->type, "disk") == 0 && d->size_bytes > 0;
}

static bool same_serial(const char *guest, const char *source)
{
    if (message_empty(guest) || message_empty(source))
        return false;
    if (strcmp(guest, source) == 0)
        return true;
    return strlen(guest) == VIRTIO_SERIAL_MAX && strncmp(guest, source, VIRTIO_SERIAL_MAX) == 0;
}

static bool claimed(const struct match *m, const Sp__SourceDisk *disk)
{
    for (size_t i = 0; i < m->count; i++) {
        if (m->pairs[i].source == disk)
            return true;
    }
    return false;
}

/* How a pass decides whether two disks are one. */
typedef bool same_fn(const void *self, const Sp__BlockDevice *, const Sp__SourceDisk *);

/* Gives each unmatched guest disk its only candidate, when that is nobody else's candidate. */
static void pass(struct match *m, Sp__SourceDisk *const *disks, size_t disk_count, same_fn *same,
                 const void *self)
{
    for (size_t i = 0; i < m->count; i++) {
        struct match_pair *pair = &m->pairs[i];
        if (pair->source || pair->ambiguous)
            continue;
        const Sp__SourceDisk *found = NULL;
        unsigned candidates = 0, rivals = 0;
        for (size_t j = 0; j < disk_count; j++) {
            if (claimed(m, disks[j]) || !same(self, pair->guest, disks[j]))
                continue;
            found = disks[j];
            candidates++;
        }
        for (size_t k = 0; found && k < m->count; k++)
            rivals += k != i && !m->pairs[k].source && same(self, m->pairs[k].guest, found);
        pair->ambiguous = candidates > 1 || rivals > 0;
        if (!pair->ambiguous)
            pair->source = found;
    }
}

static bool by_serial(const void *self, const Sp__BlockDevice *guest, const Sp__SourceDisk *source)
{
    (void)self;
    return same_serial(guest->serial, source->serial);
}

static bool by_pci(const void *self, const Sp__BlockDevice *guest, const Sp__SourceDisk *source)
{
    (void)self;
    return !message_empty(guest->pci_path) && strcmp(guest->pci_path, source->pci_path) == 0;
}

struct sides {
    const Sp__Inventory *inventory;
    const Sp__LookResponse *look;
};

static const char *uuid_of(const Sp__Volume *v)
{
    if (v->header && !message_empty(v->header->uuid))
        return v->header->uuid;
    /* What lies inside an encrypted volume is seen by the guest only. */
    bool clear = v->kind == SP__VOLUME_KIND__VOLUME_KIND_CLEAR;
    return clear && v->content ? v->content->uuid : "";
}

static bool volume_on(const Sp__Volume *v, const char *a, const char *b)
{
    for (size_t i = 0; i < v->n_extents; i++) {
        const Sp__DiskExtent *on = v->extents[i]->on;
        if (on &&
            (strcmp(on->disk_id, a) == 0 || (!message_empty(b) && strcmp(on->disk_id, b) == 0)))
            return true;
    }
    return false;
}

static bool by_uuid(const void *self, const Sp__BlockDevice *guest, const Sp__SourceDisk *source)
{
    const struct sides *s = self;
    for (size_t i = 0; i < s->inventory->n_volumes; i++) {
        const Sp__Volume *ours = s->inventory->volumes[i];
        const char *uuid = uuid_of(ours);
        if (message_empty(uuid) || !volume_on(ours, guest->name, guest->serial))
            continue;
        for (size_t j = 0; j < s->look->n_volumes; j++) {
            const Sp__Volume *theirs = s->look->volumes[j];
            if (strcmp(uuid, uuid_of(theirs)) == 0 && volume_on(theirs, source->disk_id, ""))
                return true;
        }
    }
    return false;
}

int match_disks(const Sp__Inventory *inventory, Sp__SourceDisk *const *disks, size_t disk_count,
                const Sp__LookResponse *look, struct match *ret)
{
    struct match m = {calloc(inventory->n_devices + 1, sizeof(*m.pairs)), 0};
    if (!m.pairs)
        return -ENOMEM;
    for (size_t i = 0; i < inventory->n_devices; i++) {
        if (could_hold_data(inventory->devices[i]))
            m.pairs[m.count++].guest = inventory->devices[i];
    }
    pass(&m, disks, disk_count, by_serial, NULL);
    if (look) {
        struct sides sides = {inventory, look};
        pass(&m, disks, disk_count, by_uuid, &sides);
    }
    pass(&m, disks, disk_count, by_pci, NULL);
    *ret = m;
    return 0;
}

void match_free(struct match *m)
{
    free(m->pairs);
    *m = (struct match){0};
}

const Sp__SourceDisk *match_find(const struct match *m, const char *guest_disk)
{
    if (message_empty(guest_disk))
        return NULL;
    const Sp__SourceDisk *found = NULL;
    unsigned serials = 0;
    for (size_t i = 0; i < m->count; i++) {
        if (strcmp(m->pairs[i].guest->name, guest_disk) == 0)
            return m->pairs[i].source;
        if (strcmp(m->pairs[i].guest->serial, guest_disk) == 0) {
            found = m->pairs[i].source;
            serials++;
        }
    }
    return serials == 1 ? found : NULL;
}

struct descent {
    const struct match *match;
    const Sp__Inventory *inventory;
    bool (*captured)(void *, const Sp__SourceDisk *);
    void *self;
    unsigned steps; /* stacks are shallow; a loop in a hostile inventory ends here */
};

static bool device_captured(struct descent *d, const char *name)
{
    if (d->steps++ > 256)
        return true;
    for (size_t i = 0; i < d->match->count; i++) {
        const struct match_pair *pair = &d->match->pairs[i];
        if (strcmp(pair->guest->name, name) == 0)
            return !pair->source || d->captured(d->self, pair->source);
    }
    for (size_t i = 0; i < d->inventory->n_devices; i++) {
        const Sp__BlockDevice *device = d->inventory->devices[i];
        if (strcmp(device->name, name) != 0)
            continue;
        if (strcmp(device->type, "rom") == 0 || strcmp(device->type, "zram") == 0)
            return false;
        for (size_t j = 0; j < device->n_parents; j++) {
            if (device_captured(d, device->parents[j]))
                return true;
        }
        return device->n_parents == 0;
    }
    return true;
}

bool match_on_captured(const struct match *m, const Sp__Inventory *inventory,
                       const Sp__FileSystem *fs, bool (*captured)(void *, const Sp__SourceDisk *),
                       void *self)
{
    struct descent d = {m, inventory, captured, self, 0};
    return message_empty(fs->device) || device_captured(&d, fs->device);
}

int match_report(const struct match *m, struct finding_list findings)
{
    for (size_t i = 0; i < m->count; i++) {
        const struct match_pair *pair = &m->pairs[i];
        if (pair->source || pair->guest->removable)
            continue;
        struct finding_about about = {.disk_id = pair->guest->name};
        int r = pair->ambiguous
                    ? finding_add(findings, SP__REASON__REASON_DISK_MISSING, about,
                                  "disk %s of the guest could be more than one disk of the source: "
                                  "give each disk a serial of its own",
                                  pair->guest->name)
                    : finding_add(findings, SP__REASON__REASON_DISK_MISSING, about,
                                  "disk %s of the guest is none of the source's disks: its data is "
                                  "not in this point",
                                  pair->guest->name);
        if (r < 0)
            return r;
    }
    return 0;
}

/* "plain:<disk>+<offset>" with the guest's disk. */
static int rewrite_plain_id(const struct match *m, Sp__Volume *v)
{
    static const char prefix[] = "plain:";
    if (strncmp(v->volume_id, prefix, strlen(prefix)) != 0)
        return 0;
    const char *disk = v->volume_id + strlen(prefix);
    const char *plus = strrchr(disk, '+');
    if (!plus)
        return 0;
    char *name SP_FREE = strndup(disk, (size_t)(plus - disk));
    if (!name)
        return -ENOMEM;
    const Sp__SourceDisk *source = match_find(m, name);
    return source ? message_take(&v->volume_id, sp_format("plain:%s%s", source->disk_id, plus)) : 0;
}

int match_rewrite(const struct match *m, Sp__Inventory *inventory)
{
    for (size_t i = 0; i < inventory->n_volumes; i++) {
        Sp__Volume *v = inventory->volumes[i];
        int r = rewrite_plain_id(m, v);
        for (size_t j = 0; j < v->n_extents && r == 0; j++) {
            Sp__DiskExtent *on = v->extents[j]->on;
            const Sp__SourceDisk *source = on ? match_find(m, on->disk_id) : NULL;
            if (source)
                r = message_set(&on->disk_id, source->disk_id);
        }
        if (r < 0)
            return r;
    }
    return 0;
}
