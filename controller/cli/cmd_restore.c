/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * point restore: disks as they were, still encrypted. What arrives was verified against the root of
 * the disk's map by the controller; that the root is the sealed one is checked here. */
#include "controller/cli/cli.h"

#include "base/bytes.h"
#include "base/file.h"
#include <ctype.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

extern char **environ;

/* Ctrl-C: the disk that is being written is removed, finished ones stay. A second one ends at once.
 */
static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    interrupted = number;
}

static void catch_interrupts(void)
{
    const struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

/* How an image is written. `convert`: what qemu-img makes of a raw one; NULL: it is raw. */
struct format {
    const char *name, *suffix, *convert, *options;
};

static const struct format formats[] = {
    {"raw", "raw", NULL, NULL},
    {"qcow2", "qcow2", "qcow2", NULL},
    /* As Azure wants it: of a fixed size, exactly the disk's. */
    {"vhd", "vhd", "vpc", "subformat=fixed,force_size=on"},
};

struct restore {
    struct cli *cli;
    const Sp__Manifest *manifest;
    const char *point_id, *folder;
    const struct format *format;
    bool force;
    uint64_t done_bytes, total_bytes;
    struct cli_progress progress;
};

struct incoming {
    struct restore *restore;
    const Sp__DiskImage *disk; /* of the sealed manifest */
    int fd;
    bool ended;
    char fault[200];
};

static int fault(struct incoming *in, int error, const char *text)
{
    (void)snprintf(in->fault, sizeof(in->fault), "%s", text);
    return error;
}

static int on_data(void *self, const ProtobufCMessage *message)
{
    struct incoming *in = self;
    const Sp__DiskData *d = (const Sp__DiskData *)message;
    if (interrupted)
        return fault(in, -EINTR, "interrupted");
    if (d->kind_case == SP__DISK_DATA__KIND_END) {
        if (d->end->root.len != in->disk->root.len ||
            memcmp(d->end->root.data, in->disk->root.data, in->disk->root.len) != 0)
            return fault(in, -EBADMSG, "the controller sent another disk than the sealed one");
        in->ended = true;
        return 0;
    }
    if (d->kind_case != SP__DISK_DATA__KIND_DATA)
        return 0;
    uint64_t offset = d->data->offset_bytes;
    size_t size = d->data->bytes.len;
    if (offset > in->disk->size_bytes || size > in->disk->size_bytes - offset)
        return fault(in, -EBADMSG, "the controller sent data beyond the end of the disk");
    int r = sp_pwrite_all(in->fd, d->data->bytes.data, size, offset);
    if (r < 0)
        return fault(in, r, strerror(-r));
    in->restore->done_bytes += size;
    cli_progress_show(&in->restore->progress, in->restore->done_bytes, in->restore->total_bytes,
                      in->disk->disk_id);
    return 0;
}

static char name_character(char c)
{
    return isalnum((unsigned char)c) || c == '-' || c == '_' || c == '.' ? c : '_';
}

static bool same_name(const char *a, const char *b)
{
    for (; *a && *b && name_character(*a) == name_character(*b); a++, b++) {
    }
    return !*a && !*b;
}

/* Ids that differ only in what a file name cannot have get a number. */
static char *disk_path(const struct restore *r, const Sp__DiskImage *disk, const char *suffix)
{
    SP_FREE char *name = strdup(disk->disk_id);
    unsigned before = 0;
    if (!name)
        return NULL;
    for (size_t i = 0; i < r->manifest->n_disks && r->manifest->disks[i] != disk; i++)
        before += same_name(r->manifest->disks[i]->disk_id, disk->disk_id);
    for (char *p = name; *p; p++)
        *p = name_character(*p);
    const char *base = name[0] == '.' || !name[0] ? "disk" : name;
    return before ? sp_format("%s/%s-%u.%s", r->folder, base, before + 1, suffix)
                  : sp_format("%s/%s.%s", r->folder, base, suffix);
}

static int receive_into(struct restore *r, const Sp__DiskImage *disk, const char *path, int fd)
{
    if (ftruncate(fd, (off_t)disk->size_bytes) < 0)
        return cli_fail(CLI_ERROR, "cannot make %s: %s", path, strerror(errno));
    struct incoming in = {.restore = r, .disk = disk, .fd = fd};
    Sp__ReadDiskRequest request = SP__READ_DISK_REQUEST__INIT;
    request.point = CLI_TEXT(r->point_id);
    request.disk_id = disk->disk_id;
    int code = cli_stream(r->cli, "Backup/ReadDisk", &request.base, on_data, &in);
    if (in.fault[0])
        return cli_fail(CLI_ERROR, "%s: %s", path, in.fault);
    if (code != CLI_OK)
        return code;
    if (!in.ended)
        return cli_fail(CLI_ERROR, "%s: the data stopped before the end", path);
    return fsync(fd) < 0 ? cli_fail(CLI_ERROR, "cannot write %s: %s", path, strerror(errno))
                         : CLI_OK;
}

static int receive(struct restore *r, const Sp__DiskImage *disk, const char *path)
{
    SP_FD int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return cli_fail(CLI_ERROR, "cannot make %s: %s", path, strerror(errno));
    int code = receive_into(r, disk, path, fd);
    /* Half a disk is of no use, and its room may be what was missing. */
    if (code != CLI_OK && unlink(path) < 0)
        cli_fail(code, "cannot remove %s: %s", path, strerror(errno));
    return code;
}

/* qemu-img knows qcow2 better than anybody; it is run without a shell. */
static int convert(const struct format *format, const char *raw, const char *out)
{
    const char *argv[12] = {"qemu-img", "convert", "-f", "raw", "-O", format->convert};
    size_t n = 6;
    if (format->options) {
        argv[n++] = "-o";
        argv[n++] = format->options;
    }
    argv[n++] = "--";
    argv[n++] = raw;
    argv[n] = out;
    pid_t pid;
    int e = posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)(uintptr_t)argv, environ);
    if (e)
        return cli_fail(CLI_ERROR,
                        "cannot run qemu-img (package qemu-utils): %s; the raw image "
                        "%s is whole",
                        strerror(e), raw);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return cli_fail(CLI_ERROR, "qemu-img failed; the raw image %s is whole", raw);
    return unlink(raw) < 0 ? cli_fail(CLI_ERROR, "cannot remove %s: %s", raw, strerror(errno))
                           : CLI_OK;
}

static int restore_disk(struct restore *r, const Sp__DiskImage *disk)
{
    SP_FREE char *final = disk_path(r, disk, r->format->suffix);
    SP_FREE char *partial = disk_path(r, disk, "partial");
    if (!final || !partial)
        return cli_fail(CLI_ERROR, "no memory");
    int code = receive(r, disk, partial);
    if (code != CLI_OK)
        return code;
    if (r->format->convert) {
        code = convert(r->format, partial, final);
        if (code != CLI_OK)
            return code;
    } else if (rename(partial, final) < 0) {
        return cli_fail(CLI_ERROR, "cannot name %s: %s", final, strerror(errno));
    }
    int e = sp_fsync_directory(r->folder);
    if (e < 0)
        return cli_fail(CLI_ERROR, "cannot write %s: %s", r->folder, strerror(-e));
    cli_progress_end(&r->progress);
    if (!r->cli->json)
        printf("%s  %s\n", disk->disk_id, final);
    return CLI_OK;
}

/* Everything that would fail later is said before a byte is written. */
static int check_target(const struct restore *r, const Sp__Manifest *m, const char *only)
{
    struct statvfs fs;
    struct stat there;
    uint64_t need = 0, largest = 0;
    size_t chosen = 0;
    for (size_t i = 0; i < m->n_disks; i++) {
        if (only && strcmp(only, m->disks[i]->disk_id) != 0)
            continue;
        chosen++;
        need += m->disks[i]->stored_bytes;
        if (m->disks[i]->stored_bytes > largest)
            largest = m->disks[i]->stored_bytes;
        SP_FREE char *path = disk_path(r, m->disks[i], r->format->suffix);
        if (!path || (!r->force && lstat(path, &there) == 0))
            return cli_fail(CLI_ERROR, "%s is there already: --force writes over it",
                            path ? path : r->folder);
    }
    if (chosen == 0)
        return cli_fail(CLI_ERROR,
                        "the point has no disk '%s': 'sealpoint point show --json' lists "
                        "them",
                        only ? only : "");
    int e = sp_make_directories(r->folder, 0700);
    if (e < 0 || statvfs(r->folder, &fs) < 0)
        return cli_fail(CLI_ERROR, "cannot use %s: %s", r->folder, strerror(e < 0 ? -e : errno));
    uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (r->format->convert) /* one raw image beside that which is made from it */
        need += largest;
    if (room < need) {
        char a[24], b[24];
        return cli_fail(CLI_ERROR, "%s has room for %s, the disks need %s", r->folder,
                        cli_size_text(room, a), cli_size_text(need, b));
    }
    return CLI_OK;
}

static void print_keys(const Sp__PointDetail *d)
{
    struct cli_table *t =
        cli_table_new((const char *const[]){"VOLUME", "OPENED BY RECORD", ">GENERATION", NULL});
    for (size_t i = 0; t && i < d->n_proofs; i++) {
        const Sp__VolumeProof *p = d->proofs[i];
        char generation[16] = "-";
        if (!p->volume || p->volume->kind == SP__VOLUME_KIND__VOLUME_KIND_CLEAR)
            continue;
        bool opens = p->proof && p->proof->record &&
                     p->proof->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS;
        if (opens)
            (void)snprintf(generation, sizeof(generation), "%u", p->proof->record->generation);
        cli_table_row(
            t, (const char *const[]){p->volume->volume_id,
                                     opens ? p->proof->record->record_id : "none that was proved",
                                     generation});
    }
    (void)cli_table_print(t, "no encrypted volume in this point");
    printf("The data are encrypted as they were. 'sealpoint key release %s --to DIR --why TEXT' "
           "hands a custodian the keys.\n",
           d->point->point_id);
}

static int restore(struct restore *r, const Sp__PointDetail *d, const char *only)
{
    CLI_MESSAGE Sp__Manifest *m = NULL;
    int code = cli_manifest(r->cli, d, &m);
    r->manifest = m;
    if (code == CLI_OK)
        code = check_target(r, m, only);
    if (code != CLI_OK)
        return code;
    r->point_id = m->point_id;
    for (size_t i = 0; i < m->n_disks; i++) {
        if (!only || strcmp(only, m->disks[i]->disk_id) == 0)
            r->total_bytes += m->disks[i]->stored_bytes;
    }
    catch_interrupts();
    cli_progress_start(&r->progress, "restore");
    for (size_t i = 0; code == CLI_OK && i < m->n_disks; i++) {
        if (!only || strcmp(only, m->disks[i]->disk_id) == 0)
            code = restore_disk(r, m->disks[i]);
    }
    cli_progress_end(&r->progress);
    if (code != CLI_OK)
        return code;
    if (r->cli->json)
        return cli_print_json(&d->base);
    print_keys(d);
    return CLI_OK;
}

int cmd_point_restore(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *to = NULL, *disk = NULL, *format = "raw";
    bool force = false;
    const struct cli_flag flags[] = {
        {"to", "DIR", "where the images are written", &to, NULL, NULL},
        {"disk", "DISK", "only this disk", &disk, NULL, NULL},
        {"format", "raw|qcow2|vhd", "format of the images (raw); vhd: fixed, as for Azure", &format,
         NULL, NULL},
        {"force", NULL, "write over images that are there", NULL, &force, NULL},
        {0},
    };
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 1);
    if (!to)
        return cli_fail(CLI_USAGE, "--to DIR is needed");
    const struct format *as = NULL;
    for (size_t i = 0; i < SP_COUNT(formats); i++) {
        if (strcmp(format, formats[i].name) == 0)
            as = &formats[i];
    }
    if (!as)
        return cli_fail(CLI_USAGE, "--format is raw, qcow2 or vhd");
    Sp__GetPointRequest request = SP__GET_POINT_REQUEST__INIT;
    request.point = argv[0];
    CLI_MESSAGE Sp__PointDetail *detail = NULL;
    int r = cli_call(cli, "Backup/GetPoint", &request.base, &detail);
    if (r != CLI_OK)
        return r;
    struct restore state = {.cli = cli, .folder = to, .format = as, .force = force};
    return restore(&state, detail, disk);
}
