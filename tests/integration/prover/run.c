/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The keeper's side: provers that die, hang, babble, lie or are not there, played by shell scripts;
 * and what the real one says when its work cannot be done. */
#include "rig.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/frame.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

/* A script in the folder that plays the prover. */
static const char *script(const char *text)
{
    const char *path = rig_path("prover.sh");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "#!/bin/sh\n%s\n", text);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, 0755), 0);
    return path;
}

struct outcome {
    int error;
    struct sp_why why;
    Sp__ProverResult *result;
    struct sp_secret *key;
};

static void forget(struct outcome *o)
{
    if (o->result)
        sp__prover_result__free_unpacked(o->result, NULL);
    sp_secret_free(o->key);
}

static void run_look(const char *program, unsigned time_ms, struct outcome *o)
{
    Sp__LookRequest look = SP__LOOK_REQUEST__INIT;
    Sp__ProverJob job = SP__PROVER_JOB__INIT;
    job.kind_case = SP__PROVER_JOB__KIND_LOOK;
    job.look = &look;
    struct prover_options options = {.program = program, .time_limit_ms = time_ms};
    *o = (struct outcome){0};
    o->error = prover_run(&options, &job, -1, NULL, &o->result, &o->key, &o->why);
    assert_true(o->error == 0 || (!o->result && !o->key));
}

/* The error and a part of its sentence. */
static void expect(const char *program, int error, const char *part)
{
    struct outcome o;
    run_look(program, 2000, &o);
    if (o.error != error || !strstr(o.why.text, part))
        print_error("%d: %s\n", o.error, o.why.text);
    assert_int_equal(o.error, error);
    assert_non_null(strstr(o.why.text, part));
}

static void a_missing_prover_is_named(void **state)
{
    (void)state;
    expect("/nonexistent/sealpoint-prover", -ENOENT, "/nonexistent/sealpoint-prover");
}

static void death_is_told(void **state)
{
    (void)state;
    expect(script("exit 3"), -EPROTO, "status 3");
    expect(script("exit 0"), -EPROTO, "without an answer");
    expect(script("kill -9 $$"), -EPROTO, "signal 9");
    expect(script("kill -SYS $$"), -EPROTO, "its sandbox forbids");
}

static void babble_is_refused(void **state)
{
    (void)state;
    expect(script("printf '\\377\\377\\377\\377' >&3"), -EPROTO, "breaks the rules");
    expect(script("printf '\\004\\000\\000\\000\\377\\377\\377\\377' >&3"), -EPROTO,
           "breaks the rules");
    expect(script("printf '\\144\\000\\000\\000short' >&3"), -EPROTO, "breaks the rules");
    /* an unknown field */
    expect(script("printf '\\003\\000\\000\\000\\370\\007\\001' >&3"), -EPROTO, "breaks the rules");
    /* an empty message: neither an error nor an answer */
    expect(script("printf '\\000\\000\\000\\000' >&3"), -EPROTO, "does not fit");
    /* a finding, where a look was asked for */
    expect(script("printf '\\004\\000\\000\\000\\042\\002\\010\\002' >&3"), -EPROTO,
           "does not fit");
    /* a good answer with a key beside it that nobody promised */
    expect(script("printf key >&6; printf '\\002\\000\\000\\000\\032\\000' >&3"), -EPROTO,
           "does not fit");
}

static void a_good_answer_is_taken(void **state)
{
    (void)state;
    struct outcome o;
    run_look(script("printf '\\002\\000\\000\\000\\032\\000' >&3"), 2000, &o);
    assert_int_equal(o.error, 0);
    assert_int_equal(o.result->kind_case, SP__PROVER_RESULT__KIND_LOOK);
    assert_null(o.key);
    forget(&o);
}

/* Gone means gone: the number is nobody's when prover_run() returns. */
static void assert_is_gone(const char *pid_file)
{
    char *text;
    assert_int_equal(sp_file_read(pid_file, 32, &text, NULL), 0);
    pid_t pid = (pid_t)strtol(text, NULL, 10);
    free(text);
    assert_true(pid > 1);
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
}

static void one_that_hangs_is_killed(void **state)
{
    (void)state;
    const char *pid_file = rig_path("pid");
    struct outcome o;
    SP_FREE char *text = sp_format("echo $$ > '%s'; exec /bin/sleep 600", pid_file);
    run_look(script(text), 500, &o);
    assert_int_equal(o.error, -ETIMEDOUT);
    assert_non_null(strstr(o.why.text, "killed"));
    assert_is_gone(pid_file);
}

static void one_that_drips_is_killed(void **state)
{
    (void)state;
    const char *pid_file = rig_path("pid");
    struct outcome o;
    SP_FREE char *text = sp_format("echo $$ > '%s'; printf '\\377\\000\\000\\000' >&3\n"
                                   "while :; do printf x >&3 || exit; /bin/sleep 0.05; done",
                                   pid_file);
    run_look(script(text), 500, &o);
    assert_int_equal(o.error, -ETIMEDOUT);
    assert_is_gone(pid_file);
}

/* An answer, and then it stays: it is not waited for. */
static void one_that_lingers_is_killed(void **state)
{
    (void)state;
    const char *pid_file = rig_path("pid");
    struct outcome o;
    SP_FREE char *text = sp_format(
        "echo $$ > '%s'; printf '\\002\\000\\000\\000\\032\\000' >&3; exec /bin/sleep 600",
        pid_file);
    run_look(script(text), 60000, &o);
    assert_int_equal(o.error, 0);
    assert_is_gone(pid_file);
    forget(&o);
}

static void it_inherits_nothing_else(void **state)
{
    (void)state;
    int stray = fcntl(STDERR_FILENO, F_DUPFD, 40); /* without CLOEXEC */
    assert_true(stray >= 40);
    assert_int_equal(setenv("SEALPOINT_TEST_SECRET", "in the environment", 1), 0);
    const char *seen = rig_path("seen");
    SP_FREE char *text =
        sp_format("exec > '%s'\n"
                  "for f in 3 4 5 6 7 8 9 %d; do [ -e /proc/$$/fd/$f ] && echo fd $f; done\n"
                  "cat /proc/$$/environ",
                  seen, stray);
    struct outcome o;
    run_look(script(text), 5000, &o);
    assert_int_equal(o.error, -EPROTO);
    close(stray);
    char *said;
    assert_int_equal(sp_file_read(seen, 4096, &said, NULL), 0);
    assert_string_equal(said, "fd 3\nfd 4\nfd 5\nfd 6\n");
    free(said);
}

/* ---- the real one ---- */

static int broken_read(void *self, uint32_t disk, uint64_t offset, void *out, uint32_t length)
{
    (void)self;
    (void)disk;
    (void)offset;
    (void)out;
    (void)length;
    return -EIO;
}

static void *serve_broken(void *socket)
{
    sp_pread_serve(*(int *)socket, -1, broken_read, NULL);
    return NULL;
}

/* A proof over one disk of 32 MiB. */
static int prove_over(int reader, const char *secret_text, Sp__VolumeKind kind, uint64_t length,
                      struct outcome *o)
{
    Sp__LookDisk disk = SP__LOOK_DISK__INIT, *disks[] = {&disk};
    disk.disk_id = (char[]){"disk0"};
    disk.size_bytes = 32 << 20;
    Sp__DiskExtent on = SP__DISK_EXTENT__INIT;
    on.disk_id = disk.disk_id;
    on.length_bytes = length;
    Sp__VolumeExtent extent = SP__VOLUME_EXTENT__INIT, *extents[] = {&extent};
    extent.on = &on;
    Sp__Volume volume = SP__VOLUME__INIT;
    volume.kind = kind;
    volume.extents = extents;
    volume.n_extents = 1;
    Sp__ProverProof proof = SP__PROVER_PROOF__INIT;
    proof.volume = &volume;
    proof.disks = disks;
    proof.n_disks = 1;
    proof.secret_type = SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE;
    Sp__ProverJob job = SP__PROVER_JOB__INIT;
    job.kind_case = SP__PROVER_JOB__KIND_PROOF;
    job.proof = &proof;
    SP_SECRET struct sp_secret *secret =
        secret_text ? sp_secret_copy(secret_text, strlen(secret_text)) : NULL;
    struct prover_options options = {.program = rig_prover()};
    *o = (struct outcome){0};
    return o->error = prover_run(&options, &job, reader, secret, &o->result, &o->key, &o->why);
}

#define LUKS2 SP__VOLUME_KIND__VOLUME_KIND_LUKS2

static void a_failing_read_is_an_error_not_a_verdict(void **state)
{
    (void)state;
    int pair[2];
    pthread_t thread;
    struct outcome o;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(pthread_create(&thread, NULL, serve_broken, &pair[1]), 0);
    assert_int_equal(prove_over(pair[0], "x", LUKS2, 32 << 20, &o), 0);
    assert_int_equal(o.result->kind_case, SP__PROVER_RESULT__KIND_FINDING);
    assert_int_equal(o.result->finding->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_ERROR);
    assert_non_null(strstr(o.result->finding->text, "Input/output error"));
    forget(&o);
    close(pair[0]);
    pthread_join(thread, NULL);
    close(pair[1]);
}

static void a_lost_reader_is_an_error_not_a_verdict(void **state)
{
    (void)state;
    int pair[2];
    struct outcome o;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    close(pair[1]);
    assert_int_equal(prove_over(pair[0], "x", LUKS2, 32 << 20, &o), 0);
    assert_int_equal(o.result->kind_case, SP__PROVER_RESULT__KIND_FINDING);
    assert_int_equal(o.result->finding->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_ERROR);
    forget(&o);
    close(pair[0]);
}

static void jobs_that_make_no_sense_are_errors(void **state)
{
    (void)state;
    struct outcome o;
    assert_int_equal(prove_over(-1, NULL, LUKS2, 32 << 20, &o), 0);
    assert_int_equal(o.result->error, EINVAL);
    assert_non_null(strstr(o.result->text, "secret"));
    forget(&o);
    assert_int_equal(prove_over(-1, "x", LUKS2, 33 << 20, &o), 0);
    assert_int_equal(o.result->error, EINVAL);
    forget(&o);
    assert_int_equal(prove_over(-1, "x", SP__VOLUME_KIND__VOLUME_KIND_VERACRYPT, 32 << 20, &o), 0);
    assert_int_equal(o.result->finding->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_UNCHECKABLE);
    forget(&o);
}

static void it_does_nothing_on_its_own(void **state)
{
    (void)state;
    rig_shell("'%s' 2>/dev/null; [ $? = 2 ]", rig_prover());
    rig_shell("'%s' 0 10 2>/dev/null; [ $? = 2 ]", rig_prover());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_prover_is_named),
        cmocka_unit_test(death_is_told),
        cmocka_unit_test(babble_is_refused),
        cmocka_unit_test(a_good_answer_is_taken),
        cmocka_unit_test(one_that_hangs_is_killed),
        cmocka_unit_test(one_that_drips_is_killed),
        cmocka_unit_test(one_that_lingers_is_killed),
        cmocka_unit_test(it_inherits_nothing_else),
        cmocka_unit_test(a_failing_read_is_an_error_not_a_verdict),
        cmocka_unit_test(a_lost_reader_is_an_error_not_a_verdict),
        cmocka_unit_test(jobs_that_make_no_sense_are_errors),
        cmocka_unit_test(it_does_nothing_on_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, rig_end);
}
