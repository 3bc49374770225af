/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Lists of findings, as they stand in points and manifests (repeated Finding). */
#ifndef SEALPOINT_BACKUP_FINDING_H
#define SEALPOINT_BACKUP_FINDING_H

#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>
#include <stddef.h>

struct finding_list {
    Sp__Finding ***at; /* the message's own fields */
    size_t *count;
};
#define FINDINGS(message) ((struct finding_list){&(message)->findings, &(message)->n_findings})

/* What a finding is about; members that are NULL or 0 do not apply. */
struct finding_about {
    const char *volume_id, *disk_id;
    uint64_t offset_bytes, length_bytes;
    bool note;
};

/* Appends one finding; the sentence says what and what to do, and leaves out the volume or disk
 * that the finding names already. -ENOMEM. */
int finding_add(struct finding_list, Sp__Reason, struct finding_about, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Appends copies of another list. */
int finding_copy(struct finding_list, Sp__Finding *const *from, size_t count);
/* Empties the list. */
void finding_clear(struct finding_list);
/* Whether the list says so of the volume already, and not as a note. */
bool finding_stands(Sp__Finding *const *at, size_t count, Sp__Reason, const char *volume_id);
/* Whether a finding with this reason is there, about this volume (NULL: any). */
bool finding_has(const Sp__Finding *const *at, size_t count, Sp__Reason, const char *volume_id);

#endif
