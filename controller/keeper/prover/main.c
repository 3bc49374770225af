/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * sealpoint-prover: one job, then it ends. Started by the keeper only (run.h), or cloned from a
 * nursery that it started (nursery.h).
 *
 *   warm up ▶ sandbox, first half ▶ [clone] ▶ secret from fd 5 ▶ sandbox, second half ▶
 *   job from fd 3 ▶ look or proof over fd 4 ▶ key to fd 6, result to fd 3
 *
 * Nothing hostile is read before the sandbox stands; nothing can be opened after. It writes no
 * log: what is worth saying stands in the result. */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/frame.h"
#include "controller/keeper/prover/breed.h"
#include "controller/keeper/prover/descriptors.h"
#include "controller/keeper/prover/header.h"
#include "controller/keeper/prover/look.h"
#include "controller/keeper/prover/proof.h"
#include "controller/keeper/prover/sandbox.h"
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#ifdef PROVER_UNDER_ASAN
#include "tests/sanitizer.h"
/* The leak check traces its own process, which the sandbox ends a process for. The same code is
 * checked for leaks in the unit tests. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return SANITIZER_OPTIONS ":detect_leaks=0";
}
#endif

struct job {
    struct sp_secret *secret;
    struct sp_secret *volume_key;
    bool landlock;
};

static int read_secret(struct job *job)
{
    struct stat st;
    if (fstat(PROVER_FD_SECRET, &st) < 0)
        return -errno;
    int r = 0;
    if (S_ISREG(st.st_mode) && st.st_size > 0)
        r = st.st_size > PROVER_SECRET_MAX
                ? -EFBIG
                : sp_secret_read(PROVER_FD_SECRET, (size_t)st.st_size, &job->secret);
    close(PROVER_FD_SECRET);
    return r;
}

/* The evidence says what it was made without. */
static int note_sandbox(const struct job *job, Sp__ProverFinding *f)
{
    if (job->landlock || f->method == protobuf_c_empty_string)
        return 0;
    char *longer = sp_format("%s; without Landlock, which this kernel lacks", f->method);
    if (!longer)
        return -ENOMEM;
    free(f->method);
    f->method = longer;
    return 0;
}

static int do_job(struct job *job, const Sp__ProverJob *ask, Sp__ProverResult *result,
                  struct sp_why *why)
{
    int r;
    switch (ask->kind_case) {
    case SP__PROVER_JOB__KIND_LOOK:
        r = prover_look(ask->look, PROVER_FD_READER, &result->look, why);
        if (r == 0)
            result->kind_case = SP__PROVER_RESULT__KIND_LOOK;
        return r;
    case SP__PROVER_JOB__KIND_PROOF:
        r = prover_prove(ask->proof, PROVER_FD_READER, job->secret, &result->finding,
                         &job->volume_key, why);
        if (r < 0)
            return r;
        result->kind_case = SP__PROVER_RESULT__KIND_FINDING;
        return note_sandbox(job, result->finding);
    default:
        return sp_why_set(why, -EPROTO, "a job of a kind that this prover does not know");
    }
}

static int write_key(const struct sp_secret *key)
{
    return key ? sp_write_all(PROVER_FD_ANSWER, sp_secret_data(key), sp_secret_size(key)) : 0;
}

static int send_error(int error, const struct sp_why *why)
{
    Sp__ProverResult result = SP__PROVER_RESULT__INIT;
    result.error = -error;
    result.text = why->text[0] ? (char *)why->text : strerror(-error);
    return sp_frame_send(PROVER_FD_JOB, &result.base, NULL, 0, 0);
}

static int answer(struct job *job, const Sp__ProverJob *ask, struct sp_why *why)
{
    Sp__ProverResult *result = malloc(sizeof(*result));
    if (!result)
        return -ENOMEM;
    sp__prover_result__init(result);
    int r = do_job(job, ask, result, why);
    if (r == 0)
        r = write_key(job->volume_key);
    if (r == 0)
        r = sp_frame_send(PROVER_FD_JOB, &result->base, NULL, 0, 0);
    if (r == -EMSGSIZE)
        sp_why_set(why, r, "what was found is too much for one answer");
    sp__prover_result__free_unpacked(result, NULL);
    return r;
}

/* The heap as a short job wants it: what the warm-up freed lies sorted, so that no job's first
 * allocation goes through it and gets its own copy of each of those pages; and there is room, which
 * is not given back in between. */
static void settle_heap(void)
{
    enum { ROOM_BYTES = 256 << 10 };
    (void)mallopt(M_MMAP_THRESHOLD, ROOM_BYTES);
    (void)mallopt(M_TRIM_THRESHOLD, 16 * ROOM_BYTES);
    (void)mallopt(M_TOP_PAD, ROOM_BYTES);
    (void)malloc_trim(ROOM_BYTES);
    void *volatile large = malloc(ROOM_BYTES / 2);
    free(large);
}

/* What every job needs and none changes. */
static int prepare(struct sandbox *ret, struct sp_why *why)
{
    signal(SIGPIPE, SIG_IGN);
    int r = sp_secret_process_setup();
    if (r < 0)
        return sp_why_set(why, r, "memory for secrets could not be set up");
    r = header_warm_up();
    if (r < 0)
        return sp_why_set(why, r, "the libraries could not be set up");
    r = sandbox_enter_maker(ret, why);
    settle_heap();
    return r;
}

static int start(struct job *job, const struct sandbox *s, const struct sandbox_limits *limits,
                 struct sp_why *why)
{
    job->landlock = s->landlock;
    int r = read_secret(job);
    if (r < 0)
        return sp_why_set(why, r, "the secret could not be read");
    return sandbox_enter_job(s, limits, why);
}

static int do_work(const struct sandbox *s, const struct sandbox_limits *limits, struct sp_why *why)
{
    struct job job = {0};
    ProtobufCMessage *ask = NULL;
    int r = start(&job, s, limits, why);
    if (r == 0) {
        r = sp_frame_receive(PROVER_FD_JOB, &sp__prover_job__descriptor, NULL, &ask, NULL, 0, NULL,
                             0);
        if (r < 0)
            sp_why_set(why, r, "no job came");
    }
    if (r == 0)
        r = answer(&job, (const Sp__ProverJob *)ask, why);
    if (ask)
        protobuf_c_message_free_unpacked(ask, NULL);
    sp_secret_free(job.secret);
    sp_secret_free(job.volume_key);
    return r;
}

static int end(int error, const struct sp_why *why)
{
    if (error < 0 && error != -EPIPE)
        send_error(error, why);
    return error < 0 ? 1 : 0;
}

/* The exit status. */
static int work(const struct sandbox *s, const struct sandbox_limits *limits)
{
    struct sp_why why = {0};
    return end(do_work(s, limits, &why), &why);
}

static int run_nursery(void)
{
    struct sandbox sandbox = {.filter = NULL};
    struct sp_why why = {0};
    int r = prepare(&sandbox, &why);
    if (r == 0)
        r = prover_breed(&sandbox, work);
    sandbox_free(&sandbox);
    return r < 0 ? 1 : 0;
}

static int run_once(const struct sandbox_limits *limits)
{
    struct sandbox sandbox = {.filter = NULL};
    struct sp_why why = {0};
    int r = prepare(&sandbox, &why);
    r = r < 0 ? end(r, &why) : work(&sandbox, limits);
    sandbox_free(&sandbox);
    return r;
}

static bool number(const char *text, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    *ret = n;
    return !errno && text[0] >= '0' && text[0] <= '9' && !*end && n;
}

static bool has_descriptors(void)
{
    for (int fd = PROVER_FD_JOB; fd < PROVER_FD_JOB + PROVER_FD_COUNT; fd++) {
        if (fcntl(fd, F_GETFD) < 0)
            return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    struct sandbox_limits limits;
    if (argc == 2 && strcmp(argv[1], "nursery") == 0 && has_descriptors())
        return run_nursery();
    if (argc != 3 || !number(argv[1], &limits.memory_bytes) ||
        !number(argv[2], &limits.cpu_seconds) || !has_descriptors()) {
        fputs("sealpoint-prover is started by sealpoint-keeper, which hands it its work; "
              "it does nothing on its own\n",
              stderr);
        return 2;
    }
    return run_once(&limits);
}
