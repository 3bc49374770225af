/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/report.h"
#include "base/cleanup.h"
#include <stdarg.h>
#include <string.h>

__attribute__((format(printf, 1, 0))) static char *say(const char *format, va_list args)
{
    char *text = NULL;
    return vasprintf(&text, format, args) < 0 ? NULL : text;
}

int report_add(struct report *r, bool data_lost, const char *format, ...)
{
    struct report_problem *bigger = realloc(r->problems, (r->count + 1) * sizeof *bigger);
    if (!bigger)
        return -ENOMEM;
    r->problems = bigger;
    va_list args;
    va_start(args, format);
    char *what = say(format, args);
    va_end(args);
    if (!what)
        return -ENOMEM;
    r->problems[r->count] = (struct report_problem){.what = what, .data_lost = data_lost};
    return (int)r->count++;
}

int report_harm(struct report *r, int problem, const char *point_id)
{
    struct report_problem *p = &r->problems[problem];
    p->data_lost = true;
    for (size_t i = p->point_count; i > 0; i--)
        if (!strcmp(p->points[i - 1], point_id))
            return 0;
    char **bigger = realloc(p->points, (p->point_count + 1) * sizeof *bigger);
    if (!bigger)
        return -ENOMEM;
    p->points = bigger;
    if (!(p->points[p->point_count] = strdup(point_id)))
        return -ENOMEM;
    p->point_count++;
    return 0;
}

int report_reword(struct report *r, int problem, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *what = say(format, args);
    va_end(args);
    if (!what)
        return -ENOMEM;
    free(r->problems[problem].what);
    r->problems[problem].what = what;
    return 0;
}

int report_send(const struct report *r, const Sp__CheckProgress *progress,
                int (*send)(void *arg, const Sp__CheckProgress *), void *arg)
{
    Sp__CheckProgress message = *progress;
    Sp__CheckProblem *problems SP_FREE = calloc(r->count + 1, sizeof *problems);
    Sp__CheckProblem **pointers SP_FREE = calloc(r->count + 1, sizeof *pointers);
    if (!problems || !pointers)
        return -ENOMEM;
    for (size_t i = 0; i < r->count; i++) {
        sp__check_problem__init(&problems[i]);
        problems[i].what = r->problems[i].what;
        problems[i].points_harmed = r->problems[i].points;
        problems[i].n_points_harmed = r->problems[i].point_count;
        problems[i].data_lost = r->problems[i].data_lost;
        pointers[i] = &problems[i];
    }
    message.problems = pointers;
    message.n_problems = r->count;
    return send(arg, &message);
}

void report_free(struct report *r)
{
    for (size_t i = 0; i < r->count; i++) {
        for (size_t k = 0; k < r->problems[i].point_count; k++)
            free(r->problems[i].points[k]);
        free(r->problems[i].points);
        free(r->problems[i].what);
    }
    free(r->problems);
    *r = (struct report){0};
}
