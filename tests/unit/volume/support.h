/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Images for the tests of lib/volume: from the corpus, from tools, from bytes. All lie in memory
 * files, sparse. A failure to make one fails the test. */
#ifndef SEALPOINT_TESTS_VOLUME_SUPPORT_H
#define SEALPOINT_TESTS_VOLUME_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "volume/internal.h"

struct image {
    int fd;
    uint64_t size;
    struct volume_reader reader;
};

/* NULL when there is no corpus. */
const char *corpus_folder(void);
bool corpus_has(const char *name);
/* Unpacks NAME, NAME.xz; qcow2 and vmdk become raw. */
void image_of_corpus(struct image *, const char *name);
void image_empty(struct image *, uint64_t size);
void image_put(const struct image *, uint64_t offset, const void *data, size_t size);
void image_put_image(const struct image *, uint64_t offset, const struct image *from);
/* "/proc/self/fd/N" of this image for a tool run by tool(); valid until the next call. */
const char *image_path(const struct image *);
void image_close(struct image *);

/* Runs a program, waits, asserts that it ended with 0. The list ends with NULL. `input` (may be
 * NULL) is its standard input. */
void tool(const char *input, const char *program, ...) __attribute__((sentinel));
bool has_tool(const char *program);

/* A reader over another one with a change: some bits flipped, or cut short. */
struct altered {
    const struct volume_reader *of;
    uint64_t offsets[8];
    uint8_t masks[8];
    size_t count;
};
struct volume_reader altered_reader(struct altered *, const struct volume_reader *of,
                                    uint64_t size_bytes);

/* The facts of an image that must be found; free with sp__header_facts__free_unpacked(). */
Sp__HeaderFacts *facts_of(const struct volume_reader *, const char *format_name);
const Sp__Volume *volume_named(const struct volume_look *, const char *volume_id);
const Sp__RangeUse *range_at(const struct volume_look *, const char *disk_id, uint64_t offset);
/* The finding for a reason and volume (NULL: any), or NULL. */
const Sp__Finding *finding_of(const struct volume_look *, Sp__Reason, const char *volume_id);
/* A look over one image called "disk". */
void look_at(const struct image *, struct volume_look *);

#endif
