/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Key derivations of several proofs at once take no more memory together than the keeper's budget;
 * one alone may always run. Seen from inside the provers, which are made up here. */
#include "rig.h"

#include <pthread.h>
#include <string.h>

enum { BUDGET_KIB = 100 << 10, SLOT_KIB = 40 << 10, DEAR_KIB = 400 << 10, PROOFS = 6 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    keeper_run_fn *prover;
    unsigned entered, running, most, alone_dear;
    uint64_t used_kib;
    bool too_much;
    bool in_pairs; /* each waits inside for one more */
} seen = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0, 0, 0, 0, 0, false, false};

static int run(const struct prover_options *options, const Sp__ProverJob *job, int reader,
               const struct sp_secret *secret, Sp__ProverResult **ret,
               struct sp_secret **ret_volume_key, struct sp_why *why)
{
    static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
    const uint64_t need = job->proof->volume->header->protectors[0]->kdf_memory_kib;
    pthread_mutex_lock(&seen.lock);
    if (seen.used_kib && seen.used_kib + need > BUDGET_KIB)
        seen.too_much = true;
    seen.alone_dear += need > BUDGET_KIB && !seen.used_kib;
    seen.used_kib += need;
    if (++seen.running > seen.most)
        seen.most = seen.running;
    unsigned pair_full = seen.entered++ / 2 * 2 + 2;
    pthread_cond_broadcast(&seen.changed);
    while (seen.in_pairs && seen.entered < pair_full)
        pthread_cond_wait(&seen.changed, &seen.lock);
    pthread_mutex_unlock(&seen.lock);
    /* The made-up prover takes one at a time; those that wait here are inside all the same. */
    pthread_mutex_lock(&one);
    int r = seen.prover(options, job, reader, secret, ret, ret_volume_key, why);
    pthread_mutex_unlock(&one);
    pthread_mutex_lock(&seen.lock);
    seen.used_kib -= need;
    seen.running--;
    pthread_mutex_unlock(&seen.lock);
    return r;
}

static int setup(void **state)
{
    if (rig_setup(state) < 0)
        return -1;
    struct rig *r = *state;
    import_key(r, MACHINE, VOLUME, "", "right", NULL);
    fake.opens = "right";
    seen.prover = r->k->options.run;
    seen.entered = seen.most = seen.alone_dear = 0;
    r->k->options.run = run;
    r->k->proofs.memory_kib = BUDGET_KIB;
    r->k->proofs.most = PROOFS + 2;
    return 0;
}

struct asking {
    pthread_t thread;
    struct rig *rig;
    uint32_t need_kib;
    Sp__ProofStatement *statement;
};

static void *ask(void *self)
{
    struct asking *a = self;
    a->statement =
        prove(a->rig,
              (struct proof_options){.root = 1,
                                     .only = SP__PROTECTOR_TYPE__PROTECTOR_TYPE_LUKS_KEYSLOT,
                                     .kdf_memory_kib = a->need_kib},
              NULL);
    return NULL;
}

static void prove_all(struct rig *r, const uint32_t need_kib[], size_t count)
{
    struct asking asking[PROOFS] = {0};
    for (size_t i = 0; i < count; i++) {
        asking[i].rig = r;
        asking[i].need_kib = need_kib[i];
        assert_int_equal(pthread_create(&asking[i].thread, NULL, ask, &asking[i]), 0);
    }
    for (size_t i = 0; i < count; i++) {
        pthread_join(asking[i].thread, NULL);
        assert_int_equal(asking[i].statement->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS);
        sp__proof_statement__free_unpacked(asking[i].statement, NULL);
    }
    assert_int_equal(seen.entered, count);
    assert_false(seen.too_much);
    assert_int_equal(r->k->proofs.memory_used_kib, 0);
}

/* Two fit into the budget: each of them waits until it is not alone, so fewer would never end. */
static void test_as_many_as_fit_run_at_once(void **state)
{
    static const uint32_t need[PROOFS] = {SLOT_KIB, SLOT_KIB, SLOT_KIB,
                                          SLOT_KIB, SLOT_KIB, SLOT_KIB};
    seen.in_pairs = true;
    prove_all(*state, need, PROOFS);
    seen.in_pairs = false;
    assert_int_equal(seen.most, 2);
}

static void test_one_that_exceeds_the_budget_runs_alone(void **state)
{
    static const uint32_t need[PROOFS] = {SLOT_KIB, DEAR_KIB, SLOT_KIB,
                                          DEAR_KIB, SLOT_KIB, SLOT_KIB};
    prove_all(*state, need, PROOFS);
    assert_int_equal(seen.alone_dear, 2);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_as_many_as_fit_run_at_once),
        TEST(test_one_that_exceeds_the_budget_runs_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
