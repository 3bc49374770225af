/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/prover/run.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/frame.h"
#include "controller/keeper/prover/answer.h"
#include "controller/keeper/prover/descriptors.h"
#include "controller/keeper/prover/nursery.h"
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { DEFAULT_TIME_MS = 120 * 1000, ENDING_MS = 2000 };
#define DEFAULT_MEMORY (UINT64_C(2) << 30)

struct run {
    const char *program;
    struct prover_nursery *nursery;
    uint64_t deadline_ms; /* monotonic */
    uint64_t memory_bytes, cpu_seconds;
    int job, answer, pidfd;
    pid_t pid;
};

static int left_ms(const struct run *run)
{
    uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
    return now >= run->deadline_ms                      ? 1
           : run->deadline_ms - now > (uint64_t)INT_MAX ? INT_MAX
                                                        : (int)(run->deadline_ms - now);
}

/* ---- starting ---- */

/* Copies above the numbers that the child gets, so that no dup2() there overwrites another. */
static int lift(int fd, int *ret)
{
    *ret = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 16) : open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd < 0 && *ret >= 0 && *ret < 16) {
        int low = *ret;
        *ret = fcntl(low, F_DUPFD_CLOEXEC, 16);
        close(low);
    }
    return *ret < 0 ? -errno : 0;
}

static int set_actions(posix_spawn_file_actions_t *actions, const int fds[PROVER_FD_COUNT])
{
    int e = 0;
    for (int fd = 0; !e && fd < PROVER_FD_JOB; fd++) {
#ifdef PROVER_UNDER_ASAN
        if (fd == STDERR_FILENO)
            break; /* where the sanitizers say what they found */
#endif
        e = posix_spawn_file_actions_addopen(actions, fd, "/dev/null", O_RDWR, 0);
    }
    for (int i = 0; !e && i < PROVER_FD_COUNT; i++)
        e = posix_spawn_file_actions_adddup2(actions, fds[i], PROVER_FD_JOB + i);
    if (!e)
        e = posix_spawn_file_actions_addclosefrom_np(actions, PROVER_FD_JOB + PROVER_FD_COUNT);
    return -e;
}

/* Own session, no blocked or ignored signals. */
static int set_attributes(posix_spawnattr_t *attributes)
{
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int e = posix_spawnattr_setsigmask(attributes, &none);
    if (!e)
        e = posix_spawnattr_setsigdefault(attributes, &all);
    if (!e)
        e = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                     POSIX_SPAWN_SETSID);
    return -e;
}

static int spawn_with(struct run *run, const posix_spawn_file_actions_t *actions,
                      const posix_spawnattr_t *attributes, struct sp_why *why)
{
    char memory[24], cpu[24];
    snprintf(memory, sizeof(memory), "%llu", (unsigned long long)run->memory_bytes);
    snprintf(cpu, sizeof(cpu), "%llu", (unsigned long long)run->cpu_seconds);
    char *argv[] = {(char *)"sealpoint-prover", memory, cpu, NULL};
    char *environment[] = {NULL};
    int e = posix_spawn(&run->pid, run->program, actions, attributes, argv, environment);
    if (e)
        return sp_why_set(why, e == ENOENT || e == EACCES ? -ENOENT : -e,
                          "the prover %s cannot be started: %s", run->program, strerror(e));
    run->pidfd = pidfd_open(run->pid, 0);
    if (run->pidfd < 0) {
        int saved = errno;
        kill(run->pid, SIGKILL); /* not reaped yet: the number is still its own */
        waitpid(run->pid, NULL, 0);
        return -saved;
    }
    return 0;
}

static int spawn(struct run *run, const int fds[PROVER_FD_COUNT], struct sp_why *why)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int e = posix_spawn_file_actions_init(&actions);
    if (e)
        return -e;
    e = posix_spawnattr_init(&attributes);
    if (e) {
        posix_spawn_file_actions_destroy(&actions);
        return -e;
    }
    int r = set_actions(&actions, fds);
    if (r == 0)
        r = set_attributes(&attributes);
    if (r == 0)
        r = spawn_with(run, &actions, &attributes, why);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return r;
}

/* From the nursery when there is one; it may just be renewed. */
static int make(struct run *run, const int fds[PROVER_FD_COUNT], struct sp_why *why)
{
    struct nursery_ask ask = {.memory_bytes = run->memory_bytes, .cpu_seconds = run->cpu_seconds};
    int r = run->nursery ? prover_nursery_make(run->nursery, &ask, fds, left_ms(run), &run->pidfd)
                         : -EAGAIN;
    return r == -EAGAIN ? spawn(run, fds, why) : r;
}

static int start(struct run *run, int reader_socket, const struct sp_secret *secret,
                 struct sp_why *why)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    run->job = pair[0];
    SP_FD int theirs = pair[1];
    SP_FD int secret_fd =
        secret && sp_secret_size(secret) ? sp_secret_memfd(secret, "sealpoint-secret") : -1;
    if (secret && sp_secret_size(secret) && secret_fd < 0)
        return secret_fd;
    run->answer = memfd_create("sealpoint-answer", MFD_CLOEXEC);
    if (run->answer < 0)
        return -errno;
    const int wanted[PROVER_FD_COUNT] = {theirs, reader_socket, secret_fd, run->answer};
    int lifted[PROVER_FD_COUNT], count = 0, r = 0;
    while (r == 0 && count < PROVER_FD_COUNT)
        r = lift(wanted[count], &lifted[count]), count += r == 0;
    if (r == 0)
        r = make(run, lifted, why);
    while (count > 0)
        close(lifted[--count]);
    return r;
}

/* ---- ending ---- */

/* "signal 31 (Bad system call)" */
static int ended_with(const siginfo_t *info, struct sp_why *why)
{
    if (info->si_code == CLD_EXITED && info->si_status == 0)
        return 0;
    if (info->si_code == CLD_EXITED)
        return sp_why_set(why, -EPROTO, "the prover ended with status %d", info->si_status);
    return sp_why_set(why, -EPROTO, "the prover was ended by signal %d (%s)%s", info->si_status,
                      strsignal(info->si_status),
                      info->si_status == SIGSYS ? ": it tried what its sandbox forbids" : "");
}

/* Waits until it is gone; one that stays longer is killed. 0: it ended well by itself. */
static int reap(struct run *run, int timeout_ms, struct sp_why *why)
{
    struct pollfd p = {.fd = run->pidfd, .events = POLLIN};
    uint64_t until = sp_clock_monotonic_ms(&sp_clock_system) + (uint64_t)timeout_ms;
    bool killed = false;
    int n;
    do {
        uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
        n = poll(&p, 1, now < until ? (int)(until - now) : 0);
    } while (n < 0 && errno == EINTR);
    if (n <= 0) {
        killed = true;
        pidfd_send_signal(run->pidfd, SIGKILL, NULL, 0);
    }
    siginfo_t info = {0};
    while (waitid(P_PIDFD, (id_t)run->pidfd, &info, WEXITED) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    if (run->nursery && info.si_code != CLD_EXITED && !killed)
        prover_nursery_renew(run->nursery);
    return killed ? sp_why_set(why, -ETIMEDOUT, "the prover did not end and was killed")
                  : ended_with(&info, why);
}

static void stop(struct run *run)
{
    if (run->job >= 0)
        close(run->job);
    if (run->answer >= 0)
        close(run->answer);
    if (run->pidfd >= 0)
        close(run->pidfd);
}

/* ---- the answer ---- */

static int take_key(const struct run *run, const Sp__ProverResult *result, struct sp_secret **ret)
{
    struct stat st;
    bool promised =
        result->kind_case == SP__PROVER_RESULT__KIND_FINDING && result->finding->has_volume_key;
    if (fstat(run->answer, &st) < 0)
        return -errno;
    if (promised != (st.st_size > 0) || st.st_size > PROVER_KEY_MAX)
        return -EPROTO;
    if (!promised)
        return 0;
    if (lseek(run->answer, 0, SEEK_SET) < 0)
        return -errno;
    return sp_secret_read(run->answer, (size_t)st.st_size, ret);
}

/* ---- all of it ---- */

static int converse(struct run *run, const Sp__ProverJob *job, Sp__ProverResult **ret,
                    struct sp_why *why)
{
    ProtobufCMessage *m = NULL;
    int r = sp_frame_send(run->job, &job->base, NULL, 0, left_ms(run));
    /* A prover that ends early has mostly said why. */
    if (r == 0 || r == -EPIPE)
        r = sp_frame_receive(run->job, &sp__prover_result__descriptor, NULL, &m, NULL, 0, NULL,
                             left_ms(run));
    if (r == -ETIMEDOUT)
        return sp_why_set(why, r, "the prover did not answer in time and was killed");
    if (r < 0)
        return sp_why_set(why, r == -EMSGSIZE || r == -ENOMEM ? r : -EPROTO,
                          r == -EMSGSIZE ? "the job is too large to be sent"
                          : r == -EPIPE  ? "the prover ended without an answer"
                                         : "the prover's answer breaks the rules");
    *ret = (Sp__ProverResult *)m;
    return 0;
}

/* Its end tells more than the silence on the socket: both sentences, in that order. */
static int explain_end(int error, int ended, const struct sp_why *end, struct sp_why *why)
{
    if (error == -EPROTO && ended < 0 && ended != -ETIMEDOUT && end->text[0] && why)
        return sp_why_prefix(why, error, "%s", end->text);
    return error;
}

static int run_started(struct run *run, const Sp__ProverJob *job, Sp__ProverResult **ret,
                       struct sp_secret **ret_key, struct sp_why *why)
{
    Sp__ProverResult *result = NULL;
    struct sp_why end = {0};
    int r = converse(run, job, &result, why);
    int ended = reap(run, r == -ETIMEDOUT ? 0 : ENDING_MS, &end);
    if (r < 0 || !result)
        return explain_end(r, ended, &end, why);
    SP_SECRET struct sp_secret *key = NULL;
    r = prover_answer_fits(job, result) ? take_key(run, result, &key) : -EPROTO;
    if (r == -EPROTO)
        sp_why_set(why, r, "the prover's answer does not fit its job");
    /* The key is written before the result is sent: one that only lingered has said everything. */
    if (r == 0 && !result->error && ended < 0 && ended != -ETIMEDOUT)
        r = sp_why_set(why, -EPROTO, "%s", end.text[0] ? end.text : "the prover ended badly");
    if (r < 0) {
        sp__prover_result__free_unpacked(result, NULL);
        return r;
    }
    *ret = result;
    if (ret_key)
        *ret_key = sp_steal(key);
    return 0;
}

int prover_run(const struct prover_options *options, const Sp__ProverJob *job, int reader_socket,
               const struct sp_secret *secret, Sp__ProverResult **ret,
               struct sp_secret **ret_volume_key, struct sp_why *why)
{
    unsigned time_ms = options->time_limit_ms ? options->time_limit_ms : DEFAULT_TIME_MS;
    struct run run = {
        .program = options->program,
        .nursery = options->nursery,
        .deadline_ms = sp_clock_monotonic_ms(&sp_clock_system) + time_ms,
        .memory_bytes = options->memory_bytes ? options->memory_bytes : DEFAULT_MEMORY,
        /* argon2 runs up to four threads. */
        .cpu_seconds = (uint64_t)time_ms / 1000 * 4 + 4,
        .job = -1,
        .answer = -1,
        .pidfd = -1,
    };
    int r = start(&run, reader_socket, secret, why);
    if (r == 0)
        r = run_started(&run, job, ret, ret_volume_key, why);
    else if (why && !why->text[0])
        sp_why_set(why, r, "the prover cannot be started: %s", strerror(-r));
    stop(&run);
    return r;
}
