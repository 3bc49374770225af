/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * For the prover's tests: images of the corpus or made here, served to a real sealpoint-prover as
 * the controller would. One thread of a test uses a rig; the serving thread is the rig's own. */
#ifndef SEALPOINT_TESTS_PROVER_RIG_H
#define SEALPOINT_TESTS_PROVER_RIG_H

#include "controller/keeper/prover/run.h"
#include <pthread.h>
#include <stdbool.h>

enum { RIG_MAX_DISKS = 4 };

struct rig {
    int near, far; /* the prover's end, the server's */
    pthread_t thread;
    int fds[RIG_MAX_DISKS];
    uint64_t sizes[RIG_MAX_DISKS];
    uint32_t count;
    unsigned reads; /* served so far */
};

/* Serves files as disks "disk0", "disk1", … until rig_close(). Asserts on failure. */
void rig_open(struct rig *, const char *const *paths, uint32_t count);
void rig_close(struct rig *);

/* A folder of this run, removed by rig_remove_folder() with all in it; rig_end() does it as the
 * tear-down of a group. */
const char *rig_folder(void);
void rig_remove_folder(void);
int rig_end(void **state);

/* Path of a corpus file, unpacked into the folder once; kept by the callee. Ends the program with
 * 77 when there is no corpus. */
const char *rig_corpus(const char *name);

/* A file of the folder; kept by the callee. */
const char *rig_path(const char *name);

/* Runs a shell command of printf form, asserts that it succeeds. */
void rig_shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Where the corpus is. */
const char *rig_corpus_folder(void);

/* A test to run last: what was unpacked is still what the manifest says. */
void rig_images_are_as_they_were(void **state);

/* What to prove. NULL and 0 are fine for all but image, kind and the secret. */
struct question {
    const char *image;
    uint64_t start, length; /* of the volume on it; length 0: all of it */
    Sp__VolumeKind kind;
    const char *uuid;    /* makes the volume's id */
    const char *header;  /* file of a detached header */
    Sp__SecretType type; /* unspecified: a passphrase */
    const void *secret;
    size_t secret_size; /* 0: strlen */
    const char *secret_file;
    const char *protector;
    const char *expected_type, *expected_uuid;
    const char *plain_cipher, *plain_hash;
    uint32_t plain_bits, plain_sector;
    uint64_t plain_offset, plain_skip;
    bool carried;
    uint64_t memory_bytes;
    unsigned time_ms;
};

/* The finding (sp__prover_finding__free_unpacked) and the key or NULL. Asserts that the prover
 * answered with one, that every sector's hash is that of the image there, and that nobody wrote to
 * the image. */
Sp__ProverFinding *rig_prove(const struct question *, struct sp_secret **ret_key);

/* The verdict alone, as a word: "OPENS". */
const char *rig_verdict(const struct question *);

/* For a job that must not get an answer: the error of prover_run(). */
int rig_fail(const struct question *, struct sp_why *why);

/* Path of the built prover. */
const char *rig_prover(void);

#endif
