/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Points over time: retention, locks, replicas, and keys that are proved again. */
#include "base/clock.h"
#include "base/identity.h"
#include "scene.h"

static int keep_one(Sp__Machine *m, void *arg)
{
    (void)arg;
    m->policy = message_new(&sp__policy__descriptor);
    m->policy->encrypt_clear_chunks = 1;
    m->policy->retention = message_new(&sp__retention__descriptor);
    m->policy->retention->keep_last = 1;
    return 0;
}

static Sp__CollectProgress *collect(struct scene *s, bool dry_run)
{
    Sp__CollectProgress *done = NULL;
    struct sp_why why = {0};
    if (engine_collect(s->engine, "main", dry_run, &done, &why) < 0)
        fail_msg("collect: %s", why.text);
    return done;
}

/* As if so many days had been counted. */
static void pass_days(struct scene *s, uint64_t days)
{
    struct sp_buffer old SP_BUFFER = {0};
    unsigned long long at = 0, boot = 0;
    char id[64] = "", text[128];
    assert_int_equal(catalog_get(s->catalog, "elapsed-clock", &old), 0);
    assert_true(sscanf(sp_buffer_text(&old), "%llu %llu %63s", &at, &boot, id) >= 2);
    snprintf(text, sizeof text, "%llu %llu %s", at + days * 24 * 3600 * 1000, boot, id);
    assert_int_equal(catalog_set(s->catalog, "elapsed-clock", text, strlen(text)), 0);
}

static void retention_deletes_and_a_fortnight_later_it_is_gone(void **state)
{
    struct scene *s = *state;
    struct sp_why why = {0};
    Sp__Job *job[3];
    Sp__Point *point = NULL;
    a_luks_volume();
    assert_int_equal(catalog_machine_change(s->catalog, "web1", keep_one, NULL, NULL), 0);
    for (size_t i = 0; i < 3; i++)
        job[i] = back_up(s);
    assert_int_equal(
        engine_mark_point(s->engine, job[0]->point_id, ENGINE_HOLD, "user/a", "case", &point, &why),
        0);
    assert_string_equal(point->held_by, "user/a");
    message_free(point);
    point = NULL;
    assert_int_equal(
        engine_mark_point(s->engine, job[2]->point_id, ENGINE_DELETE, "user/a", "x", &point, &why),
        -EPERM);
    Sp__CollectProgress *done = collect(s, true);
    assert_int_equal(done->n_expired_points, 1);
    message_free(done);
    done = collect(s, false);
    assert_int_equal(done->n_expired_points, 1);
    assert_string_equal(done->expired_points[0], job[1]->point_id);
    assert_int_equal(done->points_removed, 0);
    message_free(done);
    pass_days(s, 13);
    done = collect(s, false);
    assert_int_equal(done->points_removed, 0);
    message_free(done);
    pass_days(s, 2);
    done = collect(s, false);
    assert_int_equal(done->points_removed, 1);
    message_free(done);
    struct catalog_point *cp = point_of(s, job[1]);
    assert_int_equal(cp->point->state, STATE(EXPIRED));
    assert_false(cp->stored);
    catalog_point_free(cp);
    cp = point_of(s, job[0]);
    assert_true(cp->stored && cp->point->state == STATE(VALID));
    catalog_point_free(cp);
    unsigned problems = 0;
    assert_int_equal(engine_check_vault(s->engine, "main", true, check_progress, &problems, NULL),
                     0);
    assert_int_equal(problems, 0);
    for (size_t i = 0; i < 3; i++)
        message_free(job[i]);
}

static void an_immutable_vault_keeps_its_points(void **state)
{
    struct scene *s = *state;
    struct sp_why why = {0};
    Sp__Vault *vault = NULL;
    Sp__Point *point = NULL;
    a_luks_volume();
    assert_int_equal(catalog_vault_get(s->catalog, "main", &vault), 0);
    assert_int_equal(engine_make_immutable(s->engine, vault->vault_id, 30, &why), 0);
    assert_int_equal(engine_make_immutable(s->engine, vault->vault_id, 7, &why), -EPERM);
    assert_int_equal(engine_immutable_days(s->engine, vault->vault_id), 30);
    Sp__Job *first = back_up(s), *second = back_up(s);
    assert_int_equal(second->state, STATE(VALID));
    assert_int_equal(
        engine_mark_point(s->engine, first->point_id, ENGINE_DELETE, "user/a", "x", &point, &why),
        -EPERM);
    assert_non_null(strstr(why.text, "locked"));
    pass_days(s, 29);
    assert_int_equal(
        engine_mark_point(s->engine, first->point_id, ENGINE_DELETE, "user/a", "x", &point, &why),
        -EPERM);
    pass_days(s, 2);
    assert_int_equal(
        engine_mark_point(s->engine, first->point_id, ENGINE_DELETE, "user/a", "x", &point, &why),
        0);
    message_free(point);
    message_free(first);
    message_free(second);
    message_free(vault);
}

static int count_problems(void *arg, const Sp__CheckProgress *p)
{
    *(unsigned *)arg += (unsigned)p->n_problems;
    return 0;
}

static void a_vault_is_copied_and_scrubbed(void **state)
{
    struct scene *s = *state;
    struct sp_why why = {0};
    struct vault_copied done = {0};
    unsigned problems = 0;
    a_luks_volume();
    message_free(back_up(s));
    char *replica SP_FREE = sp_format("%s/replica", s->folder);
    if (engine_copy_vault(s->engine, "main", replica, "web1", NULL, NULL, &done, &why))
        fail_msg("copy: %s", why.text);
    assert_int_equal(done.points, 1);
    assert_int_equal(engine_copy_vault(s->engine, "main", replica, "", NULL, NULL, &done, &why), 0);
    assert_int_equal(done.points, 0);
    assert_int_equal(done.points_there, 1);
    if (engine_scrub_vault(s->engine, "main", replica, 0, count_problems, &problems, &why))
        fail_msg("scrub: %s", why.text);
    assert_int_equal(problems, 0);
    /* The vault itself is no replica of itself. */
    assert_int_equal(
        engine_copy_vault(s->engine, "main", s->vault_path, "", NULL, NULL, &done, &why), -EINVAL);
}

/* ---- proved again ---- */

static void begin_again(struct scene *s, uint64_t reproof_after_ms, uint64_t unreachable_most_ms)
{
    engine_free(s->engine);
    s->reproof_after_ms = reproof_after_ms;
    s->unreachable_most_ms = unreachable_most_ms;
    start_engine(s);
}

/* As if the last proof, and the last try, had been so long ago. */
static void age(struct scene *s, const char *point_id, uint64_t ms)
{
    struct catalog_point *cp CATALOG_POINT = NULL;
    assert_int_equal(catalog_point_get(s->catalog, point_id, &cp), 0);
    cp->point->last_proved_unix_ms -= ms;
    if (cp->point->last_tried_unix_ms)
        cp->point->last_tried_unix_ms -= ms;
    assert_int_equal(catalog_point_save(s->catalog, cp, false, NULL), 0);
}

/* The point of the job that engine_reproof() began, and that job's verdict. */
static Sp__PointState proved_again(struct scene *s, char point_id[37])
{
    engine_reproof(s->engine);
    Sp__Job *job = wait_end(s);
    assert_string_equal(job->kind, "verify");
    snprintf(point_id, 37, "%s", job->point_id);
    Sp__PointState state = job->state;
    message_free(job);
    return state;
}

enum { HOUR_MS = 3600 * 1000, DAY_MS = 24 * HOUR_MS };

static void kept_points_are_proved_again_oldest_first(void **state)
{
    struct scene *s = *state;
    char id[37];
    a_luks_volume();
    Sp__Job *a = back_up(s), *b = back_up(s);
    assert_int_equal(a->state, STATE(VALID));
    begin_again(s, 10 * DAY_MS, DAY_MS);
    engine_reproof(s->engine); /* none is due */
    assert_int_equal(engine_running(s->engine), 0);
    age(s, a->point_id, 11 * (uint64_t)DAY_MS);
    age(s, b->point_id, 12 * (uint64_t)DAY_MS);
    unsigned proofs = fake_keeper.proofs;
    assert_int_equal(proved_again(s, id), STATE(VALID));
    assert_string_equal(id, b->point_id);
    assert_int_equal(proved_again(s, id), STATE(VALID));
    assert_string_equal(id, a->point_id);
    assert_int_equal(fake_keeper.proofs, proofs + 2);
    engine_reproof(s->engine);
    assert_int_equal(engine_running(s->engine), 0);
    message_free(a);
    message_free(b);
}

static void a_lost_key_puts_its_point_at_risk_and_is_tried_each_day(void **state)
{
    struct scene *s = *state;
    char id[37];
    a_luks_volume();
    Sp__Job *job = back_up(s);
    begin_again(s, 10 * DAY_MS, DAY_MS);
    age(s, job->point_id, 11 * (uint64_t)DAY_MS);
    fake_keeper.verdict = SP__PROOF_VERDICT__PROOF_VERDICT_NO_RECORD;
    assert_int_equal(proved_again(s, id), STATE(AT_RISK));
    engine_reproof(s->engine); /* a moment ago */
    assert_int_equal(engine_running(s->engine), 0);
    age(s, job->point_id, DAY_MS + HOUR_MS);
    fake_keeper.verdict = SP__PROOF_VERDICT__PROOF_VERDICT_OPENS;
    assert_int_equal(proved_again(s, id), STATE(VALID));
    message_free(job);
}

static void unreachable_is_an_excuse_for_some_days_only(void **state)
{
    struct scene *s = *state;
    char id[37];
    a_luks_volume();
    Sp__Job *job = back_up(s);
    begin_again(s, 10 * DAY_MS, 5 * DAY_MS);
    fake_keeper.verdict = SP__PROOF_VERDICT__PROOF_VERDICT_UNREACHABLE;
    age(s, job->point_id, 11 * (uint64_t)DAY_MS);
    assert_int_equal(proved_again(s, id), STATE(VALID));
    age(s, job->point_id, 3 * (uint64_t)DAY_MS);
    assert_int_equal(proved_again(s, id), STATE(VALID));
    age(s, job->point_id, 2 * (uint64_t)DAY_MS);
    assert_int_equal(proved_again(s, id), STATE(AT_RISK));
    message_free(job);
}

static struct job_wait {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool proving, go_on;
} gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false};

static void hold_the_proof(void)
{
    pthread_mutex_lock(&gate.lock);
    gate.proving = true;
    pthread_cond_broadcast(&gate.changed);
    while (!gate.go_on)
        pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
}

static void *let_go(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&gate.lock);
    gate.go_on = true;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
    return NULL;
}

static void a_backup_does_not_wait_for_what_nobody_asked_for(void **state)
{
    struct scene *s = *state;
    struct sp_why why = {0};
    a_luks_volume();
    Sp__Job *first = back_up(s), *job = NULL;
    begin_again(s, 10 * DAY_MS, DAY_MS);
    age(s, first->point_id, 11 * (uint64_t)DAY_MS);
    fake_keeper.on_prove = hold_the_proof;
    engine_reproof(s->engine);
    pthread_mutex_lock(&gate.lock);
    while (!gate.proving)
        pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
    fake_keeper.on_prove = NULL;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, let_go, NULL), 0);
    if (engine_start_backup(s->engine, "web1", true, &job, &why) < 0)
        fail_msg("%s", why.text);
    pthread_join(thread, NULL);
    Sp__Job *cancelled = wait_end(s);
    assert_string_equal(cancelled->kind, "verify");
    assert_true(has(cancelled, REASON(CANCELLED)));
    message_free(cancelled);
    message_free(job);
    message_free(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(retention_deletes_and_a_fortnight_later_it_is_gone),
        T(an_immutable_vault_keeps_its_points),
        T(a_vault_is_copied_and_scrubbed),
        T(kept_points_are_proved_again_oldest_first),
        T(a_lost_key_puts_its_point_at_risk_and_is_tried_each_day),
        T(unreachable_is_an_excuse_for_some_days_only),
        T(a_backup_does_not_wait_for_what_nobody_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
