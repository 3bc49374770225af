/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A recovery point that the keeper has every reason to seal, to be made worse by a test. */
#ifndef KEEPER_POINT_H
#define KEEPER_POINT_H

#include "rig.h"

struct point {
    Sp__Manifest *manifest; /* one disk of root 0xaa…, one LUKS2 volume, its proof */
    char record_id[37];
};

/* Imports `secret`, pins, proves by the made-up prover, and writes the manifest. */
struct point point_make(struct rig *);
/* For a second machine or point. */
struct point point_make_for(struct rig *, const char *machine, const char *point);
/* One more LUKS2 volume, proved like the first. What it needs is imported and pinned before. */
void point_add_volume(struct rig *, struct point *, const char *volume);
void point_free(struct point *);

Sp__Signed *seal_point(struct rig *, const struct point *);
void seal_refused(struct rig *, const struct point *, int error, const char *text);
void set_text(char **field, const char *text);

#endif
