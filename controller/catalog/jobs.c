/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "controller/catalog/sql.h"

int catalog_job_save(struct catalog *c, const Sp__Job *job)
{
    sql_lock(c);
    int r =
        sql_run(c, "INSERT OR REPLACE INTO job (job_id, ended, started, body) VALUES (?, ?, ?, ?)",
                "tnnm", job->job_id, (uint64_t)job->ended, job->started_unix_ms, &job->base);
    sql_unlock(c);
    return r;
}

static int row_job(void *arg, sqlite3_stmt *s)
{
    int r = 0;
    *(Sp__Job **)arg = sql_message(s, 0, &sp__job__descriptor, &r);
    return r < 0 ? r : 1;
}

int catalog_job_get(struct catalog *c, const char *job_id, Sp__Job **ret)
{
    Sp__Job *job = NULL;
    sql_lock(c);
    int r = sql_each(c, row_job, &job, "SELECT body FROM job WHERE job_id = ?", "t", job_id);
    sql_unlock(c);
    if (r == 0 && !job)
        r = -ENOENT;
    if (r == 0)
        *ret = job;
    return r;
}

struct walk {
    int (*each)(void *, Sp__Job *);
    void *arg;
};

static int row_walk(void *arg, sqlite3_stmt *s)
{
    struct walk *w = arg;
    int r = 0;
    Sp__Job *job = sql_message(s, 0, &sp__job__descriptor, &r);
    if (!job)
        return r;
    r = w->each(w->arg, job);
    message_free(job);
    return r;
}

int catalog_job_unended(struct catalog *c, int (*each)(void *, Sp__Job *), void *arg)
{
    struct walk w = {each, arg};
    sql_lock(c);
    int r = sql_each(c, row_walk, &w, "SELECT body FROM job WHERE ended = 0 ORDER BY started", "");
    sql_unlock(c);
    return r;
}
