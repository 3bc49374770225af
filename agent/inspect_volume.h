/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Volumes and findings in words, for `sealpoint-agent inspect`. Texts of messages are printed as
 * they are: make them clean first. */
#ifndef SEALPOINT_AGENT_INSPECT_VOLUME_H
#define SEALPOINT_AGENT_INSPECT_VOLUME_H

#include <sealpoint/v1/types.pb-c.h>
#include <stdbool.h>
#include <stdio.h>

/* "1.5 GiB"; returns out. */
const char *inspect_size(uint64_t bytes, char out[24]);
#define INSPECT_SIZE(n) inspect_size((n), (char[24]){0})

/* "LUKS2", "BitLocker", … */
const char *inspect_kind(const Sp__Volume *volume);
bool inspect_is_encrypted(const Sp__Volume *volume);
/* "ext4 \"root\"" */
void inspect_content(const Sp__Content *content, FILE *out);
/* A paragraph: name, place, state, cipher, header copies, every protector and token. */
void inspect_volume(const Sp__Volume *volume, FILE *out);
/* A list; `where` (may be NULL) names the volume or disk of each. Returns how many are no notes. */
size_t inspect_findings(Sp__Finding *const *findings, size_t count, FILE *out);

#endif
