/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/inspect.h"
#include "agent/inventory.h"
#include "agent/json.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "volume/volume.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* "1.5 GiB"; out has room for it. */
static const char *size_text(uint64_t bytes, char out[24])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < SP_COUNT(units))
        value /= 1024, unit++;
    snprintf(out, 24, unit == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return out;
}
#define SIZE(n) size_text((n), (char[24]){0})

static const char *kind_text(Sp__VolumeKind kind)
{
    switch (kind) {
    case SP__VOLUME_KIND__VOLUME_KIND_CLEAR:
        return "clear";
    case SP__VOLUME_KIND__VOLUME_KIND_LUKS1:
        return "LUKS1";
    case SP__VOLUME_KIND__VOLUME_KIND_LUKS2:
        return "LUKS2";
    case SP__VOLUME_KIND__VOLUME_KIND_PLAIN:
        return "plain dm-crypt";
    case SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER:
        return "BitLocker";
    case SP__VOLUME_KIND__VOLUME_KIND_VERACRYPT:
        return "VeraCrypt";
    case SP__VOLUME_KIND__VOLUME_KIND_FILEVAULT2:
        return "FileVault 2";
    default:
        return "unknown";
    }
}

/* ---- facts of one volume ---- */

static void print_protectors(const Sp__HeaderFacts *header, const char *indent, FILE *out)
{
    const ProtobufCEnumDescriptor *types = &sp__protector_type__descriptor;
    for (size_t i = 0; i < header->n_protectors; i++) {
        const Sp__Protector *p = header->protectors[i];
        char type[64];
        snprintf(type, sizeof(type), "%s", sp_enum_name(types, (int)p->type, "PROTECTOR_TYPE_"));
        for (char *at = type; *at; at++)
            *at = *at == '_' ? ' ' : (char)(*at >= 'A' && *at <= 'Z' ? *at + 32 : *at);
        fprintf(out, "%s%s %s", indent, type, p->id);
        if (p->kdf[0])
            fprintf(out, ", %s", p->kdf);
        if (p->kdf_memory_kib)
            fprintf(out, ", %s", SIZE(p->kdf_memory_kib * 1024));
        if (p->kdf_iterations)
            fprintf(out, ", %llu iterations", (unsigned long long)p->kdf_iterations);
        if (!p->usable)
            fprintf(out, ", opens nothing");
        fprintf(out, "\n");
    }
}

static void print_header(const Sp__HeaderFacts *header, const char *indent, FILE *out)
{
    if (header->cipher[0]) {
        fprintf(out, "%s%s", indent, header->cipher);
        if (header->key_bits)
            fprintf(out, ", %u-bit key", header->key_bits);
        if (header->sector_bytes)
            fprintf(out, ", %u-byte sectors", header->sector_bytes);
        if (header->state[0])
            fprintf(out, ", %s", header->state);
        fprintf(out, "\n");
    }
    if (header->detached)
        fprintf(out, "%sits header is detached\n", indent);
    if (header->damaged)
        fprintf(out, "%sDAMAGED: %s\n", indent, header->damage);
    if (header->conversion_in_progress)
        fprintf(out, "%s(re-)encryption is under way, %u %%\n", indent, header->conversion_percent);
    if (header->protection_suspended)
        fprintf(out, "%sprotection is SUSPENDED: the key lies in clear on the disk\n", indent);
    print_protectors(header, indent, out);
}

static void print_content(const Sp__Content *content, FILE *out)
{
    fprintf(out, "%s", content->type);
    if (content->label[0])
        fprintf(out, " \"%s\"", content->label);
    if (content->uuid[0])
        fprintf(out, " %s", content->uuid);
}

static void print_volume(const Sp__Volume *volume, const char *indent, FILE *out)
{
    SP_FREE char *deeper = NULL;
    if (asprintf(&deeper, "%s    ", indent) < 0)
        return;
    fprintf(out, "%s%s, %s, %s\n", indent, kind_text(volume->kind), SIZE(volume->size_bytes),
            volume->volume_id);
    if (volume->open)
        fprintf(out, "%sopen as %s%s\n", deeper, volume->mapped_name,
                volume->ephemeral ? ", with a new key at every boot" : "");
    if (volume->content) {
        fprintf(out, "%sholds ", deeper);
        print_content(volume->content, out);
        fprintf(out, "\n");
    }
    if (volume->plain && volume->plain->cipher[0])
        fprintf(out, "%s%s, %u-bit key, offset %llu, skip %llu\n", deeper, volume->plain->cipher,
                volume->plain->key_bits, (unsigned long long)volume->plain->offset_sectors,
                (unsigned long long)volume->plain->skip_sectors);
    if (volume->header)
        print_header(volume->header, deeper, out);
    for (size_t i = 0; i < volume->n_extents; i++) {
        const Sp__DiskExtent *on = volume->extents[i]->on;
        fprintf(out, "%son %s, from %llu, %s\n", deeper, on->disk_id,
                (unsigned long long)on->offset_bytes, SIZE(on->length_bytes));
    }
}

/* ---- the guest as a tree ---- */

static const Sp__Volume *volume_on(const Sp__Inventory *inventory, const char *device)
{
    for (size_t i = 0; i < inventory->n_volumes; i++)
        if (strcmp(inventory->volumes[i]->stack[0], device) == 0)
            return inventory->volumes[i];
    return NULL;
}

static void print_device_line(const Sp__BlockDevice *device, unsigned depth, FILE *out)
{
    fprintf(out, "%*s%s  %s, %s", (int)depth * 2, "", device->name, device->type,
            SIZE(device->size_bytes));
    if (device->dm_name[0])
        fprintf(out, ", %s", device->dm_name);
    if (device->serial[0])
        fprintf(out, ", serial %s", device->serial);
    if (device->partition_table[0])
        fprintf(out, ", %s table", device->partition_table);
    if (device->read_only)
        fprintf(out, ", read-only");
    if (device->content) {
        fprintf(out, ", ");
        print_content(device->content, out);
    }
    for (size_t i = 0; i < device->n_mount_points; i++)
        fprintf(out, "%s%s", i ? ", " : ", on ", device->mount_points[i]);
    fprintf(out, "\n");
}

static void print_device(const Sp__Inventory *inventory, const Sp__BlockDevice *device,
                         unsigned depth, FILE *out)
{
    print_device_line(device, depth, out);
    const Sp__Volume *volume = volume_on(inventory, device->name);
    if (volume && volume->kind != SP__VOLUME_KIND__VOLUME_KIND_CLEAR) {
        SP_FREE char *indent = NULL;
        if (asprintf(&indent, "%*s", (int)depth * 2 + 4, "") >= 0)
            print_volume(volume, indent, out);
    }
    for (size_t i = 0; depth < 32 && i < inventory->n_devices; i++)
        for (size_t n = 0; n < inventory->devices[i]->n_parents; n++)
            if (strcmp(inventory->devices[i]->parents[n], device->name) == 0)
                print_device(inventory, inventory->devices[i], depth + 1, out);
}

static void print_guest(const Sp__Inventory *inventory, FILE *out)
{
    for (size_t i = 0; i < inventory->n_devices; i++)
        if (inventory->devices[i]->n_parents == 0)
            print_device(inventory, inventory->devices[i], 0, out);
    fprintf(out, "\nfile systems:\n");
    for (size_t i = 0; i < inventory->n_file_systems; i++) {
        const Sp__FileSystem *fs = inventory->file_systems[i];
        fprintf(out, "  %s  %s%s%s%s%s\n", fs->mount_point, fs->type, fs->device[0] ? " on " : "",
                fs->device, fs->read_only ? ", read-only" : "", fs->network ? ", network" : "");
    }
}

static int print_json(const ProtobufCMessage *message, FILE *out)
{
    SP_BUFFER struct sp_buffer text = {0};
    int r = json_message(&text, message, 0);
    if (r == 0)
        fprintf(out, "%s\n", sp_buffer_text(&text));
    return r;
}

int inspect_guest(bool json, FILE *out, struct sp_why *why)
{
    Sp__Inventory *inventory = NULL;
    int r = inventory_read(&inventory_roots_system, &inventory, why);
    if (r < 0)
        return r;
    if (json)
        r = print_json(&inventory->base, out);
    else
        print_guest(inventory, out);
    sp__inventory__free_unpacked(inventory, NULL);
    return r;
}

/* ---- one device or image ---- */

static int print_look(const char *path, const struct volume_look *look, bool json, FILE *out)
{
    if (json) {
        Sp__Inventory all = SP__INVENTORY__INIT;
        all.volumes = look->volumes;
        all.n_volumes = look->volume_count;
        all.findings = look->findings;
        all.n_findings = look->finding_count;
        return print_json(&all.base, out);
    }
    fprintf(out, "%s\n", path);
    for (size_t i = 0; i < look->range_count; i++)
        fprintf(out, "  %14llu %10s  %s\n", (unsigned long long)look->ranges[i]->on->offset_bytes,
                SIZE(look->ranges[i]->on->length_bytes), look->ranges[i]->what);
    for (size_t i = 0; i < look->volume_count; i++)
        print_volume(look->volumes[i], "  ", out);
    for (size_t i = 0; i < look->finding_count; i++)
        fprintf(out, "  ! %s\n", look->findings[i]->text);
    if (look->volume_count == 0)
        fprintf(out, "  nothing that is known\n");
    return 0;
}

int inspect_path(const char *path, bool json, FILE *out, struct sp_why *why)
{
    SP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return sp_why_set(why, -errno, "cannot open '%s'", path);
    off_t size = lseek(fd, 0, SEEK_END);
    if (size < 0)
        return sp_why_set(why, -errno, "cannot find the size of '%s'", path);
    const char *slash = strrchr(path, '/');
    struct volume_disk disk = {.disk_id = slash ? slash + 1 : path,
                               .reader = volume_reader_of_fd(&fd, (uint64_t)size),
                               .logical_sector_bytes = 512};
    struct volume_look look = {0};
    int r = volume_look(&disk, 1, true, &look);
    if (r < 0)
        return sp_why_set(why, r, "cannot read '%s'", path);
    r = print_look(path, &look, json, out);
    volume_look_free(&look);
    return r;
}
