/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The ready-made hooks with the real servers: each runs on a loop mount of this test's own, is
 * written to all the time, frozen, and copied while it is held; the copy must start and have
 * everything that was committed before. */
#include "../agent/mounts.h"
#include "agent/linux/quiesce.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "controller/backup/grade.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

static char program[512], runtime[128], hooks[128], hooks_source[512];
static const char *const freezer_argv[] = {program, "freezer", NULL};
static const char *postgres, *mariadb; /* mount points */

/* ---- helpers ---- */

__attribute__((format(printf, 1, 0))) static int try_list(const char *format, va_list arguments)
{
    char command[4096];
    int n = vsnprintf(command, sizeof(command), format, arguments);
    assert_true(n > 0 && (size_t)n < sizeof(command));
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

__attribute__((format(printf, 1, 2))) static int try(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int r = try_list(format, arguments);
    va_end(arguments);
    return r;
}

#define RUN(...) assert_int_equal(try(__VA_ARGS__), 0)

__attribute__((format(printf, 1, 2))) static char *output(const char *format, ...)
{
    static char text[4096];
    char command[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof(command), format, arguments);
    va_end(arguments);
    FILE *in = popen(command, "re");
    assert_non_null(in);
    size_t n = fread(text, 1, sizeof(text) - 1, in);
    text[n] = 0;
    if (pclose(in) != 0)
        fail_msg("failed: %s\n%s", command, text);
    while (n && text[n - 1] == '\n')
        text[--n] = 0;
    return text;
}

/* Until the command succeeds; the outcome is asserted, never how long it took. */
__attribute__((format(printf, 1, 2))) static void until(const char *format, ...)
{
    for (int i = 0; i < 600; i++) {
        va_list arguments;
        va_start(arguments, format);
        int r = try_list(format, arguments);
        va_end(arguments);
        if (r == 0)
            return;
        struct timespec pause = {.tv_nsec = 100000000};
        nanosleep(&pause, NULL);
    }
    fail_msg("never came true: %s", format);
}

/* Puts one ready-made hook, and its settings, into the folder; nothing else is in it. */
static void install_hook(const char *name, const char *as, const char *settings)
{
    RUN("rm -rf '%s' && mkdir -m 755 '%s' && install -m 755 '%s/%s' '%s/%s'", hooks, hooks,
        hooks_source, name, hooks, as);
    SP_FREE char *path = sp_format("%s/%s.conf", hooks, as);
    assert_int_equal(sp_file_replace(path, settings, strlen(settings), 0644), 0);
    assert_int_equal(chmod(path, 0644), 0);
}

static struct agent_config config_for(const char *mount_point, const char *run_as)
{
    return (struct agent_config){.runtime = runtime,
                                 .max_lease_ms = 60000,
                                 .default_lease_ms = 30000,
                                 .most_per_hour = 3600,
                                 .exclude = (char *)(uintptr_t) "",
                                 .only = (char *)(uintptr_t)mount_point,
                                 .hooks_folder = hooks,
                                 .hooks_run_as = (char *)(uintptr_t)run_as,
                                 .hooks_timeout_ms = 20000};
}

struct frozen {
    struct agent_config config;
    struct quiesce *quiesce;
    Sp__FreezeAnswer *answer;
    const char *mount_point;
};

static void freeze(struct frozen *f, const char *mount_point, const char *run_as)
{
    f->config = config_for(mount_point, run_as);
    f->mount_point = mount_point;
    struct quiesce_options options = {
        .config = &f->config, .roots = &inventory_roots_system, .freezer_argv = freezer_argv};
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    command.run_hooks = true;
    struct sp_why why = {0};
    if (quiesce_new(&options, &f->quiesce, &why) < 0 ||
        quiesce_freeze(f->quiesce, "db", &command, &f->answer, &why) < 0)
        fail_msg("%s", why.text);
    assert_true(mounts_frozen(mount_point));
}

static bool is_ours(void *self, const Sp__FileSystem *fs)
{
    return strcmp(fs->mount_point, self) == 0;
}

/* Thaws, and gives the grade that a controller would. */
static Sp__Grade thaw(struct frozen *f)
{
    Sp__ThawAnswer *thawed = NULL;
    assert_int_equal(quiesce_thaw(f->quiesce, "db", &thawed, NULL), 0);
    assert_false(mounts_frozen(f->mount_point));
    for (size_t i = 0; i < f->answer->n_hooks; i++)
        if (f->answer->hooks[i]->exit_status)
            print_message("pre-freeze: %s\n", f->answer->hooks[i]->output);
    for (size_t i = 0; i < thawed->n_hooks; i++)
        if (thawed->hooks[i]->exit_status)
            print_message("post-thaw: %s\n", thawed->hooks[i]->output);
    /* The other file systems of this host were left out: they are on no captured disk. */
    Sp__FreezeAnswer own = *f->answer;
    Sp__FreezeResult *only[1];
    own.n_results = 0;
    own.results = only;
    for (size_t i = 0; i < f->answer->n_results; i++)
        if (strcmp(f->answer->results[i]->mount_point, f->mount_point) == 0)
            only[own.n_results++] = f->answer->results[i];
    assert_int_equal(own.n_results, 1);
    struct grade_facts facts = {.running = true,
                                .disks = 1,
                                .freeze = &own,
                                .thaw = thawed,
                                .snapshot_inside_freeze = true,
                                .inventory = f->answer->inventory,
                                .captured = is_ours,
                                .self = (void *)(uintptr_t)f->mount_point};
    struct grade_lowered lowered[8];
    size_t count;
    Sp__Grade grade = grade_of(&facts, lowered, 8, &count);
    sp__thaw_answer__free_unpacked(thawed, NULL);
    sp__freeze_answer__free_unpacked(f->answer, NULL);
    quiesce_free(f->quiesce);
    return grade;
}

/* Numbers 1, 2, 3 … into the table, one transaction each, until the file goes. */
static void writer_start(const char *client)
{
    RUN("touch %s/writing; (i=1; while [ -e %s/writing ]; do echo \"INSERT INTO t VALUES ($i);\"; "
        "i=$((i + 1)); done | %s >%s/writer.log 2>&1; touch %s/written) &",
        mounts_folder, mounts_folder, client, mounts_folder, mounts_folder);
}

static void writer_stop(void)
{
    RUN("rm %s/writing", mounts_folder);
    until("[ -e %s/written ]", mounts_folder);
    RUN("rm %s/written", mounts_folder);
}

/* How many rows; they must be 1 … n without a gap. */
static long rows(const char *client)
{
    long count = 0, most = 0;
    char *text = output("echo 'SELECT count(*), coalesce(max(i), 0) FROM t;' | %s", client);
    assert_int_equal(sscanf(text, "%ld%*[|\t ]%ld", &count, &most), 2);
    assert_int_equal(count, most);
    return count;
}

/* ---- PostgreSQL ---- */

#define AS_POSTGRES "setpriv --reuid=postgres --regid=postgres --init-groups "
#define PG          "$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)/"

static void pg_start(const char *data, int port)
{
    RUN("cd / && " AS_POSTGRES PG
        "pg_ctl -s -w -D %s -l %s/log -o \"-c listen_addresses='' -c port=%d "
        "-c unix_socket_directories=%s/socket -c shared_buffers=16MB\" start >/dev/null",
        data, data, port, mounts_folder);
}

static void postgresql_is_consistent_in_the_snapshot(void **state)
{
    (void)state;
    char client[512], copy[512], data[128], settings[256];
    snprintf(data, sizeof(data), "%s/data", postgres);
    snprintf(client, sizeof(client), "psql -X -q -A -t -h %s/socket -p 5491 -U postgres postgres",
             mounts_folder);
    snprintf(copy, sizeof(copy), "psql -X -q -A -t -h %s/socket -p 5492 -U postgres postgres",
             mounts_folder);
    RUN("install -d -o postgres -m 755 %s/socket && chown postgres %s", mounts_folder, postgres);
    RUN("cd / && " AS_POSTGRES PG "initdb -D %s -A trust -N >/dev/null", data);
    pg_start(data, 5491);
    RUN("echo 'CREATE TABLE t (i bigint);' | %s", client);
    snprintf(settings, sizeof(settings), "SERVERS=%s/socket:5491\n", mounts_folder);
    install_hook("postgresql", "50-postgresql", settings);

    writer_start(client);
    until("[ $(echo 'SELECT count(*) FROM t;' | %s) -gt 50 ]", client);
    long before = rows(client);
    char *lsn = strdup(output("echo 'SELECT pg_current_wal_insert_lsn();' | %s", client));
    struct frozen f;
    freeze(&f, postgres, "50-postgresql:postgres");
    assert_int_equal(f.answer->n_hooks, 1);
    assert_int_equal(f.answer->hooks[0]->exit_status, 0);
    RUN("cp -a %s %s/copy", data, mounts_folder);
    assert_int_equal(thaw(&f), SP__GRADE__GRADE_APPLICATION);

    /* The copy's last checkpoint is of the hook: recovery begins there. */
    char *redo = strdup(output(PG "pg_controldata %s/copy | sed -n \"s/^Latest checkpoint's REDO "
                                  "location: *//p\"",
                               mounts_folder));
    assert_string_equal(
        output("echo \"SELECT '%s'::pg_lsn >= '%s'::pg_lsn;\" | %s", redo, lsn, client), "t");
    free(redo);
    free(lsn);
    RUN("rm %s/copy/postmaster.pid", mounts_folder);
    SP_FREE char *copied = sp_format("%s/copy", mounts_folder);
    pg_start(copied, 5492);
    long in_copy = rows(copy);
    assert_true(in_copy >= before);
    RUN(AS_POSTGRES PG "pg_ctl -s -w -m fast -D %s stop", copied);

    /* The server itself goes on. */
    until("[ $(echo 'SELECT count(*) FROM t;' | %s) -gt %ld ]", client, in_copy);
    writer_stop();
    assert_true(rows(client) > in_copy);
    RUN(AS_POSTGRES PG "pg_ctl -s -w -m fast -D %s stop", data);

    /* Without a server the hook fails, and the grade says so. */
    freeze(&f, postgres, "50-postgresql:postgres");
    assert_int_not_equal(f.answer->hooks[0]->exit_status, 0);
    assert_int_equal(thaw(&f), SP__GRADE__GRADE_FILESYSTEM);
}

/* ---- MariaDB ---- */

#define MARIADB_CLIENT "mariadb --no-defaults --socket=%s/%s --batch --skip-column-names test"

static void maria_start(const char *data, const char *name)
{
    RUN("mariadbd --no-defaults --datadir=%s --socket=%s/%s --pid-file=%s/%s.pid --skip-networking "
        "--user=root --innodb-buffer-pool-size=16M >%s/%s.log 2>&1 &",
        data, mounts_folder, name, mounts_folder, name, mounts_folder, name);
    until("mariadb --no-defaults --socket=%s/%s -e 'SELECT 1' >/dev/null 2>&1", mounts_folder,
          name);
}

static void maria_stop(const char *name)
{
    RUN("kill $(cat %s/%s.pid)", mounts_folder, name);
    until("[ ! -e %s/%s.pid ]", mounts_folder, name);
}

static void mariadb_is_consistent_in_the_snapshot(void **state)
{
    (void)state;
    char client[512], copy[512], data[128], settings[256];
    snprintf(data, sizeof(data), "%s/data", mariadb);
    snprintf(client, sizeof(client), MARIADB_CLIENT, mounts_folder, "maria");
    snprintf(copy, sizeof(copy), MARIADB_CLIENT, mounts_folder, "maria2");
    RUN("mariadb-install-db --no-defaults --datadir=%s --user=root "
        "--auth-root-authentication-method=socket >/dev/null 2>&1",
        data);
    maria_start(data, "maria");
    RUN("echo 'CREATE TABLE t (i bigint) ENGINE=InnoDB; CREATE TABLE a (i int) ENGINE=Aria;' | %s",
        client);
    snprintf(settings, sizeof(settings), "OPTIONS='--no-defaults --socket=%s/maria'\n",
             mounts_folder);
    install_hook("mariadb", "50-mariadb", settings);

    writer_start(client);
    until("[ $(echo 'SELECT count(*) FROM t;' | %s) -gt 50 ]", client);
    long before = rows(client);
    struct frozen f;
    freeze(&f, mariadb, "");
    assert_int_equal(f.answer->hooks[0]->exit_status, 0);
    long held = rows(client);
    RUN("cp -a %s %s/copy2", data, mounts_folder);
    assert_int_equal(rows(client), held); /* nothing is committed meanwhile */
    assert_int_equal(thaw(&f), SP__GRADE__GRADE_APPLICATION);

    SP_FREE char *copied = sp_format("%s/copy2", mounts_folder);
    maria_start(copied, "maria2");
    assert_int_equal(rows(copy), held);
    assert_true(held >= before);
    maria_stop("maria2");
    until("[ $(echo 'SELECT count(*) FROM t;' | %s) -gt %ld ]", client, held);
    writer_stop();
}

/* The lock by itself, without any frozen file system to stop the writers. */
static void mariadb_is_locked_and_never_for_good(void **state)
{
    (void)state;
    char client[512];
    snprintf(client, sizeof(client), MARIADB_CLIENT, mounts_folder, "maria");
    struct agent_config config = config_for(mariadb, "");
    struct hooks_options options;
    struct hooks_results results = {0};
    quiesce_hooks_options(&config, runtime, &options);
    assert_int_equal(hooks_before(&options, "lock", 600, &results, NULL), 0);
    assert_int_equal(results.at[0]->exit_status, 0);
    assert_int_equal(try("echo 'INSERT INTO a VALUES (1);' | timeout 1 %s", client), 124);
    assert_int_equal(try("echo 'INSERT INTO t VALUES (0);' | timeout 1 %s", client), 124);
    hooks_results_free(&results);
    assert_int_equal(hooks_after(&options, &results, NULL), 0);
    assert_int_equal(results.at[0]->exit_status, 0);
    hooks_results_free(&results);
    RUN("echo 'INSERT INTO a VALUES (2);' | %s", client);

    /* Nobody comes back: the server lets go by itself, and a late post-thaw says that it did. */
    assert_int_equal(hooks_before(&options, "lock", 2, &results, NULL), 0);
    assert_int_equal(results.at[0]->exit_status, 0);
    hooks_results_free(&results);
    until("echo 'INSERT INTO a VALUES (3);' | timeout 1 %s", client);
    assert_int_equal(hooks_after(&options, &results, NULL), 0);
    assert_int_not_equal(results.at[0]->exit_status, 0);
    hooks_results_free(&results);
    maria_stop("maria");
}

static int begin(void **state)
{
    (void)state;
    chmod(mounts_folder, 0755);
    postgres = mounts_make("postgres", "ext4", 192, NULL);
    mariadb = mounts_make("mariadb", "xfs", 320, NULL);
    return 0;
}

int main(void)
{
    int r = mounts_begin();
    if (r != 0)
        return r;
    snprintf(program, sizeof(program), "%s/agent/sealpoint-agent", getenv("SEALPOINT_BUILD"));
    snprintf(hooks_source, sizeof(hooks_source), "%s/packaging/hooks", getenv("SEALPOINT_SOURCE"));
    snprintf(runtime, sizeof(runtime), "%s/run", mounts_folder);
    snprintf(hooks, sizeof(hooks), "%s/hooks.d", mounts_folder);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(postgresql_is_consistent_in_the_snapshot),
        cmocka_unit_test(mariadb_is_consistent_in_the_snapshot),
        cmocka_unit_test(mariadb_is_locked_and_never_for_good),
    };
    r = cmocka_run_group_tests(tests, begin, NULL);
    mounts_end();
    return r;
}
