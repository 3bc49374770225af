/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The state machine of a backup, step by step, with a real vault and mover. Every end leaves
 * nothing behind: no open handle, no snapshot at the source, nothing frozen, no pins of failed
 * points. */
#include "base/clock.h"
#include "base/file.h"
#include "base/identity.h"
#include "controller/backup/finding.h"
#include "fakes.h"
#include <pthread.h>
#include <string.h>
#include <sys/wait.h>

#define STATE(name)  SP__POINT_STATE__POINT_STATE_##name
#define GRADE(name)  SP__GRADE__GRADE_##name
#define REASON(name) SP__REASON__REASON_##name

struct scene {
    char *folder, *path, *vault_path;
    struct catalog *catalog;
    struct engine *engine;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    Sp__Job *last; /* the last job that ended */
};

static struct scene *here; /* for the fakes' hooks */

static void on_job(void *self, const Sp__Job *job)
{
    struct scene *s = self;
    if (!job->ended)
        return;
    pthread_mutex_lock(&s->lock);
    message_free(s->last);
    s->last = message_copy(job);
    pthread_cond_broadcast(&s->ended);
    pthread_mutex_unlock(&s->lock);
}

static const struct engine_events events = {on_job, NULL};

static void start_engine(struct scene *s)
{
    struct engine_options o = {.catalog = s->catalog,
                               .keeper = &fake_keeper_calls,
                               .agents = &fake_agent_calls,
                               .events = &events,
                               .events_self = s,
                               .source_for = fake_source_for,
                               .parallel = 1,
                               .agent_wait_ms = 1,
                               .keeper_wait_ms = 1};
    assert_int_equal(engine_new(&o, &s->engine), 0);
}

static void open_catalog(struct scene *s)
{
    assert_int_equal(catalog_open(s->path, &s->catalog, NULL), 0);
}

static int set_up(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    fakes_reset();
    s->folder = make_folder();
    s->path = sp_format("%s/catalog.db", s->folder);
    s->vault_path = sp_format("%s/vault", s->folder);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->ended, NULL);
    open_catalog(s);
    start_engine(s);

    Sp__DirectoryVault directory = SP__DIRECTORY_VAULT__INIT;
    Sp__VaultConfig config = SP__VAULT_CONFIG__INIT;
    Sp__Vault *vault = NULL;
    struct sp_why why = {0};
    directory.path = s->vault_path;
    config.kind_case = SP__VAULT_CONFIG__KIND_DIRECTORY;
    config.directory = &directory;
    if (engine_add_vault(s->engine, "main", &config, &vault, &why) < 0)
        fail_msg("%s", why.text);
    message_free(vault);

    Sp__Machine m = SP__MACHINE__INIT;
    Sp__QemuSource qemu = SP__QEMU_SOURCE__INIT;
    Sp__SourceConfig source = SP__SOURCE_CONFIG__INIT;
    source.kind_case = SP__SOURCE_CONFIG__KIND_QEMU;
    source.qemu = &qemu;
    m.machine_id = (char *)(uintptr_t) "aaaaaaaa-1111-4111-8111-111111111111";
    m.name = (char *)(uintptr_t) "web1";
    m.source = &source;
    assert_int_equal(catalog_machine_add(s->catalog, &m), 0);
    for (unsigned d = 0; d < 2; d++) {
        for (unsigned i = 0; i < 200000; i++)
            fake_source.bytes[d][i] = (uint8_t)(i * 7 + d);
    }
    here = s;
    *state = s;
    return 0;
}

static int tear_down(void **state)
{
    struct scene *s = *state;
    engine_free(s->engine);
    catalog_close(s->catalog);
    message_free(s->last);
    pthread_cond_destroy(&s->ended);
    pthread_mutex_destroy(&s->lock);
    remove_folder(s->folder);
    free(s->path);
    free(s->vault_path);
    free(s);
    fakes_reset();
    return 0;
}

static Sp__Job *wait_end(struct scene *s)
{
    pthread_mutex_lock(&s->lock);
    while (!s->last)
        pthread_cond_wait(&s->ended, &s->lock);
    Sp__Job *job = s->last;
    s->last = NULL;
    pthread_mutex_unlock(&s->lock);
    return job;
}

static Sp__Job *back_up(struct scene *s)
{
    Sp__Job *job = NULL;
    struct sp_why why = {0};
    if (engine_start_backup(s->engine, "web1", true, &job, &why) < 0)
        fail_msg("%s", why.text);
    message_free(job);
    return wait_end(s);
}

static Sp__Job *verify(struct scene *s, const char *point)
{
    Sp__Job *job = NULL;
    struct sp_why why = {0};
    if (engine_start_verify(s->engine, point, &job, &why) < 0)
        fail_msg("%s", why.text);
    message_free(job);
    return wait_end(s);
}

static bool has(const Sp__Job *job, Sp__Reason reason)
{
    return finding_has((const Sp__Finding *const *)job->findings, job->n_findings, reason, NULL);
}

/* Nothing stays behind, whatever happened. */
static void nothing_left(void)
{
    assert_int_equal(fake_source.open, 0);
    assert_int_equal(fake_source.held, 0);
    assert_false(fake_agent.frozen);
}

static struct catalog_point *point_of(struct scene *s, const Sp__Job *job)
{
    struct catalog_point *cp = NULL;
    assert_int_equal(catalog_point_get(s->catalog, job->point_id, &cp), 0);
    return cp;
}

static void a_luks_volume(void)
{
    fake_keeper.volume = a_volume(SP__VOLUME_KIND__VOLUME_KIND_LUKS2, "luks:a", "disk0", 0, 65536);
    with_header(fake_keeper.volume, "a", 1);
}

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

static int check_progress(void *arg, const Sp__CheckProgress *p)
{
    *(unsigned *)arg += (unsigned)p->n_problems;
    for (size_t i = 0; i < p->n_problems; i++)
        print_message("problem: %s\n", p->problems[i]->what);
    return 0;
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

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

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
        T(cancel_works_at_each_step),
        T(kills_at_each_state_are_recovered),
        T(a_snapshot_that_cannot_be_released_is_tried_again),
        T(a_check_does_not_hold_the_catalog),
        T(a_lost_catalog_is_built_again_from_the_vault),
        T(retention_deletes_and_a_fortnight_later_it_is_gone),
        T(an_immutable_vault_keeps_its_points),
        T(a_vault_is_copied_and_scrubbed),
        T(one_job_for_each_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
