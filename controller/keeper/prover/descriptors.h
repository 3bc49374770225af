/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What run.c, nursery.c and the prover agree on besides the messages.
 *
 *   sealpoint-prover MEMORY-BYTES CPU-SECONDS   one job on the descriptors below, then the end
 *   sealpoint-prover nursery                    makes provers, each with one job, as it is asked to
 *
 * A nursery's descriptor 3 is a SOCK_SEQPACKET socket. One packet asks: struct nursery_ask and the
 * four descriptors of the job, in their order. One packet answers: struct nursery_answer, and with
 * error 0 the new prover's pidfd. The prover is a child of the one who asks, not of the nursery. */
#ifndef SEALPOINT_PROVER_DESCRIPTORS_H
#define SEALPOINT_PROVER_DESCRIPTORS_H

#include <stdint.h>

enum {
    PROVER_FD_JOB = 3,
    PROVER_FD_READER = 4, /* /dev/null when the job reads no disk */
    PROVER_FD_SECRET = 5, /* /dev/null when the job has none */
    PROVER_FD_ANSWER = 6,
    PROVER_FD_COUNT = 4,
    PROVER_SECRET_MAX = 1 << 20, /* as much as a sealed box carries */
    PROVER_KEY_MAX = 4096,       /* bytes of a volume key in the answer */
};

struct nursery_ask {
    uint64_t memory_bytes, cpu_seconds;
};
struct nursery_answer {
    int32_t error; /* negative errno */
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
