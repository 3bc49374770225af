/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Backups that are cancelled or killed at each step, sources that do not let go, catalogs that are
 * lost. */
#include "base/identity.h"
#include "scene.h"
#include <sys/wait.h>

/* ---- cancel ---- */

static int take_id(void *arg, Sp__Job *job)
{
    snprintf(arg, 37, "%s", job->job_id);
    return 0;
}

static void cancel_now(void)
{
    char id[37] = "";
    Sp__Job *job = NULL;
    /* The only job that has not ended. */
    assert_int_equal(catalog_job_unended(here->catalog, take_id, id), 0);
    assert_int_equal(engine_cancel(here->engine, id, &job, NULL), 0);
    message_free(job);
}

static bool cancel_at_layout;
static void cancel_at_look(bool layout_only)
{
    if (layout_only == cancel_at_layout)
        cancel_now();
}

static void cancel_works_at_each_step(void **state)
{
    struct scene *s = *state;
    a_luks_volume();
    for (int step = 0; step < 4; step++) {
        fake_source.on_snapshot = step == 0 ? cancel_now : NULL;
        fake_keeper.on_look = step == 1 || step == 2 ? cancel_at_look : NULL;
        cancel_at_layout = step == 1;
        fake_keeper.on_prove = step == 3 ? cancel_now : NULL;
        Sp__Job *job = back_up(s);
        assert_int_equal(job->state, STATE(FAILED));
        assert_true(has(job, REASON(CANCELLED)));
        nothing_left();
        struct catalog_point *cp = point_of(s, job);
        assert_false(cp->pinned || cp->snapshot_held || cp->stored);
        catalog_point_free(cp);
        message_free(job);
    }
}

static void cancel_once(void)
{
    fake_keeper.on_away = NULL;
    cancel_now();
}

/* With a wait that no test outlives. */
static void a_cancelled_job_does_not_wait_for_the_keeper(void **state)
{
    struct scene *s = *state;
    engine_free(s->engine);
    s->keeper_wait_ms = 24 * 3600 * 1000;
    start_engine(s);
    message_free(back_up(s)); /* the vault's key is known from here on */
    fake_keeper.away = true;
    fake_keeper.on_away = cancel_once;
    Sp__Job *job = back_up(s);
    assert_int_equal(job->state, STATE(FAILED));
    assert_true(has(job, REASON(CANCELLED)));
    nothing_left();
    struct catalog_point *cp = point_of(s, job);
    assert_true(cp->pinned);
    catalog_point_free(cp);
    fake_keeper.away = false;
    engine_tidy(s->engine);
    cp = point_of(s, job);
    assert_false(cp->pinned);
    catalog_point_free(cp);
    message_free(job);
}

/* ---- kills ---- */

static void die(void)
{
    _exit(99);
}

static bool die_at_layout;
static void die_at_look(bool layout_only)
{
    if (layout_only == die_at_layout)
        die();
}

enum kill_at { AT_SNAPSHOT, AT_LAYOUT, AT_RELEASE, AT_LOOK, AT_PROVE, AT_SEAL, KILLS };

/* The child runs a backup and dies in the middle; the parent starts where it left. */
static void run_and_die(struct scene *s, enum kill_at at)
{
    engine_free(s->engine);
    catalog_close(s->catalog);
    pid_t child = fork();
    if (child == 0) {
        fake_source.on_snapshot = at == AT_SNAPSHOT ? die : NULL;
        fake_keeper.on_look = at == AT_LAYOUT || at == AT_LOOK ? die_at_look : NULL;
        fake_source.on_release = at == AT_RELEASE ? die : NULL;
        die_at_layout = at == AT_LAYOUT;
        fake_keeper.on_prove = at == AT_PROVE ? die : NULL;
        fake_keeper.on_seal = at == AT_SEAL ? die : NULL;
        open_catalog(s);
        start_engine(s);
        Sp__Job *job = NULL;
        if (engine_start_backup(s->engine, "web1", true, &job, NULL) < 0)
            _exit(1);
        message_free(wait_end(s));
        _exit(2);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(WEXITSTATUS(status), 99);
    /* What the dead one left at the source. */
    fake_source.held = at <= AT_RELEASE;
    fake_source.last_transferred = at > AT_RELEASE;
    open_catalog(s);
    start_engine(s);
}

static int only_point(void *arg, uint64_t rowid, Sp__Point *point)
{
    (void)rowid;
    snprintf(arg, 37, "%s", point->point_id);
    return 1;
}

static void kills_at_each_state_are_recovered(void **state)
{
    struct scene *s = *state;
    a_luks_volume();
    /* Made before the fork: both sides sign with it. */
    fake_keeper.key = sp_key_new();
    for (enum kill_at at = AT_SNAPSHOT; at < KILLS; at++) {
        char id[37];
        struct sp_why why = {0};
        run_and_die(s, at);
        if (engine_recover(s->engine, &why) < 0)
            fail_msg("%s", why.text);
        bool resumes = at >= AT_RELEASE;
        if (resumes) {
            Sp__Job *job = wait_end(s);
            assert_int_equal(job->state, STATE(VALID));
            assert_int_equal(job->grade, GRADE(FILESYSTEM));
            message_free(job);
        }
        nothing_left();
        assert_int_equal(fake_source.last_transferred, resumes);
        assert_int_equal(catalog_point_each(s->catalog, NULL, 0, only_point, id), 0);
        struct catalog_point *cp = NULL;
        assert_int_equal(catalog_point_get(s->catalog, id, &cp), 0);
        if (resumes) {
            assert_int_equal(cp->point->state, STATE(VALID));
        } else {
            assert_int_equal(cp->point->state, STATE(FAILED));
            assert_int_equal(cp->point->findings[cp->point->n_findings - 1]->reason,
                             REASON(INTERRUPTED));
            assert_false(cp->pinned || cp->stored);
        }
        assert_false(cp->snapshot_held);
        catalog_point_free(cp);
        /* The machine is free for the next one. */
        assert_int_equal(engine_running(s->engine), 0);
    }
    Sp__Job *job = back_up(s);
    assert_int_equal(job->state, STATE(VALID));
    message_free(job);
}

static void a_snapshot_that_cannot_be_released_is_tried_again(void **state)
{
    struct scene *s = *state;
    fake_source.release_error = -ECONNREFUSED;
    Sp__Job *job = back_up(s);
    assert_int_equal(job->state, STATE(VALID));
    assert_int_equal(fake_source.held, 1);
    engine_tidy(s->engine);
    assert_int_equal(fake_source.held, 1);
    fake_source.release_error = 0;
    engine_tidy(s->engine);
    nothing_left();
    assert_true(fake_source.last_transferred);
    message_free(job);
}

/* vault_get_manifest(), with the catalog asked from another thread meanwhile (ld --wrap): were its
 * lock held over the reading, this would never come back. */
int __real_vault_get_manifest(struct vault *, const char *, const char *, struct sp_bytes,
                              Sp__Signed **, Sp__Manifest **, struct sp_why *);
int __wrap_vault_get_manifest(struct vault *, const char *, const char *, struct sp_bytes,
                              Sp__Signed **, Sp__Manifest **, struct sp_why *);
static unsigned manifests_read;

static void *ask_catalog(void *arg)
{
    Sp__Machine *m = NULL;
    (void)catalog_machine_get(arg, "web1", false, &m);
    message_free(m);
    return NULL;
}

int __wrap_vault_get_manifest(struct vault *v, const char *machine, const char *point,
                              struct sp_bytes key, Sp__Signed **ret, Sp__Manifest **ret_manifest,
                              struct sp_why *why)
{
    pthread_t thread;
    manifests_read++;
    assert_int_equal(pthread_create(&thread, NULL, ask_catalog, here->catalog), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    return __real_vault_get_manifest(v, machine, point, key, ret, ret_manifest, why);
}

static void a_check_does_not_hold_the_catalog(void **state)
{
    struct scene *s = *state;
    unsigned problems = 0;
    a_luks_volume();
    message_free(back_up(s));
    message_free(back_up(s));
    manifests_read = 0;
    assert_int_equal(engine_check_vault(s->engine, "main", false, check_progress, &problems, NULL),
                     0);
    assert_int_equal(problems, 0);
    assert_true(manifests_read >= 2);
}

static void a_lost_catalog_is_built_again_from_the_vault(void **state)
{
    struct scene *s = *state;
    unsigned problems = 0;
    a_luks_volume();
    Sp__Job *job = back_up(s);
    assert_int_equal(engine_check_vault(s->engine, "main", true, check_progress, &problems, NULL),
                     0);
    assert_int_equal(problems, 0);
    engine_free(s->engine);
    catalog_close(s->catalog);
    free(s->path);
    s->path = sp_format("%s/second.db", s->folder);
    open_catalog(s);
    start_engine(s);
    Sp__DirectoryVault directory = SP__DIRECTORY_VAULT__INIT;
    Sp__VaultConfig config = SP__VAULT_CONFIG__INIT;
    Sp__Vault *vault = NULL;
    directory.path = s->vault_path;
    config.kind_case = SP__VAULT_CONFIG__KIND_DIRECTORY;
    config.directory = &directory;
    assert_int_equal(engine_add_vault(s->engine, "again", &config, &vault, NULL), 0);
    message_free(vault);
    struct catalog_point *cp = point_of(s, job);
    assert_int_equal(cp->point->state, STATE(VALID));
    assert_int_equal(cp->point->volumes_proved, 1);
    catalog_point_free(cp);
    message_free(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(cancel_works_at_each_step),         T(a_cancelled_job_does_not_wait_for_the_keeper),
        T(kills_at_each_state_are_recovered), T(a_snapshot_that_cannot_be_released_is_tried_again),
        T(a_check_does_not_hold_the_catalog), T(a_lost_catalog_is_built_again_from_the_vault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
