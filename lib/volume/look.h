/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Between look.c (one thing at a time) and look_assemble.c (what lies on several). */
#ifndef SEALPOINT_VOLUME_LOOK_H
#define SEALPOINT_VOLUME_LOOK_H

#include "volume/internal.h"

enum {
    LOOK_NODES_MAX = 16384,      /* things looked at; a hostile table may name more */
    LOOK_EXTENTS_MAX = 16384,    /* extents of one volume */
    LOOK_CAPTURE_MAX = 48 << 20, /* header bytes in one answer: it must fit in one frame */
    LOOK_SEARCH_MAX = 512 << 20, /* bytes read in search of lost headers */
};

struct look_pv {
    struct volume_node *node;
    struct volume_pv *pv;
};
struct look_md {
    struct volume_node *node;
    struct volume_md md;
    bool done;
};
struct look {
    const struct volume_disk *disks;
    size_t disk_count;
    bool layout_only;
    struct volume_look out;
    uint64_t captured, search_left;
    struct volume_node **nodes; /* those from `examined` on wait */
    size_t node_count, examined;
    struct volume_node **parts; /* what others are made of, never examined */
    size_t part_count;
    struct look_pv *pvs;
    size_t pv_count;
    struct look_md *mds;
    size_t md_count;
    char **groups_done; /* ids of volume groups */
    size_t group_count;
};

/* Takes the node over (NULL gives -ENOMEM); it will be examined. */
int look_push(struct look *, struct volume_node *);
/* Takes the node over; it is only kept, as a part of others. */
int look_keep(struct look *, struct volume_node *);
/* Ranges of bytes of a node: what they are. */
int look_account(struct look *, const struct volume_node *, uint64_t offset, uint64_t length,
                 const char *what, const char *volume_id);
/* Accounts for small holes between the ranges that something covers. Sorts `covers`. */
int look_gaps(struct look *, const struct volume_node *, uint64_t (*covers)[2], size_t count);
__attribute__((format(printf, 6, 7))) int look_find(struct look *, Sp__Reason, bool note,
                                                    const struct volume_node *,
                                                    const char *volume_id, const char *format, ...);
/* Builds arrays and groups from the members found so far and pushes what they make. `last`: also
 * those that are not complete. Number of nodes pushed or negative errno. */
int look_assemble(struct look *, bool last);

#endif
