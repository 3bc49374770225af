/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Moves one NBD export into a new vault and prints the seconds that mover_transfer() took, with
 * everything durable. All of it counts as ciphertext. For tests/bench/run.
 *
 *     bench-transfer SOCKET DIRECTORY [clear]
 */
#include "base/bytes.h"
#include "base/clock.h"
#include "controller/mover/mover.h"
#include <errno.h>
#include <libnbd.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

enum { CONNECTIONS = 4 };

struct source_snapshot {
    struct nbd_handle *idle[CONNECTIONS];
    unsigned count;
    uint64_t size;
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
    *ret_offset = offset;
    *ret_length = s->size - offset;
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

int main(int argc, char **argv)
{
    struct source_snapshot s = {0};
    struct sp_why why = {{0}};
    char id[37];
    struct vault *vault = NULL;
    static const uint8_t zero_key[32];
    if (argc < 3 || connect_all(&s, argv[1]) < 0)
        return 2;
    Sp__DirectoryVault directory = SP__DIRECTORY_VAULT__INIT;
    Sp__VaultConfig config = SP__VAULT_CONFIG__INIT;
    config.kind_case = SP__VAULT_CONFIG__KIND_DIRECTORY;
    config.directory = &directory;
    directory.path = argv[2];
    struct sp_secret *key = sp_secret_copy(zero_key, sizeof zero_key);
    int r = vault_create(&config, id, &why);
    if (r == 0)
        r = vault_open(&config, id, key, &vault, &why);
    Sp__SourceDisk disk = SP__SOURCE_DISK__INIT, *disks[] = {&disk};
    Sp__SnapshotResponse snapshot = SP__SNAPSHOT_RESPONSE__INIT;
    Sp__TransferRequest request = SP__TRANSFER_REQUEST__INIT;
    Sp__DiskExtent extent = SP__DISK_EXTENT__INIT, *extents[] = {&extent};
    Sp__DiskLayout layout = SP__DISK_LAYOUT__INIT, *layouts[] = {&layout};
    disk.disk_id = layout.disk_id = extent.disk_id = "disk";
    disk.size_bytes = extent.length_bytes = s.size;
    snapshot.disks = disks;
    snapshot.n_disks = 1;
    layout.ciphertext = extents;
    layout.n_ciphertext = 1;
    request.layout = layouts;
    request.n_layout = argc > 3 && !strcmp(argv[3], "clear") ? 0 : 1;
    request.point_id = "bench";
    const struct source nbd = {
        .name = "nbd", .parallel = true, .read_at = read_at, .next_data = next_data};
    Sp__TransferResponse *response = NULL;
    uint64_t start = sp_clock_system.monotonic_ns(NULL);
    if (r == 0)
        r = mover_transfer(&nbd, &s, &snapshot, &request, vault, NULL, &response, &why);
    double seconds = (double)(sp_clock_system.monotonic_ns(NULL) - start) / 1e9;
    if (r < 0) {
        fprintf(stderr, "bench-transfer: %s (%s)\n", why.text, strerror(-r));
        return 1;
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("%.4f\n", seconds);
    fprintf(stderr, "%.0f MB/s, %.1f s of processor, %ld MB of memory at most\n",
            (double)s.size / seconds / 1e6,
            (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6,
            usage.ru_maxrss / 1024);
    sp__transfer_response__free_unpacked(response, NULL);
    vault_close(vault);
    sp_secret_free(key);
    while (s.count > 0)
        nbd_close(s.idle[--s.count]);
    return 0;
}
