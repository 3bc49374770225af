/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * An engine with a real vault, catalog and mover, and a machine "web1" of two disks; keeper, agents
 * and source are fakes.h's. */
#ifndef SEALPOINT_TEST_CONTROLLER_SCENE_H
#define SEALPOINT_TEST_CONTROLLER_SCENE_H

#include "base/file.h"
#include "controller/backup/finding.h"
#include "fakes.h"
#include <pthread.h>
#include <string.h>

#define STATE(name)  SP__POINT_STATE__POINT_STATE_##name
#define GRADE(name)  SP__GRADE__GRADE_##name
#define REASON(name) SP__REASON__REASON_##name

struct scene {
    char *folder, *path, *vault_path;
    struct catalog *catalog;
    struct engine *engine;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    Sp__Job *last; /* the last job that ended */
    /* Of the next engine. */
    uint64_t reproof_after_ms, unreachable_most_ms;
    unsigned keeper_wait_ms; /* 0: hardly any */
};

extern struct scene *here; /* for the fakes' hooks */

int set_up(void **state);
int tear_down(void **state);
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

void start_engine(struct scene *);
void open_catalog(struct scene *);
/* The next job that ends, or has ended; message_free(). */
Sp__Job *wait_end(struct scene *);
Sp__Job *back_up(struct scene *);
Sp__Job *verify(struct scene *, const char *point);
bool has(const Sp__Job *, Sp__Reason);
/* At the source, in the guest: whatever happened. */
void nothing_left(void);
struct catalog_point *point_of(struct scene *, const Sp__Job *);
/* The keeper's look finds one, on the first disk. */
void a_luks_volume(void);
/* For engine_check_vault(): counts problems in the unsigned at `arg`. */
int check_progress(void *arg, const Sp__CheckProgress *);

#endif
