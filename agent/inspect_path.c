/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One device or image by itself: a look at it as at a disk. */
#include "agent/inspect.h"
#include "agent/inspect_volume.h"
#include "agent/json.h"
#include "agent/message.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* A reader that remembers where it failed, below one that goes on where it can. */
struct source {
    int fd;
    struct volume_reader file, watched;
    struct volume_unreadable unreadable;
    uint64_t failed_at; /* the first byte of all */
};

static int source_read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    struct source *s = self;
    int r = s->file.read_at(s->file.self, offset, out, length);
    if (r < 0 && offset < s->failed_at)
        s->failed_at = offset;
    return r;
}

/* A range that nothing accounts for. */
struct rest {
    uint64_t offset, length;
    enum volume_looks looks;
};

struct result {
    uint64_t size;
    struct volume_look look;
    struct rest *rests;
    size_t rest_count;
};

static void result_clear(struct result *r)
{
    volume_look_free(&r->look);
    free(r->rests);
}

static int add_rest(const struct volume_reader *reader, uint64_t from, uint64_t to,
                    struct result *r)
{
    if (from >= to)
        return 0;
    struct rest one = {.offset = from, .length = to - from};
    int rc = volume_sample(reader, one.offset, one.length, &one.looks);
    if (rc < 0 || one.looks == VOLUME_LOOKS_EMPTY)
        return rc;
    struct rest *grown = reallocarray(r->rests, r->rest_count + 1, sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    r->rests = grown;
    grown[r->rest_count++] = one;
    return 0;
}

/* The ranges come sorted by their place. */
static int find_rests(const struct volume_reader *reader, struct result *r)
{
    uint64_t at = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < r->look.range_count; i++) {
        const Sp__DiskExtent *on = r->look.ranges[i]->on;
        rc = add_rest(reader, at, on->offset_bytes, r);
        if (on->offset_bytes + on->length_bytes > at)
            at = on->offset_bytes + on->length_bytes;
    }
    return rc < 0 ? rc : add_rest(reader, at, reader->size_bytes, r);
}

/* ---- what cannot be looked into as it is ---- */

static const char *container_format(const struct volume_reader *reader)
{
    static const struct {
        const char *magic, *name;
        size_t size;
        bool at_end; /* in the last 512 bytes */
    } formats[] = {
        {"QFI\xfb", "qcow2", 4, false},
        {"KDMV", "vmdk", 4, false},
        {"vhdxfile", "vhdx", 8, false},
        {"<<< Oracle VM VirtualBox", "vdi", 24, false},
        {"\xfd"
         "7zXZ",
         "xz", 5, false},
        {"\x1f\x8b\x08", "gzip", 3, false},
        {"conectix", "vhd", 8, true},
    };
    for (size_t i = 0; i < SP_COUNT(formats); i++) {
        char text[24];
        uint64_t at = formats[i].at_end ? reader->size_bytes - 512 : 0;
        if (reader->size_bytes >= 512 &&
            reader->read_at(reader->self, at, text, (uint32_t)formats[i].size) == 0 &&
            memcmp(text, formats[i].magic, formats[i].size) == 0)
            return formats[i].name;
    }
    return NULL;
}

static int refuse_container(const char *path, const char *format, struct sp_why *why)
{
    bool packed = strcmp(format, "xz") == 0 || strcmp(format, "gzip") == 0;
    if (packed)
        return sp_why_set(why, -EMEDIUMTYPE, "'%s' is packed (%s): unpack it first", path, format);
    return sp_why_set(
        why, -EMEDIUMTYPE,
        "'%s' is a %s image, not a raw one: 'qemu-nbd --read-only --connect /dev/nbd0 "
        "%s' makes a device of it, which can be inspected",
        path, format, path);
}

static int source_open(const char *path, struct source *s, struct sp_why *why)
{
    struct stat st;
    s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (s->fd < 0)
        return sp_why_set(why, -errno, "cannot open '%s'", path);
    if (fstat(s->fd, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return sp_why_set(why, S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL,
                          "'%s' is neither a block device nor an image file", path);
    off_t size = lseek(s->fd, 0, SEEK_END);
    if (size < 0)
        return sp_why_set(why, -errno, "cannot find the size of '%s'", path);
    if (size == 0)
        return sp_why_set(why, -ENODATA, "'%s' is empty", path);
    s->file = volume_reader_of_fd(&s->fd, (uint64_t)size);
    s->watched = (struct volume_reader){
        .read_at = source_read_at, .self = s, .size_bytes = s->file.size_bytes};
    return 0;
}

/* What could not be read is nothing that one may pass over. */
static int add_unreadable(const struct source *s, const char *disk_id, struct volume_look *look)
{
    uint64_t offset, length;
    for (size_t next = 0; volume_unreadable_range(&s->unreadable, &next, &offset, &length);) {
        Sp__Finding *f = malloc(sizeof(*f));
        SP_FREE char *text = sp_format(
            "bytes %llu to %llu cannot be read (%s): they are taken for zeros here, and what the "
            "rest shows may be less than there is",
            (unsigned long long)offset, (unsigned long long)(offset + length - 1), strerror(EIO));
        if (!f || !text) {
            free(f);
            return -ENOMEM;
        }
        sp__finding__init(f);
        f->reason = SP__REASON__REASON_UNIDENTIFIED_CONTENT;
        f->offset_bytes = offset;
        f->length_bytes = length;
        int r = message_append(&look->findings, &look->finding_count, f);
        if (r < 0) {
            free(f);
            return r;
        }
        r = message_text(&f->text, text);
        if (r == 0)
            r = message_text(&f->disk_id, disk_id);
        if (r < 0)
            return r;
    }
    return 0;
}

static int look_at(const char *path, struct source *s, struct result *result, struct sp_why *why)
{
    const char *slash = strrchr(path, '/'), *format;
    struct volume_reader reader =
        volume_reader_lenient(&s->unreadable, &s->watched, VOLUME_UNREADABLE_MOST);
    int sector = 0;
    if (ioctl(s->fd, BLKSSZGET, &sector) < 0 || sector <= 0)
        sector = 512;
    const struct volume_disk disk = {.disk_id = slash ? slash + 1 : path,
                                     .reader = reader,
                                     .logical_sector_bytes = (uint32_t)sector};
    result->size = reader.size_bytes;
    int r = volume_look(&disk, 1, true, &result->look);
    if (r == 0)
        r = find_rests(&reader, result);
    if (r == 0)
        r = add_unreadable(s, disk.disk_id, &result->look);
    if (r < 0)
        return sp_why_set(why, r, "cannot read '%s' at byte %llu", path,
                          (unsigned long long)s->failed_at);
    if (result->look.volume_count == 0 && (format = container_format(&reader)))
        return refuse_container(path, format, why);
    return 0;
}

static int read_path(const char *path, struct result *result, struct sp_why *why)
{
    struct source s = {.fd = -1, .failed_at = UINT64_MAX};
    int r = source_open(path, &s, why);
    if (r == 0)
        r = look_at(path, &s, result, why);
    if (s.fd >= 0)
        close(s.fd);
    return r;
}

/* ---- for people ---- */

static void print_range(uint64_t offset, uint64_t length, const char *what, const char *id,
                        FILE *out)
{
    fprintf(out, "  %16llu %9s  %s%s%s\n", (unsigned long long)offset, INSPECT_SIZE(length), what,
            id[0] ? "  " : "", id);
}

static void print_rest(const struct rest *rest, FILE *out)
{
    print_range(rest->offset, rest->length,
                rest->looks == VOLUME_LOOKS_RANDOM ? "UNKNOWN, looks random" : "UNKNOWN", "", out);
}

static void print_text(const char *path, const struct result *r, FILE *out)
{
    size_t next = 0;
    bool random = false;
    SP_FREE char *name = strdup(path);
    if (name)
        inspect_clean(name);
    fprintf(out, "%s, %s\n\n", name ? name : "", INSPECT_SIZE(r->size));
    for (size_t i = 0; i < r->look.range_count; i++) {
        const Sp__RangeUse *use = r->look.ranges[i];
        for (; next < r->rest_count && r->rests[next].offset < use->on->offset_bytes; next++)
            print_rest(&r->rests[next], out);
        print_range(use->on->offset_bytes, use->on->length_bytes, use->what, use->volume_id, out);
    }
    for (; next < r->rest_count; next++)
        print_rest(&r->rests[next], out);
    if (r->look.range_count == 0 && r->rest_count == 0)
        fprintf(out, "  nothing but zeros where it was sampled\n");
    for (size_t i = 0; i < r->rest_count; i++)
        random |= r->rests[i].looks == VOLUME_LOOKS_RANDOM;
    if (random)
        fprintf(out,
                "\n  What looks random may be encrypted without a header here: plain dm-crypt, "
                "VeraCrypt, LUKS\n  whose header lies elsewhere or is lost. Whether it is "
                "cannot be told from the bytes.\n");
    inspect_print_look(&r->look, out);
}

/* ---- JSON ---- */

static int json_list(struct sp_buffer *out, const char *name, const void *list, size_t count)
{
    ProtobufCMessage *const *messages = list;
    int r = sp_buffer_printf(out, ",\n      \"%s\": [", name);
    for (size_t i = 0; r == 0 && i < count; i++) {
        r = sp_buffer_printf(out, "%s\n        ", i ? "," : "");
        if (r == 0)
            r = json_message(out, messages[i], 4);
    }
    return r == 0 ? sp_buffer_printf(out, "%s]", count ? "\n      " : "") : r;
}

static int json_rests(struct sp_buffer *out, const struct result *result)
{
    int r = sp_buffer_printf(out, ",\n      \"unknown\": [");
    for (size_t i = 0; r == 0 && i < result->rest_count; i++) {
        const struct rest *rest = &result->rests[i];
        r = sp_buffer_printf(
            out, "%s\n        {\"offset_bytes\": %llu, \"length_bytes\": %llu, \"looks\": \"%s\"}",
            i ? "," : "", (unsigned long long)rest->offset, (unsigned long long)rest->length,
            rest->looks == VOLUME_LOOKS_RANDOM ? "random" : "other");
    }
    return r == 0 ? sp_buffer_printf(out, "%s]", result->rest_count ? "\n      " : "") : r;
}

static int json_result(struct sp_buffer *out, const char *path, const struct result *result,
                       int error, const struct sp_why *why)
{
    int r = sp_buffer_printf(out, "    {\n      \"path\": ");
    if (r == 0)
        r = json_string(out, path);
    if (r == 0 && error < 0) {
        r = sp_buffer_printf(out, ",\n      \"error\": ");
        if (r == 0)
            r = json_string(out, sp_why_told(why, error).text);
        return r == 0 ? sp_buffer_printf(out, "\n    }") : r;
    }
    const struct volume_look *look = &result->look;
    if (r == 0)
        r = sp_buffer_printf(out, ",\n      \"size_bytes\": %llu",
                             (unsigned long long)result->size);
    if (r == 0)
        r = json_list(out, "volumes", look->volumes, look->volume_count);
    if (r == 0)
        r = json_list(out, "ranges", look->ranges, look->range_count);
    if (r == 0)
        r = json_rests(out, result);
    if (r == 0)
        r = json_list(out, "findings", look->findings, look->finding_count);
    return r == 0 ? sp_buffer_printf(out, "\n    }") : r;
}

/* ---- all ---- */

int inspect_paths(char *const *paths, size_t count, bool json, FILE *out, FILE *errors)
{
    int first = 0;
    if (json)
        fprintf(out, "{\n  \"images\": [\n");
    for (size_t i = 0; i < count; i++) {
        struct result result = {0};
        struct sp_why why = {0};
        int r = read_path(paths[i], &result, &why);
        SP_BUFFER struct sp_buffer text = {0};
        if (json && json_result(&text, paths[i], &result, r, &why) == 0)
            fprintf(out, "%s%s\n", sp_buffer_text(&text), i + 1 < count ? "," : "");
        if (!json && r == 0) {
            fprintf(out, "%s", i ? "\n" : "");
            print_text(paths[i], &result, out);
        }
        if (r < 0) {
            struct sp_why told = sp_why_told(&why, r);
            inspect_clean(told.text);
            fflush(out);
            fprintf(errors, "sealpoint-agent: %s\n", told.text);
        }
        first = first ? first : r;
        result_clear(&result);
    }
    if (json)
        fprintf(out, "  ]\n}\n");
    return first;
}
