/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One disk after the other; each by a few threads that all do the same:
 *
 *   claim the next piece (next_data, in order) ─▶ read it into a block ─▶ hash, look up, seal
 *   ─▶ place in the pack (in turn) ─▶ claim …            the vault's own thread writes the packs
 *
 * While one thread waits for the source, another hashes; nothing is queued between them, so what is
 * in memory is one block a thread and the vault's two packs.
 *
 * An increment claims what its source says has changed since its base, and nothing else; plan.c
 * decides which disks can be one. */
#include "base/cleanup.h"
#include "controller/mover/layout.h"
#include "controller/mover/mover.h"
#include "controller/mover/plan.h"
#include "controller/mover/vault/writer.h"
#include <pthread.h>
#include <string.h>

enum {
    /* More than processors: most of them wait for the source at any moment. */
    MOST_THREADS = 8,
    THREADS_PARALLEL = 8, /* a source answers some while the others hash */
    THREADS_SERIAL = 3,
    CHUNKS_IN_BLOCK = VAULT_BLOCK_BYTES / VAULT_CHUNK_BYTES,
    /* A request: servers answer requests of this size from memory that they have at hand. */
    READ_BYTES = 256 << 10,
    PROGRESS_STEP_BYTES = 16 << 20,
};

struct transfer {
    const struct source *source;
    struct source_snapshot *snapshot;
    const struct mover_transfer_hooks *hooks;
    uint64_t done_before, total_bytes; /* of disks that are through; of all */
    uint32_t disk;
    const char *disk_id;
    uint64_t size_bytes;
    bool increment;
    atomic_uint_least64_t read_bytes; /* of this disk */
    struct layout layout;
    struct vault_writer *writer;
    pthread_mutex_t read_lock; /* around calls of a source that is not parallel */

    pthread_mutex_t lock;           /* of all below; next_data is called under it */
    uint64_t at;                    /* everything below is claimed */
    uint64_t data_end;              /* end of the range of data that `at` is in */
    uint64_t working[MOST_THREADS]; /* start of each thread's piece, UINT64_MAX: none */
    uint64_t told;                  /* progress */
    int error;
    struct sp_why why;
};

static int fail(struct transfer *t, int error, const struct sp_why *why)
{
    pthread_mutex_lock(&t->lock);
    if (!t->error) {
        t->error = error;
        t->why = *why;
    }
    pthread_mutex_unlock(&t->lock);
    return error;
}

static bool cancelled(const struct transfer *t)
{
    return t->hooks && t->hooks->cancel && atomic_load(t->hooks->cancel);
}

/* With lock. */
static void tell(struct transfer *t, bool always)
{
    if (!t->hooks || !t->hooks->progress || (!always && t->at - t->told < PROGRESS_STEP_BYTES))
        return;
    t->told = t->at;
    Sp__TransferProgress p = SP__TRANSFER_PROGRESS__INIT;
    p.done_bytes = t->done_before + t->at;
    p.total_bytes = t->total_bytes;
    p.disk_id = (char *)(uintptr_t)t->disk_id; /* read only, by the hook's contract */
    t->hooks->progress(t->hooks->self, &p);
}

/* With lock. Moves to the next range of data: 1, 0: no more. */
static int next_range(struct transfer *t, struct sp_why *why)
{
    uint64_t offset = 0, length = 0;
    if (!t->source->parallel)
        pthread_mutex_lock(&t->read_lock);
    int r = (t->increment ? t->source->next_changed : t->source->next_data)(
        t->snapshot, t->disk, t->at, &offset, &length, why);
    if (!t->source->parallel)
        pthread_mutex_unlock(&t->read_lock);
    if (r <= 0)
        return r;
    if (length == 0 || offset + length <= t->at || offset >= t->size_bytes)
        return 0;
    uint64_t end = length > t->size_bytes - offset ? t->size_bytes : offset + length;
    /* Whole chunks: a hole within a chunk is read as the zeroes that it is. */
    offset -= offset % VAULT_CHUNK_BYTES;
    if (offset > t->at)
        t->at = offset;
    end += VAULT_CHUNK_BYTES - 1;
    end -= end % VAULT_CHUNK_BYTES;
    t->data_end = end < t->size_bytes ? end : t->size_bytes;
    return 1;
}

/* With lock: the first byte that somebody still works on; all before is placed. */
static uint64_t placed_up_to(const struct transfer *t)
{
    uint64_t least = t->at;
    for (unsigned i = 0; i < MOST_THREADS; i++)
        if (t->working[i] < least)
            least = t->working[i];
    return least;
}

/* The next piece for thread `me`: 1, 0: the disk is through. */
static int claim(struct transfer *t, unsigned me, uint64_t *ret_offset, uint32_t *ret_length,
                 uint64_t *ret_passed, struct sp_why *why)
{
    pthread_mutex_lock(&t->lock);
    t->working[me] = UINT64_MAX;
    int r = t->error;
    if (r == 0 && cancelled(t))
        r = sp_why_set(why, -ECANCELED, "the transfer was cancelled");
    if (r == 0)
        r = t->at < t->data_end ? 1 : t->at >= t->size_bytes ? 0 : next_range(t, why);
    if (r > 0) {
        uint64_t length = t->data_end - t->at;
        /* Ends of pieces on whole blocks of the disk, so that points share nothing but chunks. */
        uint64_t to_block = VAULT_BLOCK_BYTES - t->at % VAULT_BLOCK_BYTES;
        *ret_length = (uint32_t)(length < to_block ? length : to_block);
        *ret_offset = t->working[me] = t->at;
        t->at += *ret_length;
        tell(t, false);
    } else if (r == 0) {
        t->at = t->data_end = t->size_bytes;
    }
    *ret_passed = placed_up_to(t);
    pthread_mutex_unlock(&t->lock);
    return r;
}

static int read_piece(struct transfer *t, uint64_t offset, void *out, uint32_t length,
                      struct sp_why *why)
{
    int r = 0;
    for (uint32_t at = 0, n; r == 0 && at < length; at += n) {
        n = length - at < READ_BYTES ? length - at : READ_BYTES;
        if (!t->source->parallel)
            pthread_mutex_lock(&t->read_lock);
        r = t->source->read_at(t->snapshot, t->disk, offset + at, (uint8_t *)out + at, n, why);
        if (!t->source->parallel)
            pthread_mutex_unlock(&t->read_lock);
        atomic_fetch_add(&t->read_bytes, n);
    }
    return r;
}

static int move_piece(struct transfer *t, struct vault_coder *coder, struct vault_block *block,
                      uint64_t offset, uint32_t length, struct sp_why *why)
{
    struct writer_chunk chunks[CHUNKS_IN_BLOCK];
    size_t count = 0;
    int r = read_piece(t, offset, block->data, length, why);
    for (uint32_t at = 0; r == 0 && at < length; at += VAULT_CHUNK_BYTES, count++) {
        uint32_t left = length - at;
        struct writer_chunk *c = &chunks[count];
        *c = (struct writer_chunk){.index = (offset + at) / VAULT_CHUNK_BYTES,
                                   .data = block->data + at,
                                   .size = left < VAULT_CHUNK_BYTES ? left : VAULT_CHUNK_BYTES};
        c->ciphertext = layout_is_ciphertext(&t->layout, offset + at, c->size);
        r = vault_writer_prepare(t->writer, coder, c, why);
    }
    return r == 0 ? vault_writer_place(t->writer, chunks, count, block, why) : r;
}

struct worker {
    struct transfer *transfer;
    unsigned number;
    pthread_t thread;
};

static void *work(void *arg)
{
    const struct worker *me = arg;
    struct transfer *t = me->transfer;
    struct vault_coder *coder = NULL;
    struct sp_why why = {{0}};
    int r = vault_writer_coder(t->writer, &coder);
    while (r == 0) {
        uint64_t offset = 0, passed = 0;
        uint32_t length = 0;
        r = claim(t, me->number, &offset, &length, &passed, &why);
        if (r <= 0)
            break;
        r = vault_writer_passed(t->writer, passed / VAULT_CHUNK_BYTES, &why);
        struct vault_block *block = r == 0 ? vault_writer_take(t->writer) : NULL;
        if (r == 0 && !block) {
            r = vault_writer_error(t->writer, &why);
            r = r < 0 ? r : -ENOMEM;
        }
        if (r == 0)
            r = move_piece(t, coder, block, offset, length, &why);
        vault_writer_give(t->writer, block);
    }
    if (r < 0)
        fail(t, r, &why);
    pthread_mutex_lock(&t->lock);
    t->working[me->number] = UINT64_MAX;
    pthread_mutex_unlock(&t->lock);
    vault_coder_free(coder);
    return NULL;
}

/* Runs the threads over the disk that `t` is set to. */
static int run_workers(struct transfer *t, struct sp_why *why)
{
    struct worker workers[MOST_THREADS];
    unsigned wanted = t->source->parallel ? THREADS_PARALLEL : THREADS_SERIAL, started = 0;
    for (unsigned i = 0; i < MOST_THREADS; i++)
        t->working[i] = UINT64_MAX;
    for (unsigned i = 0; i < wanted; i++) {
        workers[i] = (struct worker){.transfer = t, .number = i};
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            break; /* fewer will do */
        started++;
    }
    for (unsigned i = 0; i < started; i++)
        pthread_join(workers[i].thread, NULL);
    if (started == 0)
        return sp_why_set(why, -EAGAIN, "no thread could be started for the transfer");
    if (t->error && why)
        *why = t->why;
    return t->error;
}

static int fill_image(const struct transfer *t, const struct plan_disk *plan,
                      const Sp__SourceDisk *disk, Sp__DiskImage *image)
{
    image->reread_bytes = plan->reread_bytes;
    image->read_bytes = atomic_load(&t->read_bytes) + plan->reread_bytes;
    if (t->increment && !(image->base_point_id = strdup(plan->base->point_id)))
        return -ENOMEM;
    image->disk_id = strdup(disk->disk_id);
    image->serial = strdup(disk->serial);
    image->source_name = strdup(disk->source_name);
    image->format = strdup(disk->format);
    image->logical_sector_bytes = disk->logical_sector_bytes;
    if (!image->disk_id || !image->serial || !image->source_name || !image->format)
        return -ENOMEM;
    return layout_extents(&t->layout, disk->disk_id, &image->n_ciphertext, &image->ciphertext);
}

/* Between the plan and here the base may have gone from the vault: then all of the disk is copied.
 */
static int take_base(struct transfer *t, struct plan_disk *plan, struct sp_why *why)
{
    if (!plan->base)
        return 0;
    int r = vault_writer_base(t->writer, plan->base->machine_id, plan->base->point_id,
                              plan->base->image, why);
    t->increment = r == 0;
    return r == -ESTALE || r == -EBADMSG
               ? plan_drop(plan, "its earlier copy cannot be built on: %s", why ? why->text : "")
               : r;
}

static int move_disk(struct transfer *t, const char *point_id, struct vault *vault,
                     struct plan_disk *plan, const Sp__SourceDisk *disk, Sp__DiskImage *image,
                     struct sp_why *why)
{
    int r = vault_writer_new(vault, point_id, disk->disk_id, disk->size_bytes, &t->writer, why);
    if (r == 0)
        r = take_base(t, plan, why);
    if (r == 0)
        r = run_workers(t, why);
    /* A snapshot that broke on the way may have given bytes of a later time. */
    if (r == 0 && t->source->broken && t->source->broken(t->snapshot))
        r = sp_why_set(why, -EIO,
                       "the snapshot broke while disk '%.100s' was read: its store for "
                       "overwritten data is full",
                       disk->disk_id);
    if (r == 0)
        r = vault_writer_finish(t->writer, image, why);
    if (r == 0)
        r = fill_image(t, plan, disk, image);
    pthread_mutex_lock(&t->lock);
    if (r == 0)
        tell(t, true);
    pthread_mutex_unlock(&t->lock);
    vault_writer_free(t->writer);
    t->writer = NULL;
    return r;
}

static void start_disk(struct transfer *t, size_t number, const Sp__SourceDisk *disk)
{
    t->disk = (uint32_t)number;
    t->disk_id = disk->disk_id;
    t->size_bytes = disk->size_bytes;
    t->at = t->data_end = t->told = 0;
    t->increment = false;
    t->error = 0;
    atomic_store(&t->read_bytes, 0);
}

static int move_disks(struct transfer *t, const Sp__SnapshotResponse *snapshot,
                      const Sp__TransferRequest *request, struct vault *vault, struct plan *plan,
                      Sp__TransferResponse *response, struct sp_why *why)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < snapshot->n_disks; i++) {
        const Sp__SourceDisk *disk = snapshot->disks[i];
        if (disk->skipped)
            continue;
        Sp__DiskImage *image = malloc(sizeof *image);
        if (!image)
            return -ENOMEM;
        sp__disk_image__init(image);
        response->disks[response->n_disks++] = image;
        start_disk(t, i, disk);
        r = layout_of(request, disk->disk_id, disk->size_bytes, &t->layout);
        if (r == -EINVAL)
            (void)sp_why_set(why, r, "the layout of disk '%.100s' names a range beyond its end",
                             disk->disk_id);
        if (r == 0)
            r = move_disk(t, request->point_id, vault, &plan->disks[i], disk, image, why);
        if (r == -EBADMSG && t->increment) {
            r = plan_drop(&plan->disks[i], "its earlier copy is damaged: %s", why ? why->text : "");
            start_disk(t, i, disk);
            r = r ? r : move_disk(t, request->point_id, vault, &plan->disks[i], disk, image, why);
        }
        t->done_before += disk->size_bytes;
        free(sp_steal(t->layout.ranges));
        t->layout.count = 0;
    }
    return r;
}

int mover_transfer(const struct source *source, struct source_snapshot *handle,
                   const Sp__SnapshotResponse *snapshot, const Sp__TransferRequest *request,
                   struct vault *vault, const struct mover_transfer_hooks *hooks,
                   Sp__TransferResponse **ret, struct sp_why *why)
{
    if (request->vault_id[0] && strcmp(request->vault_id, vault_id(vault)))
        return sp_why_set(why, -EINVAL, "the request is for another vault");
    Sp__TransferResponse *response = malloc(sizeof *response);
    if (!response)
        return -ENOMEM;
    sp__transfer_response__init(response);
    struct transfer t = {.source = source, .snapshot = handle, .hooks = hooks};
    pthread_mutex_init(&t.read_lock, NULL);
    pthread_mutex_init(&t.lock, NULL);
    for (size_t i = 0; i < snapshot->n_disks; i++)
        if (!snapshot->disks[i]->skipped)
            t.total_bytes += snapshot->disks[i]->size_bytes;
    response->disks = calloc(snapshot->n_disks + 1, sizeof(Sp__DiskImage *));
    struct plan plan = {0};
    int r = response->disks ? plan_make(source, handle, snapshot, request, vault, hooks, &plan, why)
                            : -ENOMEM;
    if (r == 0)
        r = move_disks(&t, snapshot, request, vault, &plan, response, why);
    if (r == 0)
        r = plan_notes(&plan, &response->n_notes, &response->notes);
    plan_free(&plan);
    pthread_mutex_destroy(&t.read_lock);
    pthread_mutex_destroy(&t.lock);
    if (r < 0) {
        sp__transfer_response__free_unpacked(response, NULL);
        return r;
    }
    *ret = response;
    return 0;
}
