/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The catalog: what a call promised is there after a kill, and the audit's chain shows a change. */
#include "controller/catalog/catalog.h"
#include "base/file.h"
#include "build.h"
#include <signal.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/wait.h>

struct place {
    char *folder, *path;
};

static int set_up(void **state)
{
    struct place *p = calloc(1, sizeof(*p));
    p->folder = make_folder();
    p->path = sp_format("%s/catalog.db", p->folder);
    *state = p;
    return 0;
}

static int tear_down(void **state)
{
    struct place *p = *state;
    remove_folder(p->folder);
    free(p->path);
    free(p);
    return 0;
}

static struct catalog *reopen(const struct place *p)
{
    struct catalog *c = NULL;
    struct sp_why why = {0};
    if (catalog_open(p->path, &c, &why) < 0)
        fail_msg("%s", why.text);
    return c;
}

static void add_machine(struct catalog *c, const char *id, const char *name)
{
    Sp__Machine m = SP__MACHINE__INIT;
    m.machine_id = (char *)(uintptr_t)id;
    m.name = (char *)(uintptr_t)name;
    assert_int_equal(catalog_machine_add(c, &m), 0);
}

static struct catalog_point *add_point(struct catalog *c, const char *id, const char *machine)
{
    struct catalog_point *cp = catalog_point_new();
    assert_non_null(cp);
    assert_int_equal(message_set(&cp->point->point_id, id), 0);
    assert_int_equal(message_set(&cp->point->machine_id, machine), 0);
    cp->point->state = SP__POINT_STATE__POINT_STATE_REQUESTED;
    assert_int_equal(catalog_point_add(c, cp), 0);
    return cp;
}

static int rename_it(Sp__Machine *m, void *arg)
{
    return message_set(&m->name, arg);
}

static int refuse(Sp__Machine *m, void *arg)
{
    (void)arg;
    (void)message_set(&m->name, "never");
    return -EPERM;
}

static void machines_are_found_by_id_and_name(void **state)
{
    struct catalog *c = reopen(*state);
    Sp__Machine *m = NULL;
    add_machine(c, "id-1", "web");
    add_machine(c, "id-2", "db");
    Sp__Machine same = SP__MACHINE__INIT;
    same.machine_id = (char *)"id-3";
    same.name = (char *)"web";
    assert_int_equal(catalog_machine_add(c, &same), -EEXIST);
    assert_int_equal(catalog_machine_get(c, "db", false, &m), 0);
    assert_string_equal(m->machine_id, "id-2");
    message_free(m);
    assert_int_equal(catalog_machine_get(c, "nobody", false, &m), -ENOENT);
    assert_int_equal(catalog_machine_change(c, "id-1", rename_it, (void *)(uintptr_t) "web2", &m),
                     0);
    message_free(m);
    assert_int_equal(catalog_machine_change(c, "id-1", refuse, NULL, NULL), -EPERM);
    assert_int_equal(catalog_machine_get(c, "web2", false, &m), 0);
    message_free(m);
    catalog_close(c);
}

static void marks_and_inventories_have_their_own_places(void **state)
{
    struct catalog *c = reopen(*state);
    char mark[80] = "x";
    Sp__Machine *m = NULL;
    Sp__Inventory i = SP__INVENTORY__INIT;
    i.sequence = 7;
    add_machine(c, "id-1", "web");
    assert_int_equal(catalog_machine_mark(c, "id-1", mark, sizeof(mark)), 0);
    assert_string_equal(mark, "");
    assert_int_equal(catalog_machine_set_mark(c, "id-1", "abc"), 0);
    assert_int_equal(catalog_machine_set_inventory(c, "id-1", &i), 0);
    assert_int_equal(catalog_machine_set_inventory(c, "id-9", &i), -ENOENT);
    assert_int_equal(catalog_machine_change(c, "id-1", rename_it, (void *)(uintptr_t) "w", NULL),
                     0);
    assert_int_equal(catalog_machine_get(c, "w", true, &m), 0);
    assert_int_equal(m->inventory->sequence, 7);
    message_free(m);
    assert_int_equal(catalog_machine_get(c, "w", false, &m), 0);
    assert_null(m->inventory);
    message_free(m);
    assert_int_equal(catalog_machine_mark(c, "id-1", mark, sizeof(mark)), 0);
    assert_string_equal(mark, "abc");
    catalog_close(c);
}

static void a_point_comes_back_whole(void **state)
{
    struct catalog *c = reopen(*state);
    struct catalog_point *cp = add_point(c, "11111111-1111-4111-8111-111111111111", "m");
    cp->point->state = SP__POINT_STATE__POINT_STATE_TRANSFERRING;
    cp->pinned = cp->transferred = true;
    cp->draft->sequence = 5;
    strcpy(cp->freeze_operation, "op");
    ADD(cp->point, findings, a_finding(SP__REASON__REASON_AGENT_ABSENT, "", "", 0));
    assert_int_equal(catalog_point_save(c, cp, true, "copying"), 0);
    assert_int_equal(catalog_point_journal(c, cp->point->point_id, "line 1"), 0);
    catalog_point_free(cp);
    catalog_close(c);

    c = reopen(*state);
    assert_int_equal(catalog_point_get(c, "11111111-1111-4111-8111-111111111111", &cp), 0);
    assert_int_equal(cp->point->state, SP__POINT_STATE__POINT_STATE_TRANSFERRING);
    assert_int_equal(cp->point->n_findings, 1);
    assert_int_equal(cp->draft->sequence, 5);
    assert_string_equal(cp->journal, "line 1");
    assert_string_equal(cp->freeze_operation, "op");
    assert_true(cp->snapshot_held); /* the journal says that something was begun */
    assert_true(cp->pinned && cp->transferred && !cp->stored);
    catalog_point_free(cp);
    catalog_close(c);
}

static int count_id(void *arg, const char *id)
{
    (void)id;
    ++*(unsigned *)arg;
    return 0;
}

static void unfinished_points_are_found(void **state)
{
    struct catalog *c = reopen(*state);
    struct catalog_point *a = add_point(c, "11111111-1111-4111-8111-111111111111", "m");
    struct catalog_point *b = add_point(c, "22222222-2222-4222-8222-222222222222", "m");
    unsigned count = 0;
    assert_int_equal(catalog_point_unfinished(c, count_id, &count), 0);
    assert_int_equal(count, 2);
    a->point->state = SP__POINT_STATE__POINT_STATE_VALID;
    assert_int_equal(catalog_point_save(c, a, false, "sealed"), 0);
    b->point->state = SP__POINT_STATE__POINT_STATE_FAILED;
    b->snapshot_held = true;
    assert_int_equal(catalog_point_save(c, b, false, "failed"), 0);
    count = 0;
    assert_int_equal(catalog_point_unfinished(c, count_id, &count), 0);
    assert_int_equal(count, 1);
    b->snapshot_held = false;
    assert_int_equal(catalog_point_save(c, b, false, NULL), 0);
    count = 0;
    assert_int_equal(catalog_point_unfinished(c, count_id, &count), 0);
    assert_int_equal(count, 0);
    catalog_point_free(a);
    catalog_point_free(b);
    catalog_close(c);
}

static void points_are_found_by_a_unique_beginning(void **state)
{
    struct catalog *c = reopen(*state);
    char id[37];
    catalog_point_free(add_point(c, "abcdef12-1111-4111-8111-111111111111", "m"));
    catalog_point_free(add_point(c, "abcdef12-2222-4222-8222-222222222222", "m"));
    assert_int_equal(catalog_point_find(c, "abcdef12", id), -ENOTUNIQ);
    assert_int_equal(catalog_point_find(c, "abcdef12-2", id), 0);
    assert_string_equal(id, "abcdef12-2222-4222-8222-222222222222");
    assert_int_equal(catalog_point_find(c, "abcdef1", id), -ENOENT);
    assert_int_equal(catalog_point_find(c, "%%%%%%%%", id), -ENOENT);
    assert_int_equal(catalog_point_find(c, "' OR 1=1 --", id), -ENOENT);
    catalog_close(c);
}

static void the_chain_follows_stored_points_only(void **state)
{
    struct catalog *c = reopen(*state);
    uint64_t sequence = 0;
    uint8_t previous[32], zero[32] = {0};
    bool has = true;
    assert_int_equal(catalog_point_chain(c, "m", &sequence, previous, &has), 0);
    assert_int_equal(sequence, 1);
    assert_false(has);
    assert_memory_equal(previous, zero, 32);
    struct catalog_point *cp = add_point(c, "11111111-1111-4111-8111-111111111111", "m");
    cp->point->sequence = 1;
    cp->stored = true;
    memset(cp->manifest_sha256, 9, 32);
    assert_int_equal(catalog_point_save(c, cp, false, NULL), 0);
    catalog_point_free(cp);
    catalog_point_free(add_point(c, "22222222-2222-4222-8222-222222222222", "m"));
    assert_int_equal(catalog_point_chain(c, "m", &sequence, previous, &has), 0);
    assert_int_equal(sequence, 2);
    assert_true(has);
    assert_int_equal(previous[31], 9);
    catalog_close(c);
}

/* ---- kills ---- */

/* The child writes points and says each over the pipe only once the call has returned. */
static void write_until_killed(const char *path, int out)
{
    struct catalog *c = NULL;
    if (catalog_open(path, &c, NULL) < 0)
        _exit(1);
    for (uint32_t i = 0;; i++) {
        char id[37];
        struct catalog_point *cp = catalog_point_new();
        snprintf(id, sizeof(id), "%08x-1111-4111-8111-111111111111", i);
        message_set(&cp->point->point_id, id);
        message_set(&cp->point->machine_id, "m");
        cp->point->state = SP__POINT_STATE__POINT_STATE_REQUESTED;
        if (catalog_point_add(c, cp) < 0 || catalog_audit(c, "", "test", id, "") < 0)
            _exit(1);
        catalog_point_free(cp);
        if (write(out, &i, sizeof(i)) != sizeof(i))
            _exit(1);
    }
}

static int broken_entries(void *arg, Sp__AuditEntry *e)
{
    *(unsigned *)arg += e->broken ? 1 : 0;
    return 0;
}

static void what_was_promised_survives_a_kill(void **state)
{
    struct place *p = *state;
    unsigned total = 0;
    for (int round = 0; round < 5; round++) {
        int pipe_fds[2];
        uint32_t last = 0, i;
        unsigned said = 0, broken = 0;
        char id[37];
        remove(p->path);
        assert_int_equal(pipe(pipe_fds), 0);
        pid_t child = fork();
        if (child == 0)
            write_until_killed(p->path, pipe_fds[1]);
        close(pipe_fds[1]);
        while (said < 3u + (unsigned)round &&
               read(pipe_fds[0], &i, sizeof(i)) == (ssize_t)sizeof(i)) {
            last = i;
            said++;
        }
        kill(child, SIGKILL);
        while (read(pipe_fds[0], &i, sizeof(i)) == (ssize_t)sizeof(i))
            last = i;
        close(pipe_fds[0]);
        assert_int_equal(waitpid(child, NULL, 0), child);
        struct catalog *c = reopen(p);
        for (i = 0; i <= last; i++) {
            struct catalog_point *cp = NULL;
            snprintf(id, sizeof(id), "%08x-1111-4111-8111-111111111111", i);
            assert_int_equal(catalog_point_get(c, id, &cp), 0);
            catalog_point_free(cp);
            total++;
        }
        assert_int_equal(catalog_audit_each(c, 0, true, broken_entries, &broken), 0);
        assert_int_equal(broken, 0);
        catalog_close(c);
        char *wal SP_FREE = sp_format("%s-wal", p->path);
        char *shm SP_FREE = sp_format("%s-shm", p->path);
        remove(wal);
        remove(shm);
    }
    assert_true(total >= 5);
}

static void a_newer_schema_is_refused(void **state)
{
    struct place *p = *state;
    struct sp_why why = {0};
    catalog_close(reopen(p));
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(p->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    struct catalog *c = NULL;
    assert_int_equal(catalog_open(p->path, &c, &why), -EPROTO);
    assert_non_null(strstr(why.text, "newer"));
}

static void damage_is_said(void **state)
{
    struct place *p = *state;
    struct catalog *c = NULL;
    struct sp_why why = {0};
    assert_int_equal(
        sp_file_replace(p->path, "this is no database at all, not even a bit", 42, 0600), 0);
    assert_int_equal(catalog_open(p->path, &c, &why), -EUCLEAN);
    assert_true(*why.text);
}

/* ---- audit ---- */

static void the_chain_shows_a_change(void **state)
{
    struct place *p = *state;
    struct catalog *c = reopen(p);
    uint8_t head[32], zero[32] = {0};
    unsigned broken = 0;
    assert_int_equal(catalog_audit_head(c, head), 0);
    assert_memory_equal(head, zero, 32);
    for (int i = 0; i < 5; i++)
        assert_int_equal(catalog_audit(c, "spiffe://d/user/anna", "key.release", "p", "text"), 0);
    assert_int_equal(catalog_audit_head(c, head), 0);
    assert_memory_not_equal(head, zero, 32);
    assert_int_equal(catalog_audit_each(c, 0, true, broken_entries, &broken), 0);
    assert_int_equal(broken, 0);
    catalog_close(c);

    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(p->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "DELETE FROM audit WHERE number = 3", NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(db);
    c = reopen(p);
    assert_int_equal(catalog_audit_each(c, 0, true, broken_entries, &broken), 0);
    assert_int_equal(broken, 1);
    catalog_close(c);
}

static void numbers_count_up_over_restarts(void **state)
{
    uint64_t n = 0;
    for (uint64_t i = 1; i < 4; i++) {
        struct catalog *c = reopen(*state);
        assert_int_equal(catalog_count_up(c, "starts", &n), 0);
        assert_int_equal(n, i);
        catalog_close(c);
    }
}

static int take_job(void *arg, Sp__Job *job)
{
    (void)job;
    ++*(unsigned *)arg;
    return 0;
}

static void jobs_and_vaults_are_kept(void **state)
{
    struct catalog *c = reopen(*state);
    Sp__Job job = SP__JOB__INIT, *back = NULL;
    Sp__Vault vault = SP__VAULT__INIT, *v = NULL;
    unsigned unended = 0;
    job.job_id = (char *)"j";
    assert_int_equal(catalog_job_save(c, &job), 0);
    assert_int_equal(catalog_job_unended(c, take_job, &unended), 0);
    assert_int_equal(unended, 1);
    job.ended = 1;
    assert_int_equal(catalog_job_save(c, &job), 0);
    assert_int_equal(catalog_job_get(c, "j", &back), 0);
    assert_true(back->ended);
    message_free(back);
    assert_int_equal(catalog_vault_get(c, "", &v), -ENOENT);
    vault.vault_id = (char *)"v1";
    vault.name = (char *)"main";
    assert_int_equal(catalog_vault_add(c, &vault), 0);
    assert_int_equal(catalog_vault_get(c, NULL, &v), 0);
    message_free(v);
    vault.vault_id = (char *)"v2";
    assert_int_equal(catalog_vault_add(c, &vault), -EEXIST);
    vault.name = (char *)"other";
    assert_int_equal(catalog_vault_add(c, &vault), 0);
    assert_int_equal(catalog_vault_get(c, "", &v), -ENOTUNIQ);
    assert_int_equal(catalog_vault_get(c, "other", &v), 0);
    assert_string_equal(v->vault_id, "v2");
    message_free(v);
    catalog_close(c);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(machines_are_found_by_id_and_name),
        T(marks_and_inventories_have_their_own_places),
        T(a_point_comes_back_whole),
        T(unfinished_points_are_found),
        T(points_are_found_by_a_unique_beginning),
        T(the_chain_follows_stored_points_only),
        T(what_was_promised_survives_a_kill),
        T(a_newer_schema_is_refused),
        T(damage_is_said),
        T(the_chain_shows_a_change),
        T(numbers_count_up_over_restarts),
        T(jobs_and_vaults_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
