/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A keeper, agents and a source that do what the test says, so that the engine's state machine can
 * be seen at each step. The vault and the mover are the real ones. One scene at a time. */
#ifndef SEALPOINT_TEST_CONTROLLER_FAKES_H
#define SEALPOINT_TEST_CONTROLLER_FAKES_H

#include "build.h"
#include "controller/backup/engine.h"
#include <openssl/evp.h>
#include <pthread.h>

enum { FAKE_DISK_BYTES = 1 << 20 };

struct fake_source {
    bool off;       /* the machine does not run */
    unsigned disks; /* each of FAKE_DISK_BYTES */
    int describe_error, snapshot_error, release_error;
    bool break_while_reading;
    int read_error;
    unsigned open, held, releases; /* handles, snapshots, calls of release */
    bool last_transferred;
    bool guest_was_held;
    unsigned snapshots;
    void (*on_snapshot)(void); /* called inside the switch */
    void (*on_release)(void);
    uint8_t bytes[4][FAKE_DISK_BYTES];
};
extern struct fake_source fake_source;
const struct source *fake_source_for(const Sp__SourceConfig *);

struct fake_keeper {
    EVP_PKEY *key;
    bool away, locked, refuse_seal;
    void (*on_away)(void); /* at each call while it is away */
    Sp__ProofVerdict verdict;
    unsigned pins, unpins, looks, proofs, seals, kept_records;
    bool plain_seen;
    /* Called at the start of each request of that kind. */
    void (*on_look)(bool layout_only);
    void (*on_prove)(void);
    void (*on_seal)(void);
    Sp__Volume *volume; /* what a look finds; NULL: nothing */
    bool account_for_all;
};
extern struct fake_keeper fake_keeper;
extern const struct engine_keeper fake_keeper_calls;

struct fake_agent {
    enum engine_agent_state state;
    bool thaw_late, freeze_refused, no_thaw_answer;
    Sp__FreezeResult__Outcome outcome;
    unsigned freezes, thaws;
    bool frozen;
};
extern struct fake_agent fake_agent;
extern const struct engine_agents fake_agent_calls;

void fakes_reset(void);

#endif
