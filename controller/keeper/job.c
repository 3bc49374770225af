/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/job.h"

#include "base/cleanup.h"
#include "base/frame.h"
#include "controller/keeper/keeper.h"
#include <string.h>
#include <sys/socket.h>

struct relay {
    int upstream, own; /* the controller's socket; our end of the prover's */
    pthread_t thread;
};

static int relay_read(void *self, uint32_t disk, uint64_t offset, void *out, uint32_t length)
{
    const struct relay *relay = self;
    return sp_pread_remote(relay->upstream, disk, offset, out, length);
}

static void *relay_main(void *self)
{
    struct relay *relay = self;
    sp_pread_serve(relay->own, -1, relay_read, relay);
    shutdown(relay->own, SHUT_RDWR); /* a prover that waits for an answer must not wait forever */
    return NULL;
}

static int relay_start(struct relay *relay, int upstream, int *ret_prover_side)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    relay->upstream = upstream;
    relay->own = pair[0];
    int r = pthread_create(&relay->thread, NULL, relay_main, relay);
    if (r != 0) {
        close(pair[0]);
        close(pair[1]);
        return -r;
    }
    *ret_prover_side = pair[1];
    return 0;
}

/* A read that is under way upstream is carried to its end, so that the socket stays in step. */
static void relay_stop(struct relay *relay)
{
    shutdown(relay->own, SHUT_RDWR);
    pthread_join(relay->thread, NULL);
    close(relay->own);
}

/* What deriving the key takes: of the one keyslot that is named, else of the dearest. The header
 * says so, which a hostile guest wrote: it can make its own proof wait, since one may always run,
 * and the prover's own limit stands in any case. */
static uint64_t memory_of(const Sp__ProverJob *job)
{
    const Sp__ProverProof *p = job->kind_case == SP__PROVER_JOB__KIND_PROOF ? job->proof : NULL;
    const Sp__HeaderFacts *header = p && p->volume ? p->volume->header : NULL;
    uint64_t most = 0;
    if (!header || p->header_opened_before ||
        p->secret_type == SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY)
        return 0;
    for (size_t i = 0; i < header->n_protectors; i++) {
        const Sp__Protector *x = header->protectors[i];
        if ((!p->protector_id[0] || strcmp(p->protector_id, x->id) == 0) &&
            x->kdf_memory_kib > most)
            most = x->kdf_memory_kib;
    }
    return most;
}

static bool is_full(const struct keeper_gate *gate, uint64_t memory_kib)
{
    return gate->running == gate->most || (gate->memory_kib && gate->memory_used_kib &&
                                           (memory_kib > gate->memory_kib ||
                                            gate->memory_used_kib > gate->memory_kib - memory_kib));
}

static void gate_enter(struct keeper *k, struct keeper_gate *gate, uint64_t memory_kib)
{
    pthread_mutex_lock(&k->lock);
    while (is_full(gate, memory_kib))
        pthread_cond_wait(&gate->free, &k->lock);
    gate->running++;
    gate->memory_used_kib += memory_kib;
    pthread_mutex_unlock(&k->lock);
}

static void gate_leave(struct keeper *k, struct keeper_gate *gate, uint64_t memory_kib)
{
    pthread_mutex_lock(&k->lock);
    gate->running--;
    gate->memory_used_kib -= memory_kib;
    pthread_cond_broadcast(&gate->free); /* they wait for different amounts */
    pthread_mutex_unlock(&k->lock);
}

int job_run(struct keeper *k, struct keeper_gate *gate, const Sp__ProverJob *job, int reader_socket,
            const struct sp_secret *secret, Sp__ProverResult **ret,
            struct sp_secret **ret_volume_key, struct sp_why *why)
{
    const struct prover_options options = {.program = k->options.prover,
                                           .nursery = k->options.nursery};
    Sp__ProverResult *result = NULL;
    SP_FD int prover_side = -1;
    struct relay relay;

    if (!k->options.run)
        return sp_why_set(why, -EOPNOTSUPP, "this keeper has no prover");
    int r = relay_start(&relay, reader_socket, &prover_side);
    if (r < 0)
        return sp_why_set(why, r, "the prover cannot be connected to the snapshot");
    uint64_t memory_kib = memory_of(job);
    gate_enter(k, gate, memory_kib);
    r = k->options.run(&options, job, prover_side, secret, &result, ret_volume_key, why);
    gate_leave(k, gate, memory_kib);
    relay_stop(&relay);
    if (r == 0 && result->error != 0) {
        r = -abs(result->error);
        sp_why_set(why, r, "%.440s", result->text[0] ? result->text : "the prover failed");
        sp__prover_result__free_unpacked(result, NULL);
        result = NULL;
    }
    if (r == 0)
        *ret = result;
    return r;
}
