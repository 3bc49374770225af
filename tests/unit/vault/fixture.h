/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A vault in a new directory, disks made of a seed, manifests signed with a key made for the test.
 */
#ifndef SEALPOINT_TESTS_VAULT_FIXTURE_H
#define SEALPOINT_TESTS_VAULT_FIXTURE_H

#include "base/secret.h"
#include "base/signed_request.h"
#include "controller/mover/vault/vault.h"

struct fixture {
    char dir[64];
    Sp__DirectoryVault directory;
    Sp__VaultConfig config;
    char id[37];
    struct sp_secret *key;
    struct vault *vault;
    EVP_PKEY *seal;
    uint8_t *seal_der;
    size_t seal_der_size;
};

void fixture_make(struct fixture *);
void fixture_free(struct fixture *); /* closes, removes the directory */
void fixture_reopen(struct fixture *);
/* Makes the key anew: a forked child has no secret memory of its parent. */
void fixture_new_key(struct fixture *);
struct sp_bytes fixture_seal_key(const struct fixture *);

/* What a disk holds, as a function of seed and chunk: random, zero, text, repeats. `ciphertext`
 * says which chunks are given as ciphertext. */
enum disk_kind { DISK_RANDOM, DISK_MIXED, DISK_TEXT, DISK_ZERO };
struct disk {
    enum disk_kind kind;
    uint64_t seed, size;
    uint64_t changed_chunk; /* this chunk has other content; UINT64_MAX: none */
};
void disk_chunk(const struct disk *, uint64_t index, uint8_t *out, uint32_t *ret_size);
bool disk_chunk_is_ciphertext(const struct disk *, uint64_t index);
uint64_t disk_chunks(const struct disk *);
/* Writes it in order; image must be initialised. */
int disk_write(struct vault *, const char *point, const struct disk *, Sp__DiskImage *image,
               struct sp_why *why);
/* Reads all and compares; fails the test on any difference. */
void disk_expect(struct vault *, const struct disk *, const Sp__DiskImage *image);

/* A signed manifest over images (which stay the caller's). Free with
 * sp__signed__free_unpacked(). */
Sp__Signed *manifest_make(const struct fixture *, const char *machine, const char *point,
                          uint64_t sequence, uint32_t revision, Sp__DiskImage **images,
                          size_t count);
/* Writes a disk and its manifest and ends the journal. */
void point_make(struct fixture *, const char *machine, const char *point, const struct disk *,
                Sp__DiskImage *image);

/* vault_check(), its problems as lines "what|LOST or TIDY|point,point,". To free(). */
char *check_text(struct fixture *, bool read_data);

/* Flips a bit of a file. */
void flip(const char *path, uint64_t offset, unsigned bit);
/* The nth object whose name starts with `prefix`, in order of names; its path, or fails. */
void object_path(const struct fixture *, const char *prefix, unsigned nth, char out[256]);
unsigned object_count(const struct fixture *, const char *prefix);
uint64_t file_size(const char *path);

#endif
