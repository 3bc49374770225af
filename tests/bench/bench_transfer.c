/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Moves one NBD export into a vault (made when it is not there) and prints the seconds that
 * mover_transfer() took, with everything durable, and the bytes that it read, the random re-read
 * apart. Or gives the last point back. For tests/bench/run.
 *
 *     bench-transfer SOCKET DIRECTORY [clear] [image=FILE] [changed=FILE]
 *     bench-transfer restore DIRECTORY OUT
 *
 * clear: nothing counts as ciphertext (else all of it does). image: where holes are asked for.
 * changed: what changed since the point before, lines "OFFSET LENGTH": an increment. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "controller/mover/mover.h"
#include "controller/mover/vault/ahead.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libnbd.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { CONNECTIONS = 4, MOST_RANGES = 1 << 20 };

struct range {
    uint64_t offset, length;
};

struct source_snapshot {
    struct nbd_handle *idle[CONNECTIONS];
    unsigned count;
    uint64_t size;
    int image; /* -1: none */
    struct range *changed;
    size_t changed_count;
    pthread_mutex_t lock;
    pthread_cond_t given_back;
};

static int read_at(struct source_snapshot *s, uint32_t disk, uint64_t offset, void *out,
                   uint32_t length, struct sp_why *why)
{
    (void)disk;
    pthread_mutex_lock(&s->lock);
    while (s->count == 0)
        pthread_cond_wait(&s->given_back, &s->lock);
    struct nbd_handle *h = s->idle[--s->count];
    pthread_mutex_unlock(&s->lock);
    int r =
        nbd_pread(h, out, length, offset, 0) < 0 ? sp_why_set(why, -EIO, "%s", nbd_get_error()) : 0;
    pthread_mutex_lock(&s->lock);
    s->idle[s->count++] = h;
    pthread_cond_signal(&s->given_back);
    pthread_mutex_unlock(&s->lock);
    return r;
}

static int next_data(struct source_snapshot *s, uint32_t disk, uint64_t offset,
                     uint64_t *ret_offset, uint64_t *ret_length, struct sp_why *why)
{
    (void)disk, (void)why;
    if (offset >= s->size)
        return 0;
    off_t data = s->image < 0 ? (off_t)offset : lseek(s->image, (off_t)offset, SEEK_DATA);
    off_t end = s->image < 0 ? (off_t)s->size : data < 0 ? 0 : lseek(s->image, data, SEEK_HOLE);
    if (data < 0)
        return errno == ENXIO ? 0 : -errno;
    *ret_offset = (uint64_t)data;
    *ret_length = (uint64_t)(end - data);
    return 1;
}

static int next_changed(struct source_snapshot *s, uint32_t disk, uint64_t offset,
                        uint64_t *ret_offset, uint64_t *ret_length, struct sp_why *why)
{
    (void)disk, (void)why;
    size_t low = 0, high = s->changed_count; /* the first that ends behind offset */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->changed[middle].offset + s->changed[middle].length <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == s->changed_count)
        return 0;
    *ret_offset = s->changed[low].offset > offset ? s->changed[low].offset : offset;
    *ret_length = s->changed[low].offset + s->changed[low].length - *ret_offset;
    return 1;
}

static int connect_all(struct source_snapshot *s, const char *socket)
{
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->given_back, NULL);
    for (s->count = 0; s->count < CONNECTIONS; s->count++) {
        struct nbd_handle *h = s->idle[s->count] = nbd_create();
        if (!h || nbd_set_pread_initialize(h, false) < 0 || nbd_connect_unix(h, socket) < 0) {
            fprintf(stderr, "bench-transfer: %s\n", nbd_get_error());
            return -1;
        }
    }
    s->size = (uint64_t)nbd_get_size(s->idle[0]);
    return 0;
}

static int load_changed(struct source_snapshot *s, const char *path)
{
    FILE *f = fopen(path, "re");
    s->changed = calloc(MOST_RANGES, sizeof *s->changed);
    if (!f || !s->changed)
        return -1;
    while (s->changed_count < MOST_RANGES &&
           fscanf(f, "%" SCNu64 " %" SCNu64, &s->changed[s->changed_count].offset,
                  &s->changed[s->changed_count].length) == 2)
        s->changed_count++;
    return fclose(f);
}

static int open_vault(char *path, struct vault **ret, struct sp_why *why)
{
    static const uint8_t zero_key[32];
    char id[37];
    Sp__DirectoryVault directory = SP__DIRECTORY_VAULT__INIT;
    Sp__VaultConfig config = SP__VAULT_CONFIG__INIT;
    config.kind_case = SP__VAULT_CONFIG__KIND_DIRECTORY;
    config.directory = &directory;
    directory.path = path;
    struct sp_secret *key = sp_secret_copy(zero_key, sizeof zero_key);
    SP_FREE char *descriptor = sp_format("%s/vault.json", path);
    int r = access(descriptor, F_OK) == 0 ? 0 : vault_create(&config, id, why);
    r = r < 0 ? r : vault_open(&config, NULL, key, ret, why);
    sp_secret_free(key);
    return r;
}

static int newest_one(void *arg, const char *machine, const char *point)
{
    (void)machine;
    if (strcmp(point, arg) > 0)
        snprintf(arg, 16, "%s", point);
    return 0;
}

/* The vault's newest point: its disk is the base. */
static Sp__Manifest *newest(struct vault *v, char out[16])
{
    Sp__Signed *sealed = NULL;
    Sp__Manifest *m = NULL;
    out[0] = 0;
    if (vault_list_manifests(v, newest_one, out) < 0 || !out[0] ||
        vault_get_manifest(v, "bench", out, (struct sp_bytes){0}, &sealed, &m, NULL) < 0)
        return NULL;
    sp__signed__free_unpacked(sealed, NULL);
    return m;
}

static int finish(struct vault *v, char *point, Sp__TransferResponse *response, struct sp_why *why)
{
    Sp__Manifest m = SP__MANIFEST__INIT;
    Sp__Signed sealed = SP__SIGNED__INIT;
    m.format = 1;
    m.vault_id = (char *)(uintptr_t)vault_id(v);
    m.machine_id = "bench";
    m.point_id = point;
    m.disks = response->disks;
    m.n_disks = response->n_disks;
    int r = sp_pack(&m.base, &sealed.payload.data, &sealed.payload.len);
    r = r < 0 ? r : vault_put_manifest(v, &sealed, why);
    free(sealed.payload.data);
    return r < 0 ? r : vault_end_journal(v, point, true);
}

static int transfer(struct source_snapshot *s, struct vault *vault, bool clear, struct sp_why *why)
{
    char before[16], point[16];
    Sp__Manifest *last = newest(vault, before);
    snprintf(point, sizeof point, "p%08u", last ? (unsigned)atoi(before + 1) + 1 : 1);
    Sp__SourceDisk disk = SP__SOURCE_DISK__INIT, *disks[] = {&disk};
    Sp__SnapshotResponse snapshot = SP__SNAPSHOT_RESPONSE__INIT;
    Sp__TransferRequest request = SP__TRANSFER_REQUEST__INIT;
    Sp__DiskExtent extent = SP__DISK_EXTENT__INIT, *extents[] = {&extent};
    Sp__DiskLayout layout = SP__DISK_LAYOUT__INIT, *layouts[] = {&layout};
    Sp__BaseDisk base = SP__BASE_DISK__INIT, *bases[] = {&base};
    disk.disk_id = layout.disk_id = extent.disk_id = "disk";
    disk.size_bytes = extent.length_bytes = s->size;
    snapshot.disks = disks;
    snapshot.n_disks = 1;
    layout.ciphertext = extents;
    layout.n_ciphertext = 1;
    request.layout = layouts;
    request.n_layout = clear ? 0 : 1;
    request.point_id = point;
    if (s->changed && last) {
        disk.base_point_id = base.point_id = before;
        base.machine_id = "bench";
        base.image = last->disks[0];
        request.bases = bases;
        request.n_bases = 1;
    }
    const struct source nbd = {.name = "nbd",
                               .parallel = true,
                               .read_at = read_at,
                               .next_data = next_data,
                               .next_changed = s->changed ? next_changed : NULL};
    Sp__TransferResponse *response = NULL;
    uint64_t start = sp_clock_system.monotonic_ns(NULL);
    int r = mover_transfer(&nbd, s, &snapshot, &request, vault, NULL, &response, why);
    r = r < 0 ? r : finish(vault, point, response, why);
    double seconds = (double)(sp_clock_system.monotonic_ns(NULL) - start) / 1e9;
    if (r == 0)
        printf("%.4f %llu\n", seconds,
               (unsigned long long)(response->disks[0]->read_bytes -
                                    response->disks[0]->reread_bytes));
    for (size_t i = 0; r == 0 && i < response->n_notes; i++)
        fprintf(stderr, "%s\n", response->notes[i]->text);
    if (response)
        sp__transfer_response__free_unpacked(response, NULL);
    if (last)
        sp__manifest__free_unpacked(last, NULL);
    return r;
}

static int restore(struct vault *vault, const char *path, struct sp_why *why)
{
    char point[16];
    struct vault_ahead *ahead = NULL;
    Sp__Manifest *last = newest(vault, point);
    SP_FD int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    uint64_t start = sp_clock_system.monotonic_ns(NULL), offset;
    const uint8_t *data;
    uint32_t length;
    if (!last || fd < 0)
        return -ENOENT;
    const Sp__DiskImage *d = last->disks[0];
    int r = vault_ahead_new(vault, d->root.data, d->size_bytes, 0, &ahead, why);
    if (r == 0 && ftruncate(fd, (off_t)d->size_bytes) < 0)
        r = -errno;
    while (r >= 0 && (r = vault_ahead_next(ahead, &offset, &data, &length, why)) > 0)
        r = sp_pwrite_all(fd, data, length, offset);
    if (r >= 0 && fsync(fd) < 0)
        r = -errno;
    printf("%.4f 0\n", (double)(sp_clock_system.monotonic_ns(NULL) - start) / 1e9);
    vault_ahead_free(ahead);
    sp__manifest__free_unpacked(last, NULL);
    return r;
}

int main(int argc, char **argv)
{
    struct source_snapshot s = {.image = -1};
    struct sp_why why = {{0}};
    struct vault *vault = NULL;
    bool clear = false, give_back = argc == 4 && !strcmp(argv[1], "restore");
    if (argc < 3 || (!give_back && connect_all(&s, argv[1]) < 0))
        return 2;
    for (int i = 3; i < argc && !give_back; i++) {
        clear |= !strcmp(argv[i], "clear");
        if (!strncmp(argv[i], "image=", 6))
            s.image = open(argv[i] + 6, O_RDONLY | O_CLOEXEC);
        if (!strncmp(argv[i], "changed=", 8) && load_changed(&s, argv[i] + 8) < 0)
            return 2;
    }
    int r = open_vault(argv[2], &vault, &why);
    if (r == 0)
        r = give_back ? restore(vault, argv[3], &why) : transfer(&s, vault, clear, &why);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    fprintf(stderr, "%.1f s of processor, %ld MB of memory at most\n",
            (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6,
            usage.ru_maxrss / 1024);
    if (r < 0)
        fprintf(stderr, "bench-transfer: %s (%s)\n", why.text, strerror(-r));
    vault_close(vault);
    free(s.changed);
    while (s.count > 0)
        nbd_close(s.idle[--s.count]);
    return r < 0;
}
