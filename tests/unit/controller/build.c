/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "build.h"
#include "base/file.h"
#include <ftw.h>
#include <string.h>

static void set(char **field, const char *text)
{
    assert_int_equal(message_set(field, text), 0);
}

static void *make(const ProtobufCMessageDescriptor *type)
{
    void *m = message_new(type);
    assert_non_null(m);
    return m;
}

Sp__Finding *a_finding(Sp__Reason reason, const char *volume_id, const char *disk_id,
                       uint64_t offset)
{
    Sp__Finding *f = make(&sp__finding__descriptor);
    f->reason = reason;
    f->offset_bytes = offset;
    set(&f->volume_id, volume_id);
    set(&f->disk_id, disk_id);
    return f;
}

Sp__Volume *a_volume(Sp__VolumeKind kind, const char *volume_id, const char *disk_id,
                     uint64_t offset, uint64_t length)
{
    Sp__Volume *v = make(&sp__volume__descriptor);
    v->kind = kind;
    v->size_bytes = length;
    set(&v->volume_id, volume_id);
    set(&v->device, "/dev/test");
    if (length) {
        Sp__VolumeExtent *extent = make(&sp__volume_extent__descriptor);
        extent->on = make(&sp__disk_extent__descriptor);
        set(&extent->on->disk_id, disk_id);
        extent->on->offset_bytes = offset;
        extent->on->length_bytes = length;
        ADD(v, extents, extent);
    }
    return v;
}

void with_header(Sp__Volume *v, const char *uuid, uint8_t fingerprint)
{
    uint8_t bytes[32];
    memset(bytes, fingerprint, sizeof(bytes));
    v->header = make(&sp__header_facts__descriptor);
    set(&v->header->uuid, uuid);
    assert_int_equal(message_set_bytes(&v->header->fingerprint, bytes, sizeof(bytes)), 0);
}

Sp__BlockDevice *a_device(const char *name, const char *type, const char *serial,
                          const char *parent)
{
    Sp__BlockDevice *d = make(&sp__block_device__descriptor);
    d->size_bytes = 1 << 20;
    set(&d->name, name);
    set(&d->type, type);
    set(&d->serial, serial);
    if (parent)
        assert_int_equal(message_append_text(&d->parents, &d->n_parents, parent), 0);
    return d;
}

Sp__SourceDisk *a_source_disk(const char *disk_id, const char *serial, const char *pci_path)
{
    Sp__SourceDisk *d = make(&sp__source_disk__descriptor);
    set(&d->disk_id, disk_id);
    set(&d->source_name, disk_id);
    set(&d->serial, serial);
    set(&d->pci_path, pci_path);
    d->size_bytes = 1 << 20;
    return d;
}

Sp__FileSystem *a_file_system(const char *mount_point, const char *device)
{
    Sp__FileSystem *fs = make(&sp__file_system__descriptor);
    set(&fs->mount_point, mount_point);
    set(&fs->type, "ext4");
    set(&fs->device, device);
    fs->has_block_device = 1;
    return fs;
}

Sp__FreezeResult *a_result(const char *mount_point, Sp__FreezeResult__Outcome outcome)
{
    Sp__FreezeResult *r = make(&sp__freeze_result__descriptor);
    set(&r->mount_point, mount_point);
    r->outcome = outcome;
    return r;
}

Sp__DiskImage *a_disk(const char *disk_id, uint64_t size)
{
    Sp__DiskImage *d = make(&sp__disk_image__descriptor);
    set(&d->disk_id, disk_id);
    d->size_bytes = size;
    return d;
}

char *make_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    char *path = sp_format("%s/sealpoint-controller-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(path);
    assert_non_null(mkdtemp(path));
    return path;
}

static int remove_one(const char *path, const struct stat *s, int flag, struct FTW *ftw)
{
    (void)s;
    (void)flag;
    (void)ftw;
    return remove(path);
}

void remove_folder(char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(path);
}
