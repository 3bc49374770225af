/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * In every fuzz target. With AddressSanitizer's own 256 MiB of quarantine each allocation is of
 * fresh pages, and the kernel takes nine tenths of the time; what one input frees fits in this. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=4:thread_local_quarantine_size_kb=64:max_malloc_fill_size=256";
}
