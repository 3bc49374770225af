/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What run.c and the prover agree on besides the messages: descriptors and words of its command
 * line, `sealpoint-prover MEMORY-BYTES CPU-SECONDS`. */
#ifndef SEALPOINT_PROVER_DESCRIPTORS_H
#define SEALPOINT_PROVER_DESCRIPTORS_H

enum {
    PROVER_FD_JOB = 3,
    PROVER_FD_READER = 4, /* /dev/null when the job reads no disk */
    PROVER_FD_SECRET = 5, /* /dev/null when the job has none */
    PROVER_FD_ANSWER = 6,
    PROVER_FD_COUNT = 4,
    PROVER_SECRET_MAX = 1 << 20, /* as much as a sealed box carries */
    PROVER_KEY_MAX = 4096,       /* bytes of a volume key in the answer */
};

/* AddressSanitizer needs terabytes of address space and a place to speak; gcc and clang tell of it
 * in different ways. */
#if defined(__SANITIZE_ADDRESS__)
#define PROVER_UNDER_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PROVER_UNDER_ASAN
#endif
#endif

#endif
