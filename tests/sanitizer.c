/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * In every program of a build with sanitizers. As it comes, AddressSanitizer keeps 256 MiB of freed
 * memory aside, so that each allocation is of fresh pages, writes 4 KiB of it, and maps the shadow
 * of a large one anew: short programs spend most of their time in the kernel then. What is freed
 * stays poisoned for the next 8 MiB, which is more than a request or a proof takes.
 *
 * Weak: a program may have options of its own (the prover), ASAN_OPTIONS overrides both. */
#include "sanitizer.h"

const char *__asan_default_options(void);
__attribute__((weak)) const char *__asan_default_options(void)
{
    return SANITIZER_OPTIONS;
}
