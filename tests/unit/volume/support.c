/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "support.h"
#include "base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

const char *corpus_folder(void)
{
    static char path[512];
    const char *given = getenv("SEALPOINT_CORPUS"), *source = getenv("SEALPOINT_SOURCE");
    if (given)
        snprintf(path, sizeof path, "%s", given);
    else
        snprintf(path, sizeof path, "%s/../shared/corpus", source ? source : ".");
    char manifest[600];
    snprintf(manifest, sizeof manifest, "%s/MANIFEST.tsv", path);
    return access(manifest, R_OK) == 0 ? path : NULL;
}

bool corpus_has(const char *name)
{
    char path[700];
    const char *folder = corpus_folder();
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "", name);
    return folder && access(path, R_OK) == 0;
}

static void image_over(struct image *i, int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    i->fd = fd;
    i->size = (uint64_t)st.st_size;
    i->reader = volume_reader_of_fd(&i->fd, i->size);
}

void image_empty(struct image *i, uint64_t size)
{
    int fd = memfd_create("image", 0);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    image_over(i, fd);
}

void image_put(const struct image *i, uint64_t offset, const void *data, size_t size)
{
    assert_true(offset + size <= i->size);
    assert_int_equal(sp_pwrite_all(i->fd, data, size, offset), 0);
}

/* Copies what is not zero. */
static void copy_sparse(int from, int to, uint64_t at)
{
    static uint8_t block[1 << 16];
    size_t have = 0;
    for (;;) {
        ssize_t n = read(from, block + have, sizeof block - have);
        assert_true(n >= 0);
        have += (size_t)n;
        if (n && have < sizeof block)
            continue;
        if (have && !sp_is_zero(block, have))
            assert_int_equal(sp_pwrite_all(to, block, have, at), 0);
        at += have;
        if (n == 0)
            break;
        have = 0;
    }
    struct stat st;
    assert_int_equal(fstat(to, &st), 0);
    if ((uint64_t)st.st_size < at)
        assert_int_equal(ftruncate(to, (off_t)at), 0);
}

void image_put_image(const struct image *i, uint64_t offset, const struct image *from)
{
    assert_true(offset + from->size <= i->size);
    assert_true(lseek(from->fd, 0, SEEK_SET) == 0);
    copy_sparse(from->fd, i->fd, offset);
}

void image_close(struct image *i)
{
    close(i->fd);
}

const char *image_path(const struct image *i)
{
    static char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", i->fd);
    return path;
}

static int spawn(const char *input, const char *const *argv, int *ret_out)
{
    int in[2], out[2] = {-1, -1};
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    if (ret_out)
        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(in[0], 0);
        int null = open("/dev/null", O_WRONLY);
        dup2(ret_out ? out[1] : null, 1);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(in[0]);
    if (input)
        assert_int_equal(sp_write_all(in[1], input, strlen(input)), 0);
    close(in[1]);
    if (ret_out) {
        close(out[1]);
        *ret_out = out[0];
    }
    return pid;
}

static int wait_for(int pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

void tool(const char *input, const char *program, ...)
{
    const char *argv[40] = {program};
    size_t count = 1;
    va_list args;
    va_start(args, program);
    while (count + 1 < SP_COUNT(argv) && (argv[count] = va_arg(args, const char *)))
        count++;
    va_end(args);
    int status = wait_for(spawn(input, argv, NULL));
    if (status)
        fail_msg("%s ended with %d", program, status);
}

bool has_tool(const char *program)
{
    const char *const argv[] = {"sh", "-c", "PATH=$PATH:/sbin:/usr/sbin; command -v \"$0\"",
                                program, NULL};
    return wait_for(spawn(NULL, argv, NULL)) == 0;
}

void image_of_corpus(struct image *i, const char *name)
{
    char path[700];
    const char *folder = corpus_folder();
    assert_non_null(folder);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (access(path, R_OK) < 0)
        snprintf(path, sizeof path, "%s/%s.xz", folder, name);
    size_t length = strlen(path);
    int from, pid = -1;
    if (length > 3 && !strcmp(path + length - 3, ".xz")) {
        const char *const argv[] = {"xz", "-dc", path, NULL};
        pid = spawn(NULL, argv, &from);
    } else {
        from = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(from >= 0);
    }
    image_empty(i, 0);
    copy_sparse(from, i->fd, 0);
    close(from);
    if (pid >= 0)
        assert_int_equal(wait_for(pid), 0);
    if (strstr(name, ".qcow2") || strstr(name, ".vmdk")) {
        char raw_path[64];
        struct image raw;
        image_empty(&raw, 0);
        snprintf(raw_path, sizeof raw_path, "/proc/self/fd/%d", raw.fd);
        tool(NULL, "qemu-img", "convert", "-O", "raw", image_path(i), raw_path, NULL);
        image_close(i);
        *i = raw;
    }
    image_over(i, i->fd);
}

/* ---- altered readers ---- */

static int altered_read_at(void *self, uint64_t offset, void *out, uint32_t length)
{
    const struct altered *a = self;
    int rc = volume_read(a->of, offset, out, length);
    for (size_t i = 0; rc == 0 && i < a->count; i++)
        if (a->offsets[i] >= offset && a->offsets[i] - offset < length)
            ((uint8_t *)out)[a->offsets[i] - offset] ^= a->masks[i];
    return rc;
}

struct volume_reader altered_reader(struct altered *a, const struct volume_reader *of,
                                    uint64_t size_bytes)
{
    a->of = of;
    return (struct volume_reader){.read_at = altered_read_at, .self = a, .size_bytes = size_bytes};
}

/* ---- looking things up ---- */

Sp__HeaderFacts *facts_of(const struct volume_reader *reader, const char *format_name)
{
    const struct volume_format *format = NULL;
    Sp__HeaderFacts *facts = NULL;
    assert_int_equal(volume_probe(reader, &format, &facts), 1);
    assert_string_equal(format->name, format_name);
    assert_int_equal(facts->fingerprint.len, 32);
    return facts;
}

const Sp__Volume *volume_named(const struct volume_look *look, const char *volume_id)
{
    for (size_t i = 0; i < look->volume_count; i++)
        if (!strcmp(look->volumes[i]->volume_id, volume_id))
            return look->volumes[i];
    fail_msg("no volume %s", volume_id);
    return NULL;
}

const Sp__RangeUse *range_at(const struct volume_look *look, const char *disk_id, uint64_t offset)
{
    for (size_t i = 0; i < look->range_count; i++) {
        const Sp__DiskExtent *on = look->ranges[i]->on;
        if (!strcmp(on->disk_id, disk_id) && on->offset_bytes <= offset &&
            offset - on->offset_bytes < on->length_bytes)
            return look->ranges[i];
    }
    return NULL;
}

const Sp__Finding *finding_of(const struct volume_look *look, Sp__Reason reason,
                              const char *volume_id)
{
    for (size_t i = 0; i < look->finding_count; i++)
        if (look->findings[i]->reason == reason &&
            (!volume_id || !strcmp(look->findings[i]->volume_id, volume_id)))
            return look->findings[i];
    return NULL;
}

void look_at(const struct image *i, struct volume_look *look)
{
    const struct volume_disk disk = {
        .disk_id = "disk", .reader = i->reader, .logical_sector_bytes = 512};
    assert_int_equal(volume_look(&disk, 1, false, look), 0);
}
