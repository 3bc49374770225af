/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Seven years in one process: a controller's engine with its catalog and a vault directory, and a
 * keeper on its socket with real provers, all of it the code that the programs are linked from.
 *
 * What is simulated, and nothing else:
 *   time      every clock_gettime() of that code is answered by the test (linked with --wrap): all
 *             clocks go on as they do, plus the days that world_live() lets pass at once; the first
 *             day is world_first_day
 *   guests    machines that are switched off; their disks are image files (guests.h)
 *   escrow    the external providers (guests.h); their place in the keeper is the real one
 *   network   the engine asks the keeper through its client and socket; nobody asks the engine
 *             through gRPC, and what an admin signs is signed here
 */
#ifndef SEALPOINT_TESTS_YEARS_WORLD_H
#define SEALPOINT_TESTS_YEARS_WORLD_H

#include "build.h"
#include "controller/backup/engine.h"
#include "guests.h"
#include "rig.h"

#define STATE(name)  SP__POINT_STATE__POINT_STATE_##name
#define REASON(name) SP__REASON__REASON_##name

enum { REPROOF_AFTER_DAYS = 30, REPROOFS_PER_HOUR = 60, EVENTS_MOST = 400 };

struct world {
    struct rig *rig;
    struct prover_nursery *nursery;
    struct providers *providers;
    pthread_t server;
    int listener, stop;
    char socket[120];

    char *folder;
    struct catalog *catalog;
    struct engine *engine;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    Sp__Job *last; /* that ended, not yet taken */
    /* Every event about a point since it was last set to 0. */
    struct {
        char point_id[37];
        Sp__PointState state;
    } events[EVENTS_MOST];
    size_t event_count;
};

/* Machines that keep a point of each of so many months that have one. */
struct world *world_new(unsigned months);
void world_free(struct world *);

/* Days go by; the admin renews the certificate in time, as the command line does. */
void world_live(struct world *, unsigned days);
void world_pass_seconds(unsigned seconds);

/* The keeper ends and starts again, with the rig's options as they are by now. */
void world_restart_keeper(struct world *);
/* A new KEK in place of the one that is in use: passphrase and key file by turns. */
void world_change_kek(struct world *);
/* The keystore goes to another machine: export, import, reconcile. */
void world_move_keystore(struct world *);
/* All records, all generations. */
Sp__ListKeysResponse *world_records(struct world *);

/* Waits for its end. */
Sp__Job *world_back_up(struct world *, const char *machine);
/* What the keeper's ticks would start; NULL: nothing was. */
Sp__Job *world_reproof(struct world *);
/* The machines' retention. Returns how many points left the vault. */
uint64_t world_collect(struct world *);

#endif
