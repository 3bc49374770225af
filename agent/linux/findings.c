/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/scan.h"
#include "agent/message.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct about {
    struct scan *scan;
    const char *volume_id, *disk_id, *device;
};

/* The texts must not move by themselves: the digest of the inventory is over them, too. */
static int add(void *self, Sp__Reason reason, bool is_note, const char *text)
{
    const struct about *about = self;
    Sp__Finding *f = malloc(sizeof(*f));
    SP_FREE char *whole = sp_format("%s: %s", about->device, text);
    if (!f || !whole) {
        free(f);
        return -ENOMEM;
    }
    sp__finding__init(f);
    Sp__Inventory *inventory = about->scan->inventory;
    int r = message_append(&inventory->findings, &inventory->n_findings, f);
    if (r < 0) {
        free(f);
        return r;
    }
    f->reason = reason;
    f->note = is_note;
    r = message_text(&f->text, whole);
    if (r == 0)
        r = message_text(&f->volume_id, about->volume_id);
    return r == 0 ? message_text(&f->disk_id, about->disk_id) : r;
}

static int of_device(struct scan *scan, const struct scan_device *device)
{
    const Sp__BlockDevice *m = device->message;
    struct about about = {.scan = scan, .device = m->name};
    if (strcmp(m->type, "disk") == 0)
        about.disk_id = scan_disk_id(m);
    /* A removable drive without a medium has nothing to say. */
    if (device->error == 0 || (m->removable && device->error == -ENOMEDIUM))
        return 0;
    bool forbidden = device->error == -EPERM || device->error == -EACCES;
    bool gone = device->error == -ENXIO || device->error == -ENODEV || device->error == -ENOENT;
    SP_FREE char *text =
        device->partly
            ? sp_format("it cannot be read whole (%s at byte %llu): what is told of it may be less "
                        "than there is; look at the kernel's log for its errors",
                        strerror(-device->error), (unsigned long long)device->unreadable_at)
            : sp_format("it cannot be read (%s), so nothing is known of what is on it: %s",
                        strerror(-device->error),
                        forbidden ? "run as root, and outside of a container"
                        : gone    ? "if it was unplugged, ask again"
                                  : "look at the kernel's log for its errors");
    return text ? add(&about, SP__REASON__REASON_UNIDENTIFIED_CONTENT, false, text) : -ENOMEM;
}

static int of_volume(struct scan *scan, const Sp__Volume *volume)
{
    struct about about = {.scan = scan, .volume_id = volume->volume_id, .device = volume->stack[0]};
    const Sp__HeaderFacts *header = volume->header;
    /* Of a header that lies elsewhere nothing but its UUID is known here. */
    return header && header->fingerprint.len ? volume_each_fault(header, add, &about) : 0;
}

/* The paths of one disk are one volume already; a second one with the same UUID is a clone. */
static int of_clones(struct scan *scan, const Sp__Volume *volume)
{
    struct about about = {.scan = scan, .volume_id = volume->volume_id, .device = volume->stack[0]};
    char first[256];
    if (!volume->header || !volume->header->uuid[0])
        return 0;
    volume_id_text(volume->kind, volume->header->uuid, "", 0, first, sizeof(first));
    size_t length = strlen(first);
    if (strncmp(volume->volume_id, first, length) != 0 || volume->volume_id[length] != '@')
        return 0;
    SP_FREE char *text =
        sp_format("another volume has its UUID, too (%s): they are told apart by their place; give "
                  "the clone its own ('cryptsetup luksUUID')",
                  first);
    return text ? add(&about, SP__REASON__REASON_INVENTORY_MISMATCH, true, text) : -ENOMEM;
}

int scan_findings(struct scan *scan)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < scan->count; i++)
        r = of_device(scan, &scan->devices[i]);
    for (size_t i = 0; r == 0 && i < scan->inventory->n_volumes; i++) {
        r = of_volume(scan, scan->inventory->volumes[i]);
        if (r == 0)
            r = of_clones(scan, scan->inventory->volumes[i]);
    }
    return r;
}
