/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "internal.h"
#include <dirent.h>
#include <grpc/support/log.h>
#include <signal.h>
#include <string.h>
#include <time.h>

enum { LEAVE_ROUNDS = 2000 }; /* of a millisecond */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned users; /* under lock */
static atomic_uint accept_failures;

/* Core's own log, at our debug level. One of its lines is the only sign of an event that matters:
 * after a failed accept core closes the listener for good (facts: grpc-core). */
static void take_log(gpr_log_func_args *args)
{
    if (args->message && strstr(args->message, "Failed accept4"))
        atomic_fetch_add(&accept_failures, 1);
    sp_log(SP_LOG_DEBUG, "grpc", "text", args->message, "level",
           gpr_log_severity_string(args->severity), NULL);
}

unsigned rpc_accept_failures(void)
{
    return atomic_load(&accept_failures);
}

/* Core starts threads of its own; none of them may be the one that takes the program's signals. */
void rpc_setup(void)
{
    sigset_t all, before;
    pthread_mutex_lock(&lock);
    if (users++ == 0) {
        gpr_set_log_function(take_log);
        gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        grpc_init();
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_mutex_unlock(&lock);
}

/* As core names them (cut to 15 characters by the kernel). */
static bool is_core_thread(const char *id)
{
    static const char *const names[] = {"event_engine\n", "timer_manager\n", "default-executo\n",
                                        "resolver-execut\n", "grpc_global_tim\n"};
    char path[80];
    SP_FREE char *name = NULL;

    snprintf(path, sizeof path, "/proc/self/task/%.20s/comm", id);
    if (sp_file_read(path, 64, &name, NULL) < 0)
        return false;
    for (size_t i = 0; i < SP_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static bool has_core_threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    bool found = false;

    for (struct dirent *e; tasks && !found && (e = readdir(tasks));)
        found = e->d_name[0] != '.' && is_core_thread(e->d_name);
    if (tasks)
        closedir(tasks);
    return found;
}

/* Core counts its detached threads as gone when they have done their work, a moment before they
 * end. A process that exits in that moment tears OpenSSL down under them. */
static void wait_for_core_threads(void)
{
    static const struct timespec moment = {.tv_nsec = 1000000};

    for (unsigned i = 0; i < LEAVE_ROUNDS && has_core_threads(); i++)
        nanosleep(&moment, NULL);
}

void rpc_teardown(void)
{
    pthread_mutex_lock(&lock);
    if (users > 0 && --users == 0) {
        grpc_shutdown_blocking();
        wait_for_core_threads();
    }
    pthread_mutex_unlock(&lock);
}
