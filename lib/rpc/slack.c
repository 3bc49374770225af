/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Core keeps two timer threads, and each of them wakes every second for nothing: to move timers
 * from a list to a heap. In a program that links core statically the linker leads their waits
 * through here (--wrap, lib/rpc/CMakeLists.txt), and they wait longer. With a shared libgrpc the
 * wrappers are never called.
 *
 * A new timer wakes the thread by a signal, as ever; a due one is late by the slack at most. */
#include "internal.h"
#include <grpc/support/sync.h>
#include <string.h>
#include <sys/prctl.h>

static atomic_uint slack_ms;

void rpc_set_slack(unsigned ms)
{
    atomic_store(&slack_ms, ms);
}

/* Other threads of core wait by the same functions: for calls, whose deadlines are exact. */
static bool is_timer_thread(void)
{
    static _Thread_local int known; /* 0: not yet asked */
    if (!known) {
        char name[16] = "";
        prctl(PR_GET_NAME, name, 0, 0, 0);
        known = strcmp(name, "grpc_global_tim") == 0 || strcmp(name, "timer_manager") == 0 ? 1 : -1;
    }
    return known > 0;
}

static unsigned slack_here(void)
{
    unsigned ms = atomic_load(&slack_ms);
    return ms && is_timer_thread() ? ms : 0;
}

int __real_gpr_cv_wait(gpr_cv *cv, gpr_mu *mu, gpr_timespec until) __attribute__((weak));
int __wrap_gpr_cv_wait(gpr_cv *cv, gpr_mu *mu, gpr_timespec until);

int __wrap_gpr_cv_wait(gpr_cv *cv, gpr_mu *mu, gpr_timespec until)
{
    /* Adding to "never" leaves "never". */
    return __real_gpr_cv_wait(
        cv, mu, gpr_time_add(until, gpr_time_from_millis(slack_here(), GPR_TIMESPAN)));
}

/* absl::CondVar::WaitWithTimeout(Mutex *, Duration), as Debian's abseil of 2022 mangles it. A
 * Duration is seconds and quarters of a nanosecond (absl/time/time.h: rep_hi_, rep_lo_). */
struct absl_duration {
    int64_t seconds;
    uint32_t quarters;
};
#define ABSL_WAIT(prefix)                                                                          \
    prefix##_ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE
bool ABSL_WAIT(__real_)(void *cv, void *mu, struct absl_duration) __attribute__((weak));
bool ABSL_WAIT(__wrap_)(void *cv, void *mu, struct absl_duration);

bool ABSL_WAIT(__wrap_)(void *cv, void *mu, struct absl_duration timeout)
{
    unsigned seconds = slack_here() / 1000;
    if (timeout.seconds < INT32_MAX) /* else it is endless */
        timeout.seconds += seconds;
    return ABSL_WAIT(__real_)(cv, mu, timeout);
}
