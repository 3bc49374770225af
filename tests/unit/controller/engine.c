/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The state machine of a backup, step by step, with a real vault and mover. Every end leaves
 * nothing behind: no open handle, no snapshot at the source, nothing frozen, no pins of failed
 * points. */
#include "base/clock.h"
#include "base/identity.h"
#include "scene.h"

static void a_whole_backup_is_valid(void **state)
{
    struct scene *s = *state;
    a_luks_volume();
    Sp__Job *job = back_up(s);
    assert_int_equal(job->state, STATE(VALID));
    assert_int_equal(job->grade, GRADE(FILESYSTEM));
    assert_int_equal(job->n_findings, 0);
    nothing_left();
    assert_true(fake_source.guest_was_held && fake_source.last_transferred);
    assert_int_equal(fake_agent.thaws, 1);
    assert_int_equal(fake_keeper.looks, 2);
    assert_int_equal(fake_keeper.kept_records, 1);

    Sp__Signed *sealed = NULL;
    Sp__Manifest *m = NULL;
    bool good = false;
    assert_int_equal(engine_manifest(s->engine, job->point_id, &sealed, &m, &good, NULL), 0);
    assert_true(good && engine_manifest_holds(s->engine, m, good));
    assert_int_equal(m->sequence, 1);
    assert_int_equal(m->n_disks, 2);
    assert_string_equal(m->disks[0]->guest_name, "vda");
    assert_int_equal(m->freeze_window_us, 1234);
    assert_int_equal(m->keystore_epoch, 7);
    assert_int_equal(m->controller_audit_head.len, 32);
    /* The same manifest without its proof proves nothing. */
    size_t proofs = m->n_proofs;
    m->n_proofs = 0;
    assert_false(engine_manifest_holds(s->engine, m, good));
    m->n_proofs = proofs;
    message_free(sealed);
    message_free(m);
    message_free(job);

    /* The next one follows in the chain. */
    job = back_up(s);
    assert_int_equal(engine_manifest(s->engine, job->point_id, &sealed, &m, &good, NULL), 0);
    assert_int_equal(m->sequence, 2);
    assert_int_equal(m->previous_manifest_sha256.len, 32);
    message_free(sealed);
    message_free(m);
    message_free(job);
}

static void proofs_decide_the_state(void **state)
{
    struct scene *s = *state;
    static const struct {
        Sp__ProofVerdict verdict;
        Sp__PointState state;
        Sp__Reason reason;
    } cases[] = {
        {SP__PROOF_VERDICT__PROOF_VERDICT_NO_RECORD, STATE(INVALID), REASON(ESCROW_MISSING)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY, STATE(INVALID), REASON(ESCROW_KEY_WRONG)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_NOT_RECOGNISED, STATE(UNPROVEN),
         REASON(PLAINTEXT_NOT_RECOGNISED)},
        {SP__PROOF_VERDICT__PROOF_VERDICT_KEEPER_LOCKED, STATE(UNPROVEN),
         REASON(ESCROW_UNREACHABLE)},
    };
    a_luks_volume();
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        fake_keeper.verdict = cases[i].verdict;
        Sp__Job *job = back_up(s);
        assert_int_equal(job->state, cases[i].state);
        assert_true(has(job, cases[i].reason));
        nothing_left();
        struct catalog_point *cp = point_of(s, job);
        assert_true(cp->stored && cp->pinned); /* a later verify may still need any record */
        catalog_point_free(cp);
        message_free(job);
    }
}

static void verify_makes_it_valid_without_a_new_backup(void **state)
{
    struct scene *s = *state;
    a_luks_volume();
    fake_keeper.verdict = SP__PROOF_VERDICT__PROOF_VERDICT_NO_RECORD;
    Sp__Job *job = back_up(s);
    assert_int_equal(job->state, STATE(INVALID));
    fake_keeper.verdict = SP__PROOF_VERDICT__PROOF_VERDICT_OPENS;
    unsigned snapshots = fake_source.snapshots;
    Sp__Job *again = verify(s, job->point_id);
    assert_int_equal(again->state, STATE(VALID));
    assert_int_equal(fake_source.snapshots, snapshots);
    struct catalog_point *cp = point_of(s, job);
    assert_int_equal(cp->revision, 1);
    assert_int_equal(cp->point->grade, GRADE(FILESYSTEM));
    catalog_point_free(cp);
    message_free(again);
    /* And a key that is gone later puts it at risk. */
    fake_keeper.verdict = SP__PROOF_VERDICT__PROOF_VERDICT_NO_RECORD;
    again = verify(s, job->point_id);
    assert_int_equal(again->state, STATE(AT_RISK));
    message_free(again);
    fake_keeper.verdict = SP__PROOF_VERDICT__PROOF_VERDICT_OPENS;
    again = verify(s, job->point_id);
    assert_int_equal(again->state, STATE(VALID));
    message_free(again);
    message_free(job);
}

static void unaccounted_bytes_are_unproven(void **state)
{
    struct scene *s = *state;
    fake_keeper.account_for_all = false;
    Sp__Job *job = back_up(s);
    assert_int_equal(job->state, STATE(UNPROVEN));
    assert_true(has(job, REASON(UNIDENTIFIED_CONTENT)));
    nothing_left();
    message_free(job);
}

static int allow_disks(Sp__Machine *m, void *arg)
{
    static const char *const disks[] = {"disk0", "disk1"};
    (void)arg;
    m->policy = message_new(&sp__policy__descriptor);
    for (size_t i = 0; i < 2; i++) {
        Sp__Exception *e = message_new(&sp__exception__descriptor);
        e->reason = REASON(UNIDENTIFIED_CONTENT);
        assert_int_equal(message_set(&e->volume_id, disks[i]), 0);
        assert_int_equal(message_set(&e->allowed_by, "anna"), 0);
        ADD(m->policy, exceptions, e);
    }
    return 0;
}

static void a_policy_exception_counts_at_the_next_verify(void **state)
{
    struct scene *s = *state;
    fake_keeper.account_for_all = false;
    Sp__Job *job = back_up(s);
    assert_int_equal(job->state, STATE(UNPROVEN));
    assert_int_equal(catalog_machine_change(s->catalog, "web1", allow_disks, NULL, NULL), 0);
    Sp__Job *again = verify(s, job->point_id);
    assert_int_equal(again->state, STATE(VALID));
    assert_string_equal(again->findings[0]->allowed_by, "anna");
    message_free(again);
    message_free(job);
}

static void a_plain_volume_of_the_inventory_is_proved(void **state)
{
    struct scene *s = *state;
    fake_keeper.account_for_all = false;
    fake_source.disks = 1;
    fake_keeper.volume =
        a_volume(SP__VOLUME_KIND__VOLUME_KIND_PLAIN, "plain:vda+0", "vda", 0, FAKE_DISK_BYTES);
    fake_keeper.volume->open = 1;
    Sp__Job *job = back_up(s);
    assert_int_equal(job->state, STATE(VALID));
    assert_true(fake_keeper.plain_seen);
    message_free(job);
    /* Closed, its bytes are nobody's. */
    fake_keeper.volume->open = 0;
    job = back_up(s);
    assert_int_equal(job->state, STATE(UNPROVEN));
    assert_true(has(job, REASON(UNIDENTIFIED_CONTENT)));
    message_free(job);
}

static void without_an_agent_the_grade_is_crash(void **state)
{
    struct scene *s = *state;
    fake_agent.state = ENGINE_AGENT_ABSENT;
    Sp__Job *job = back_up(s);
    assert_int_equal(job->state, STATE(VALID));
    assert_int_equal(job->grade, GRADE(CRASH));
    assert_true(has(job, REASON(AGENT_ABSENT)));
    assert_false(fake_source.guest_was_held);
    assert_int_equal(fake_agent.freezes, 0);
    message_free(job);
    fake_agent.state = ENGINE_AGENT_QUARANTINED;
    job = back_up(s);
    assert_int_equal(job->grade, GRADE(CRASH));
    assert_true(has(job, REASON(IDENTITY_CLONED)));
    assert_int_equal(fake_agent.freezes, 0);
    message_free(job);
    fake_source.off = true;
    job = back_up(s);
    assert_int_equal(job->grade, GRADE(OFFLINE));
    message_free(job);
}

static void a_freeze_that_did_not_last_is_taken_again_without(void **state)
{
    struct scene *s = *state;
    fake_agent.thaw_late = true;
    Sp__Job *job = back_up(s);
    assert_int_equal(job->grade, GRADE(CRASH));
    assert_true(has(job, REASON(LEASE_EXPIRED)));
    assert_int_equal(fake_source.snapshots, 2);
    assert_false(fake_source.guest_was_held); /* the source held the vCPUs the second time */
    nothing_left();
    message_free(job);
    fake_agent.thaw_late = false;
    fake_agent.no_thaw_answer = true;
    job = back_up(s);
    assert_int_equal(job->grade, GRADE(CRASH));
    message_free(job);
}

static void a_refused_freeze_is_no_end(void **state)
{
    struct scene *s = *state;
    fake_agent.freeze_refused = true;
    Sp__Job *job = back_up(s);
    assert_int_equal(job->state, STATE(VALID));
    assert_int_equal(job->grade, GRADE(CRASH));
    assert_true(has(job, REASON(QUIESCE_FAILED)));
    message_free(job);
}

static int want_filesystem(Sp__Machine *m, void *arg)
{
    (void)arg;
    m->policy = message_new(&sp__policy__descriptor);
    m->policy->minimum_grade = GRADE(FILESYSTEM);
    return 0;
}

static void failures_leave_nothing_behind(void **state)
{
    struct scene *s = *state;
    Sp__Job *job;
    struct catalog_point *cp;

    fake_source.describe_error = -ECONNREFUSED;
    job = back_up(s);
    assert_int_equal(job->state, STATE(FAILED));
    assert_true(has(job, REASON(SOURCE_LOST)));
    nothing_left();
    message_free(job);

    fake_source.describe_error = 0;
    fake_source.snapshot_error = -EIO;
    job = back_up(s);
    assert_int_equal(job->state, STATE(FAILED));
    assert_int_equal(fake_agent.thaws, 1); /* thawed although the snapshot failed */
    nothing_left();
    cp = point_of(s, job);
    assert_false(cp->pinned || cp->snapshot_held || cp->stored);
    catalog_point_free(cp);
    message_free(job);

    fake_source.snapshot_error = 0;
    fake_source.break_while_reading = true;
    job = back_up(s);
    assert_int_equal(job->state, STATE(FAILED));
    assert_true(has(job, REASON(SNAPSHOT_BROKEN)));
    assert_false(fake_source.last_transferred);
    nothing_left();
    message_free(job);

    fake_source.break_while_reading = false;
    fake_agent.state = ENGINE_AGENT_ABSENT;
    assert_int_equal(catalog_machine_change(s->catalog, "web1", want_filesystem, NULL, NULL), 0);
    job = back_up(s);
    assert_int_equal(job->state, STATE(FAILED));
    assert_true(has(job, REASON(GRADE_TOO_LOW)));
    nothing_left();
    message_free(job);
}

static void a_locked_keeper_leaves_an_unsigned_point(void **state)
{
    struct scene *s = *state;
    bool good = true;
    Sp__Signed *sealed = NULL;
    Sp__Manifest *m = NULL;
    fake_keeper.locked = true;
    Sp__Job *job = back_up(s);
    assert_int_equal(job->state, STATE(UNPROVEN));
    assert_true(has(job, REASON(ESCROW_NOT_DURABLE)));
    assert_int_equal(engine_manifest(s->engine, job->point_id, &sealed, &m, &good, NULL), 0);
    assert_int_equal(sealed->n_signatures, 0);
    assert_false(good);
    message_free(sealed);
    message_free(m);
    fake_keeper.locked = false;
    Sp__Job *again = verify(s, job->point_id);
    assert_int_equal(again->state, STATE(VALID));
    message_free(again);
    message_free(job);
}

static void what_nobody_could_answer_is_asked_again(void **state)
{
    struct scene *s = *state;
    a_luks_volume();
    fake_keeper.verdict = SP__PROOF_VERDICT__PROOF_VERDICT_UNREACHABLE;
    Sp__Job *job = back_up(s);
    assert_int_equal(job->state, STATE(UNPROVEN));
    fake_keeper.verdict = SP__PROOF_VERDICT__PROOF_VERDICT_OPENS;
    fake_keeper.away = true;
    engine_retry(s->engine);
    assert_int_equal(engine_running(s->engine), 0);
    fake_keeper.away = false;
    engine_retry(s->engine);
    Sp__Job *again = wait_end(s);
    assert_string_equal(again->kind, "verify");
    assert_string_equal(again->point_id, job->point_id);
    assert_int_equal(again->state, STATE(VALID));
    message_free(again);
    message_free(job);
    /* An answer, however bad, is not asked for again. */
    fake_keeper.verdict = SP__PROOF_VERDICT__PROOF_VERDICT_NO_RECORD;
    message_free(back_up(s));
    engine_retry(s->engine);
    assert_int_equal(engine_running(s->engine), 0);
}

static void one_job_for_each_machine(void **state)
{
    struct scene *s = *state;
    Sp__Job *job = NULL, *second = NULL;
    struct sp_why why = {0};
    assert_int_equal(engine_start_backup(s->engine, "nobody", true, &job, &why), -ENOENT);
    pthread_mutex_lock(&s->lock); /* the first cannot end while this is held */
    assert_int_equal(engine_start_backup(s->engine, "web1", true, &job, &why), 0);
    assert_int_equal(engine_start_backup(s->engine, "web1", true, &second, &why), -EBUSY);
    pthread_mutex_unlock(&s->lock);
    message_free(job);
    message_free(wait_end(s));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_whole_backup_is_valid),
        T(proofs_decide_the_state),
        T(verify_makes_it_valid_without_a_new_backup),
        T(unaccounted_bytes_are_unproven),
        T(a_policy_exception_counts_at_the_next_verify),
        T(a_plain_volume_of_the_inventory_is_proved),
        T(without_an_agent_the_grade_is_crash),
        T(a_freeze_that_did_not_last_is_taken_again_without),
        T(a_refused_freeze_is_no_end),
        T(failures_leave_nothing_behind),
        T(a_locked_keeper_leaves_an_unsigned_point),
        T(what_nobody_could_answer_is_asked_again),
        T(one_job_for_each_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
