/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/inspect.h"
#include "agent/inspect_volume.h"
#include "agent/inventory.h"
#include "agent/json.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- clean texts: names and labels come from whoever made the device ---- */

void inspect_clean(char *text)
{
    for (unsigned char *at = (unsigned char *)text; *at; at++)
        /* C1 controls, too: terminals obey U+009B as they obey ESC [ */
        if (*at < 0x20 || *at == 0x7f || (*at == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0))
            *at = '?';
}

static void clean_message(ProtobufCMessage *message)
{
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &message->descriptor->fields[i];
        uint8_t *at = (uint8_t *)message + f->offset;
        bool many = f->label == PROTOBUF_C_LABEL_REPEATED;
        if (f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        size_t count = many ? *(const size_t *)((uint8_t *)message + f->quantifier_offset) : 1;
        void **list = many ? *(void ***)at : (void **)at;
        for (size_t n = 0; n < count; n++) {
            if (f->type == PROTOBUF_C_TYPE_MESSAGE && list[n])
                clean_message(list[n]);
            else if (f->type == PROTOBUF_C_TYPE_STRING && list[n] &&
                     list[n] != (const void *)protobuf_c_empty_string)
                inspect_clean(list[n]);
        }
    }
}

/* ---- the tree of devices ---- */

enum { DEPTH_MOST = 32, NAME_COLUMN_MOST = 40 };

struct tree {
    const Sp__Inventory *inventory;
    FILE *out;
    int column; /* width of the names */
};

static void name_of(const Sp__BlockDevice *device, char *out, size_t size)
{
    if (device->dm_name[0])
        snprintf(out, size, "%s (%s)", device->dm_name, device->name);
    else
        snprintf(out, size, "%s", device->name);
}

static bool lies_on(const Sp__BlockDevice *device, const Sp__BlockDevice *below)
{
    for (size_t n = 0; n < device->n_parents; n++)
        if (strcmp(device->parents[n], below->name) == 0)
            return true;
    return false;
}

/* The name column as wide as its widest entry. */
static void measure(struct tree *tree, const Sp__BlockDevice *device, unsigned depth)
{
    char name[256];
    name_of(device, name, sizeof(name));
    int width = (int)(depth * 2 + strlen(name));
    if (width > tree->column && width <= NAME_COLUMN_MOST)
        tree->column = width;
    for (size_t i = 0; depth < DEPTH_MOST && i < tree->inventory->n_devices; i++)
        if (lies_on(tree->inventory->devices[i], device))
            measure(tree, tree->inventory->devices[i], depth + 1);
}

static const Sp__Volume *volume_on(const Sp__Inventory *inventory, const char *device)
{
    for (size_t i = 0; i < inventory->n_volumes; i++) {
        const Sp__Volume *v = inventory->volumes[i];
        if (inspect_is_encrypted(v) && v->n_stack && strcmp(v->stack[0], device) == 0)
            return v;
    }
    return NULL;
}

/* What a dm device does, where that is not LVM or what is printed as an encrypted volume. */
static const char *mapping_words(const Sp__BlockDevice *device)
{
    static const struct {
        const char *prefix, *words;
    } kinds[] = {
        {"LVM-", "logical volume"},
        {"CRYPT-VERITY-", "dm-verity"},
        {"CRYPT-INTEGRITY-", "dm-integrity"},
        {"CRYPT-SUBDEV-", "dm-integrity below LUKS2"},
        {"CRYPT-", "decrypted"},
        {"mpath-", "multipath"},
    };
    for (size_t i = 0; i < SP_COUNT(kinds); i++)
        if (strncmp(device->dm_uuid, kinds[i].prefix, strlen(kinds[i].prefix)) == 0)
            return kinds[i].words;
    return "device-mapper";
}

static void print_device(const struct tree *tree, const Sp__BlockDevice *device, unsigned depth)
{
    FILE *out = tree->out;
    char name[256];
    name_of(device, name, sizeof(name));
    fprintf(out, "%*s%-*s %9s  %s", (int)depth * 2, "", tree->column - (int)depth * 2, name,
            INSPECT_SIZE(device->size_bytes),
            strcmp(device->type, "dm") == 0 ? mapping_words(device) : device->type);
    if (device->partition_table[0])
        fprintf(out, " (%s)", device->partition_table);
    const Sp__Volume *volume = volume_on(tree->inventory, device->name);
    if (volume)
        fprintf(out, ", ENCRYPTED: %s", inspect_kind(volume));
    else if (device->content) {
        fprintf(out, ", ");
        inspect_content(device->content, out);
    }
    if (device->read_only)
        fprintf(out, ", read-only");
    for (size_t i = 0; i < device->n_mount_points; i++)
        fprintf(out, "%s%s", i ? ", " : ", on ", device->mount_points[i]);
    if (device->serial[0])
        fprintf(out, ", serial %s", device->serial);
    fprintf(out, "\n");
    for (size_t i = 0; depth < DEPTH_MOST && i < tree->inventory->n_devices; i++)
        if (lies_on(tree->inventory->devices[i], device))
            print_device(tree, tree->inventory->devices[i], depth + 1);
}

static void print_volumes(Sp__Volume *const *volumes, size_t count, FILE *out)
{
    size_t shown = 0;
    for (size_t i = 0; i < count; i++) {
        if (!inspect_is_encrypted(volumes[i]))
            continue;
        if (shown++ == 0)
            fprintf(out, "\nEncrypted volumes\n");
        fprintf(out, "\n");
        inspect_volume(volumes[i], out);
    }
    if (shown == 0)
        fprintf(out, "\nNo encrypted volume is seen.\n");
}

static void print_findings(Sp__Finding *const *findings, size_t count, FILE *out)
{
    if (count == 0)
        return;
    fprintf(out, "\nFindings\n\n");
    inspect_findings(findings, count, out);
}

static void print_file_systems(const Sp__Inventory *inventory, FILE *out)
{
    fprintf(out, "\nFile systems\n\n");
    for (size_t i = 0; i < inventory->n_file_systems; i++) {
        const Sp__FileSystem *fs = inventory->file_systems[i];
        fprintf(out, "  %s  %s%s%s%s%s\n", fs->mount_point, fs->type, fs->device[0] ? " on " : "",
                fs->device, fs->read_only ? ", read-only" : "", fs->network ? ", network" : "");
    }
}

static void print_guest(const Sp__Inventory *inventory, FILE *out)
{
    struct tree tree = {.inventory = inventory, .out = out};
    fprintf(out, "Block devices, each above what lies on it\n\n");
    for (size_t i = 0; i < inventory->n_devices; i++)
        if (inventory->devices[i]->n_parents == 0)
            measure(&tree, inventory->devices[i], 0);
    for (size_t i = 0; i < inventory->n_devices; i++)
        if (inventory->devices[i]->n_parents == 0)
            print_device(&tree, inventory->devices[i], 0);
    print_file_systems(inventory, out);
    print_volumes(inventory->volumes, inventory->n_volumes, out);
    print_findings(inventory->findings, inventory->n_findings, out);
}

void inspect_print(Sp__Inventory *inventory, FILE *out)
{
    clean_message(&inventory->base);
    print_guest(inventory, out);
}

int inspect_guest(bool json, FILE *out, struct sp_why *why)
{
    Sp__Inventory *inventory = NULL;
    int r = inventory_read(&inventory_roots_system, &inventory, why);
    if (r < 0)
        return r;
    if (json) {
        SP_BUFFER struct sp_buffer text = {0};
        r = json_message(&text, &inventory->base, 0);
        if (r == 0)
            fprintf(out, "%s\n", sp_buffer_text(&text));
    } else {
        inspect_print(inventory, out);
    }
    sp__inventory__free_unpacked(inventory, NULL);
    return r;
}

void inspect_print_look(const struct volume_look *look, FILE *out)
{
    print_volumes(look->volumes, look->volume_count, out);
    print_findings(look->findings, look->finding_count, out);
}
