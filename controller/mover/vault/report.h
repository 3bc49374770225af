/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a check has found so far. One thread. */
#ifndef SEALPOINT_VAULT_REPORT_H
#define SEALPOINT_VAULT_REPORT_H

#include <sealpoint/v1/backup.pb-c.h>
#include <stdbool.h>
#include <stddef.h>

struct report_problem {
    char *what;
    char **points; /* harmed; each once */
    size_t point_count;
    bool data_lost;
};

/* Zero-initialise; report_free() in the end. */
struct report {
    struct report_problem *problems;
    size_t count;
};

/* Adds a problem; its number (from 0), or -ENOMEM. */
int report_add(struct report *, bool data_lost, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Says that a point is harmed by a problem; it lost data then. 0, -ENOMEM. */
int report_harm(struct report *, int problem, const char *point_id);
/* Puts another sentence in the place of the first. */
int report_reword(struct report *, int problem, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Calls `send` with everything as one message that is filled up from `progress`. */
int report_send(const struct report *, const Sp__CheckProgress *progress,
                int (*send)(void *arg, const Sp__CheckProgress *), void *arg);
void report_free(struct report *);

#endif
