/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The file source: raw images on a file system that shares blocks between files. A point is a clone
 * of each image (FICLONE), made beside it:
 *
 *     DIR/web1.raw   ──FICLONE──▶   DIR/.sealpoint-<point>-web1.raw      reads come from there
 *
 * Nothing stops the guest here: unless a freeze holds it, the clones of several images are several
 * points in time, and the grade says so. The clone of the last point that got through stays: what
 * lies at another place than in it has changed since (extents.h). It costs what the guest has
 * overwritten since then; a file system that runs full would stop the guest, so no clone is begun
 * without room to spare. */
#include "controller/mover/source/extents.h"
#include "controller/mover/source/qmp.h"
#include "controller/mover/source/source.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

enum { SPARE_PERCENT = 5, SECTOR = 512 };
#define CLONE_PREFIX ".sealpoint-"

struct image {
    int fd, clone; /* -1: not open */
    uint64_t size_bytes;
    const char *base_point_id; /* of the request; NULL: none */
    struct extent_range *changed;
    size_t changed_count;
};

struct source_snapshot {
    struct image *images;
    size_t count;
};

/* ── Names ── */

static const char *leaf_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static const char *disk_id_of(const Sp__ImageFile *f)
{
    return f->serial[0] ? f->serial : leaf_of(f->path);
}

/* To free(); NULL: no memory. */
static char *clone_path(const char *image, const char *point_id)
{
    const char *leaf = leaf_of(image);
    return sp_format("%.*s" CLONE_PREFIX "%s-%s", (int)(leaf - image), image, point_id, leaf);
}

/* ── Describe ── */

static int check_image(const char *path, const struct stat *st, struct sp_why *why)
{
    if (!S_ISREG(st->st_mode))
        return sp_why_set(why, -EINVAL, "'%s' is not a file", path);
    if (st->st_size == 0 || st->st_size % SECTOR != 0)
        return sp_why_set(why, -EINVAL, "'%s' is not a whole number of sectors: no raw image",
                          path);
    return 0;
}

static int open_image(const char *path, uint64_t *ret_size, struct sp_why *why)
{
    struct stat st;
    char magic[4] = "";
    SP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) < 0)
        return sp_why_set(why, -errno, "image '%s' cannot be opened: %s", path, strerror(errno));
    int r = check_image(path, &st, why);
    if (r == 0)
        r = sp_pread_all(fd, magic, sizeof(magic), 0);
    /* A guest may write anything into a raw disk; what must not happen is that a container is taken
     * for one. */
    if (r == 0 && memcmp(magic, "QFI\xfb", 4) == 0)
        return sp_why_set(
            why, -EINVAL,
            "'%s' begins as a qcow2 image does; this source reads raw images only: use "
            "--qmp, or convert it",
            path);
    if (r < 0)
        return r;
    *ret_size = (uint64_t)st.st_size;
    return sp_steal_fd(&fd);
}

static int fill_disk(const Sp__ImageFile *f, uint64_t size, Sp__SourceDisk *d)
{
    sp__source_disk__init(d);
    d->size_bytes = size;
    d->logical_sector_bytes = SECTOR;
    d->disk_id = strdup(disk_id_of(f));
    d->source_name = strdup(leaf_of(f->path));
    d->serial = strdup(f->serial);
    d->format = strdup("raw");
    d->file = strdup(f->path);
    return d->disk_id && d->source_name && d->serial && d->format && d->file ? 0 : -ENOMEM;
}

/* Appends; *list has room. */
static int add_disk(const Sp__ImageFile *f, uint64_t size, Sp__SourceDisk **list, size_t *count)
{
    Sp__SourceDisk *d = malloc(sizeof(*d));
    if (!d)
        return -ENOMEM;
    list[(*count)++] = d;
    return fill_disk(f, size, d);
}

static int describe(const Sp__DescribeRequest *request, Sp__DescribeResponse **ret,
                    struct sp_why *why)
{
    const Sp__FileSource *s = request->source->file;
    Sp__DescribeResponse *d = malloc(sizeof(*d));
    if (!d)
        return -ENOMEM;
    sp__describe_response__init(d);
    d->running = true; /* a file does not tell */
    d->disks = calloc(s->n_images + 1, sizeof(*d->disks));
    int r = d->disks ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < s->n_images; i++) {
        uint64_t size;
        SP_FD int fd = open_image(s->images[i]->path, &size, why);
        r = fd < 0 ? fd : add_disk(s->images[i], size, d->disks, &d->n_disks);
    }
    if (r < 0) {
        sp__describe_response__free_unpacked(d, NULL);
        return r;
    }
    *ret = d;
    return 0;
}

/* ── Snapshot ── */

struct making {
    const Sp__SnapshotRequest *request;
    const Sp__ImageFile **chosen;
    struct source_snapshot *snapshot; /* images as chosen */
    struct sp_why *why;
};

static int choose(struct making *m)
{
    const Sp__FileSource *s = m->request->source->file;
    size_t count = 0;
    for (size_t i = 0; i < s->n_images; i++) {
        bool wanted = !m->request->n_disk_ids;
        for (size_t j = 0; j < m->request->n_disk_ids; j++)
            wanted |= !strcmp(m->request->disk_ids[j], disk_id_of(s->images[i]));
        if (wanted)
            m->chosen[count++] = s->images[i];
    }
    m->snapshot->count = count;
    if (m->request->n_disk_ids && count != m->request->n_disk_ids)
        return sp_why_set(m->why, -ENOENT, "the source has %zu of the %zu disks asked for", count,
                          m->request->n_disk_ids);
    return count ? 0 : sp_why_set(m->why, -ENODEV, "the source names no image");
}

static int check_room(int fd, const char *path, struct sp_why *why)
{
    struct statvfs v;
    if (fstatvfs(fd, &v) < 0)
        return -errno;
    if (v.f_bavail / SPARE_PERCENT >= v.f_blocks / 100)
        return 0;
    return sp_why_set(why, -ENOSPC,
                      "the file system of '%s' is fuller than %d %%: with a clone beside it, each "
                      "block that the guest overwrites takes room, and a full one stops the guest; "
                      "make room first",
                      path, 100 - SPARE_PERCENT);
}

static int journal_text(const struct making *m, json_object **ret)
{
    json_object *images = json_object_new_array();
    json_object *told =
        qmp_object("source=s,point=s,images=o", "file", m->request->point_id, images);
    if (!told)
        return -ENOMEM;
    for (size_t i = 0; i < m->snapshot->count; i++) {
        json_object *path = json_object_new_string(m->chosen[i]->path);
        if (!path || json_object_array_add(images, path)) {
            json_object_put(told);
            return -ENOMEM;
        }
    }
    *ret = told;
    return 0;
}

/* Opens the image and makes the clone's file, empty. */
static int prepare(struct making *m, size_t n)
{
    struct image *image = &m->snapshot->images[n];
    const char *path = m->chosen[n]->path;
    SP_FREE char *name = clone_path(path, m->request->point_id);
    if (!name)
        return -ENOMEM;
    image->fd = open_image(path, &image->size_bytes, m->why);
    if (image->fd < 0)
        return image->fd;
    int r = check_room(image->fd, path, m->why);
    if (r < 0)
        return r;
    image->clone = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (image->clone < 0)
        return sp_why_set(m->why, -errno, "a clone of '%s' cannot be made beside it: %s", path,
                          strerror(errno));
    return 0;
}

static int clone_one(struct making *m, size_t n)
{
    const struct image *image = &m->snapshot->images[n];
    const char *path = m->chosen[n]->path;
    struct stat st;
    if (ioctl(image->clone, FICLONE, image->fd) < 0) {
        int e = errno;
        if (e == EOPNOTSUPP || e == EXDEV || e == EINVAL || e == ENOTTY)
            return sp_why_set(m->why, -EOPNOTSUPP,
                              "the file system of '%s' cannot clone it: an XFS with reflink or a "
                              "btrfs can (btrfs: not files with the attribute C)",
                              path);
        return sp_why_set(m->why, -e, "'%s' cannot be cloned: %s", path, strerror(e));
    }
    if (fstat(image->clone, &st) < 0 || (uint64_t)st.st_size != image->size_bytes)
        return sp_why_set(m->why, -ESTALE, "the size of '%s' changed while it was cloned", path);
    return 0;
}

/* ── What changed ── */

static int compare(struct image *image, int base)
{
    struct extents before, now;
    int r = extents_load(base, &before);
    if (r < 0)
        return r;
    r = extents_load(image->clone, &now);
    if (r == 0) {
        r = extents_changed(&before, &now, image->size_bytes, &image->changed,
                            &image->changed_count);
        extents_clear(&now);
    }
    extents_clear(&before);
    return r;
}

/* The first point asked for whose clone is there still. No base is no failure. */
static int find_base(struct making *m, size_t n)
{
    struct image *image = &m->snapshot->images[n];
    for (size_t i = 0; i < m->request->n_base_point_ids && !image->base_point_id; i++) {
        const char *point = m->request->base_point_ids[i];
        SP_FREE char *name = clone_path(m->chosen[n]->path, point);
        struct stat st;
        if (!name)
            return -ENOMEM;
        SP_FD int base = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (base < 0 || fstat(base, &st) < 0 || (uint64_t)st.st_size != image->size_bytes)
            continue;
        int r = compare(image, base);
        if (r == -ENOMEM)
            return r;
        if (r == 0)
            image->base_point_id = point;
    }
    return 0;
}

/* ── All of it ── */

static void close_snapshot(struct source_snapshot *s)
{
    for (size_t i = 0; s && i < s->count; i++) {
        if (s->images[i].fd >= 0)
            close(s->images[i].fd);
        if (s->images[i].clone >= 0)
            close(s->images[i].clone);
        free(s->images[i].changed);
    }
    if (s)
        free(s->images);
    free(s);
}

static int remove_clone(const char *image, const char *point_id, struct sp_why *why)
{
    SP_FREE char *name = clone_path(image, point_id);
    if (!name)
        return -ENOMEM;
    if (unlink(name) < 0 && errno != ENOENT && errno != ENOTDIR)
        return sp_why_set(why, -errno, "the clone '%s' cannot be removed: %s", name,
                          strerror(errno));
    return 0;
}

static int respond(const struct making *m, const char *journal, uint64_t switch_us,
                   Sp__SnapshotResponse **ret)
{
    Sp__SnapshotResponse *s = malloc(sizeof(*s));
    if (!s)
        return -ENOMEM;
    sp__snapshot_response__init(s);
    s->switch_us = switch_us;
    s->journal = strdup(journal);
    s->disks = calloc(m->snapshot->count, sizeof(*s->disks));
    int r = s->journal && s->disks ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < m->snapshot->count; i++) {
        const struct image *image = &m->snapshot->images[i];
        r = add_disk(m->chosen[i], image->size_bytes, s->disks, &s->n_disks);
        Sp__SourceDisk *d = s->disks[i];
        if (r == 0 && image->base_point_id)
            r = (d->base_point_id = strdup(image->base_point_id)) ? 0 : -ENOMEM;
        else if (r == 0 && m->request->n_base_point_ids)
            r = (d->full_why = strdup("no clone of an earlier point is left beside the image"))
                    ? 0
                    : -ENOMEM;
    }
    if (r < 0) {
        sp__snapshot_response__free_unpacked(s, NULL);
        return r;
    }
    *ret = s;
    return 0;
}

static int make(struct making *m, source_journal_fn *journal, void *journal_self,
                Sp__SnapshotResponse **ret_response)
{
    QMP_JSON json_object *told = NULL;
    int r = journal_text(m, &told);
    const char *text = r == 0 ? json_object_to_json_string_ext(told, JSON_C_TO_STRING_PLAIN) : NULL;
    if (r == 0 && journal(journal_self, text) != 0)
        r = sp_why_set(m->why, -EIO, "the snapshot could not be recorded");
    for (size_t i = 0; r == 0 && i < m->snapshot->count; i++)
        r = prepare(m, i);
    uint64_t start = sp_clock_system.monotonic_ns(NULL);
    for (size_t i = 0; r == 0 && i < m->snapshot->count; i++)
        r = clone_one(m, i);
    uint64_t switch_us = (sp_clock_system.monotonic_ns(NULL) - start) / 1000;
    for (size_t i = 0; r == 0 && i < m->snapshot->count; i++)
        r = find_base(m, i);
    return r < 0 ? r : respond(m, text, switch_us, ret_response);
}

static int snapshot(const Sp__SnapshotRequest *request, source_journal_fn *journal,
                    void *journal_self, struct source_snapshot **ret,
                    Sp__SnapshotResponse **ret_response, struct sp_why *why)
{
    size_t most = request->source->file->n_images + 1;
    struct making m = {.request = request,
                       .chosen = calloc(most, sizeof(*m.chosen)),
                       .snapshot = calloc(1, sizeof(*m.snapshot)),
                       .why = why};
    if (m.snapshot)
        m.snapshot->images = calloc(most, sizeof(*m.snapshot->images));
    int r = m.chosen && m.snapshot && m.snapshot->images ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < most; i++)
        m.snapshot->images[i].fd = m.snapshot->images[i].clone = -1;
    r = r < 0 ? r : choose(&m);
    r = r < 0 ? r : make(&m, journal, journal_self, ret_response);
    for (size_t i = 0; r < 0 && m.snapshot && i < m.snapshot->count; i++)
        if (m.snapshot->images[i].clone >= 0) /* made here: not one that was there before */
            (void)remove_clone(m.chosen[i]->path, request->point_id, NULL);
    free(m.chosen);
    if (r < 0) {
        close_snapshot(m.snapshot);
        return r;
    }
    *ret = m.snapshot;
    return 0;
}

/* ── Reading ── */

static int read_at(struct source_snapshot *s, uint32_t disk, uint64_t offset, void *out,
                   uint32_t length, struct sp_why *why)
{
    if (disk >= s->count)
        return -EINVAL;
    int r = sp_pread_all(s->images[disk].clone, out, length, offset);
    return r < 0 ? sp_why_set(why, r, "bytes %llu to %llu of the clone cannot be read: %s",
                              (unsigned long long)offset, (unsigned long long)offset + length,
                              strerror(-r))
                 : 0;
}

static int next_data(struct source_snapshot *s, uint32_t disk, uint64_t offset,
                     uint64_t *ret_offset, uint64_t *ret_length, struct sp_why *why)
{
    if (disk >= s->count)
        return -EINVAL;
    if (offset >= s->images[disk].size_bytes)
        return 0;
    off_t data = lseek(s->images[disk].clone, (off_t)offset, SEEK_DATA);
    if (data < 0 && errno == ENXIO)
        return 0;
    off_t hole = data < 0 ? -1 : lseek(s->images[disk].clone, data, SEEK_HOLE);
    if (data < 0 || hole < 0)
        return sp_why_set(why, -errno, "the file system does not tell where data is: %s",
                          strerror(errno));
    *ret_offset = (uint64_t)data;
    *ret_length = (uint64_t)(hole - data);
    return 1;
}

static int next_changed(struct source_snapshot *s, uint32_t disk, uint64_t offset,
                        uint64_t *ret_offset, uint64_t *ret_length, struct sp_why *why)
{
    (void)why;
    if (disk >= s->count || !s->images[disk].base_point_id)
        return -EINVAL;
    const struct image *image = &s->images[disk];
    size_t low = 0, high = image->changed_count; /* the first that ends behind `offset` */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (image->changed[middle].at + image->changed[middle].length <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == image->changed_count)
        return 0;
    const struct extent_range *c = &image->changed[low];
    *ret_offset = c->at > offset ? c->at : offset;
    *ret_length = c->at + c->length - *ret_offset;
    return 1;
}

static bool broken(struct source_snapshot *s)
{
    (void)s;
    return false; /* nothing that the guest does reaches a clone */
}

/* ── Release ── */

static bool is_older_clone(const char *name, const char *leaf, const char *point_id)
{
    size_t prefix = strlen(CLONE_PREFIX), point = strlen(point_id), length = strlen(name);
    size_t tail = strlen(leaf) + 1;
    return length == prefix + point + tail && strncmp(name, CLONE_PREFIX, prefix) == 0 &&
           name[prefix + point] == '-' && strcmp(name + prefix + point + 1, leaf) == 0 &&
           strncmp(name + prefix, point_id, point) != 0;
}

/* This point's clone is the base of the next; those before it have served. */
static int keep_only(const char *image, const char *point_id, struct sp_why *why)
{
    const char *leaf = leaf_of(image);
    SP_FREE char *folder = sp_format("%.*s", (int)(leaf - image), image);
    SP_FREE char *name = clone_path(image, point_id);
    if (!folder || !name)
        return -ENOMEM;
    SP_FD int fd = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0 && fsync(fd) < 0)
        return sp_why_set(why, -errno, "'%s' cannot be made durable: %s", name, strerror(errno));
    DIR *d = opendir(folder);
    if (!d)
        return errno == ENOENT
                   ? 0
                   : sp_why_set(why, -errno, "'%s' cannot be listed: %s", folder, strerror(errno));
    int r = 0;
    for (const struct dirent *e; r == 0 && (e = readdir(d));) {
        if (is_older_clone(e->d_name, leaf, point_id) && unlinkat(dirfd(d), e->d_name, 0) < 0 &&
            errno != ENOENT)
            r = sp_why_set(why, -errno, "the clone '%s%s' cannot be removed: %s", folder, e->d_name,
                           strerror(errno));
    }
    closedir(d);
    return r;
}

static int release_image(const Sp__ReleaseSnapshotRequest *request, const char *path,
                         struct sp_why *why)
{
    return request->transferred ? keep_only(path, request->point_id, why)
                                : remove_clone(path, request->point_id, why);
}

static int release(const Sp__ReleaseSnapshotRequest *request, Sp__ReleaseSnapshotResponse **ret,
                   struct sp_why *why)
{
    const Sp__FileSource *s = request->source->file;
    QMP_JSON json_object *told = request->journal[0] ? json_tokener_parse(request->journal) : NULL;
    json_object *images = NULL;
    int r = 0;
    for (size_t i = 0; r == 0 && i < s->n_images; i++)
        r = release_image(request, s->images[i]->path, why);
    /* The configuration may have changed since. */
    bool listed = told && json_object_object_get_ex(told, "images", &images) &&
                  json_object_is_type(images, json_type_array);
    for (size_t i = 0; r == 0 && listed && i < json_object_array_length(images); i++)
        r = release_image(request, json_object_get_string(json_object_array_get_idx(images, i)),
                          why);
    if (r < 0)
        return r;
    if (!(*ret = malloc(sizeof(**ret))))
        return -ENOMEM;
    sp__release_snapshot_response__init(*ret);
    (*ret)->nothing_left = true;
    return 0;
}

const struct source source_file = {
    .name = "file",
    .kind = SP__SOURCE_CONFIG__KIND_FILE,
    .parallel = true,
    .describe = describe,
    .snapshot = snapshot,
    .read_at = read_at,
    .next_data = next_data,
    .next_changed = next_changed,
    .broken = broken,
    .close = close_snapshot,
    .release = release,
};
