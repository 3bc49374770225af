/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Inside the fleet. Everything here is guarded by fleet->lock; sessions also belong to the loop of
 * their call, which is the only one that frees them. */
#ifndef SEALPOINT_FLEET_INTERNAL_H
#define SEALPOINT_FLEET_INTERNAL_H

#include "controller/fleet/fleet.h"
#include "controller/message.h"
#include <pthread.h>

enum { FLEET_BUCKETS = 4096, FLEET_MARK_MAX = 80, FLEET_EPOCH_MAX = 64, FLEET_PROTOCOL = 1 };

struct agent;

struct session {
    struct session *next; /* of the same agent */
    struct rpc_call *call;
    struct agent *agent; /* NULL until Hello */
    uint64_t fence;
    uint8_t epoch[FLEET_EPOCH_MAX];
    size_t epoch_size;
    char **capabilities;
    size_t capability_count;
    char smbios[64], mark[FLEET_MARK_MAX];
};

/* A command that a worker waits for. */
struct pending {
    struct pending *next;
    const char *operation_id;
    uint8_t epoch[FLEET_EPOCH_MAX]; /* of the agent's process that it was sent to */
    size_t epoch_size;
    uint64_t sent_fence; /* of the session it was sent on; 0: not yet */
    Sp__Answer *answer;
    struct sp_buffer *header; /* of SendHeader; else NULL */
    bool header_done;
    int error;
};

struct agent_events {
    Sp__VolumeEvent **all;
    size_t count;
};

struct agent {
    struct agent *next; /* in the bucket */
    struct agent *next_dirty;
    bool dirty;
    char machine_id[128];
    Sp__AgentStatus *status;
    char mark[FLEET_MARK_MAX];
    Sp__Inventory *unsaved_inventory;
    struct agent_events unsaved_events; /* the agent's own */
    struct session *sessions;           /* all that said Hello */
    struct session *current;            /* the one that is obeyed; NULL in quarantine */
    struct session *contender;          /* waits while `current` is probed */
    char probe_id[37];
    uint64_t probe_until_ms, probed_at_ms;
    bool quarantined;
    struct pending *pending;
};

struct fleet {
    struct fleet_options options;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* answers, sessions, dirty agents */
    pthread_t thread;
    bool running, stopping;
    struct agent *buckets[FLEET_BUCKETS];
    struct agent *dirty;
    unsigned contests;
    uint64_t fence;
};

uint64_t fleet_now_ms(void);
struct agent *fleet_find(struct fleet *, const char *machine_id);
/* Finds or makes; NULL on -ENOMEM. */
struct agent *fleet_agent(struct fleet *, const char *machine_id);
void fleet_dirty(struct fleet *, struct agent *);
/* Ends contests whose time is over. Returns true when it let go of the lock to tell about one. */
bool fleet_end_contests(struct fleet *);
/* An event that the agent itself tells: kept for the fleet's thread. */
void fleet_keep_event(struct fleet *, struct agent *, const Sp__AgentEvent *);
void fleet_free_events(struct agent_events *);
/* On the fleet's thread, without the lock: writes the inventory (or NULL) with what changed, and
 * what the agent said, and tells of both. */
int fleet_save_events(struct fleet *, const char *machine_id, const Sp__Inventory *,
                      struct agent_events *said);
void fleet_goodbye_all(struct agent *, const char *text);

#endif
