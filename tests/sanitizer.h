/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Options of AddressSanitizer that all programs share; see sanitizer.c. */
#ifndef SEALPOINT_SANITIZER_H
#define SEALPOINT_SANITIZER_H

#define SANITIZER_OPTIONS                                                                          \
    "quarantine_size_mb=8:thread_local_quarantine_size_kb=256:max_malloc_fill_size=256:"           \
    "clear_shadow_mmap_threshold=16777216"

#endif
