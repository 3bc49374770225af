/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/log.h"
#include "internal.h"
#include <grpc/support/log.h>
#include <signal.h>
#include <string.h>

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

void rpc_teardown(void)
{
    pthread_mutex_lock(&lock);
    if (users > 0 && --users == 0)
        grpc_shutdown_blocking();
    pthread_mutex_unlock(&lock);
}
