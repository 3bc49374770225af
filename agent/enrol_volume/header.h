/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A LUKS2 header in use, through libcryptsetup, and the token of an escrow keyslot in it:
 *
 *     {"type":"sealpoint-escrow", "keyslots":["3"], "keyslot":"3", "record":UUID, "machine":UUID}
 *
 * "keyslots" is empty until the keyslot is there; "keyslot" is the number that it gets. Nothing in
 * it is secret. */
#ifndef SEALPOINT_ENROL_VOLUME_HEADER_H
#define SEALPOINT_ENROL_VOLUME_HEADER_H

#include "base/secret.h"
#include "base/why.h"
#include <libcryptsetup.h>
#include <stdbool.h>

#define HEADER_TOKEN "sealpoint-escrow"
enum { HEADER_KEYSLOTS = 32, HEADER_TOKENS = 32, HEADER_KEY_BYTES = 32 };

struct header {
    struct crypt_device *cd;
    const char *device;
};

/* Loads the header; `volume_id` "luks:UUID…" must be its. -EOPNOTSUPP: LUKS1 or none; -ESTALE:
 * another volume's. header_close() in either case. */
int header_open(const char *device, const char *volume_id, struct header *, struct sp_why *why);
void header_close(struct header *);

/* Over both copies, binary and JSON. */
int header_digest(const struct header *, uint8_t out[32], struct sp_why *why);
/* Durable in `path`, which is replaced; it can hold what opens old keyslots, so mode 0600. */
int header_save(const struct header *, const char *path, struct sp_why *why);

/* The lowest keyslot that is free and that no token of ours names. -ENOSPC. */
int header_free_keyslot(const struct header *, struct sp_why *why);
bool header_has_keyslot(const struct header *, int keyslot);
/* Whether the key opens this very keyslot. */
bool header_opens(const struct header *, int keyslot, const struct sp_secret *key);

struct header_token {
    int number, keyslot;
    bool assigned;
    char record_id[37];
};
/* The token with this number; false: it is none of ours. */
bool header_token(const struct header *, int number, struct header_token *ret);
/* The one that names the record. */
bool header_find_token(const struct header *, const char *record_id, struct header_token *ret);
/* Its number, or negative errno. */
int header_add_token(const struct header *, const char *machine_id, const char *record_id,
                     int keyslot, struct sp_why *why);
int header_remove_token(const struct header *, int number, struct sp_why *why);
int header_assign(const struct header *, int token, int keyslot, struct sp_why *why);

/* The key gets this keyslot; it is random and needs no stretching, so PBKDF2 with as few rounds as
 * LUKS2 takes. */
int header_add_keyslot(const struct header *, int keyslot, const struct sp_secret *volume_key,
                       const struct sp_secret *key, struct sp_why *why);
int header_remove_keyslot(const struct header *, int keyslot, struct sp_why *why);

/* What libcryptsetup said last, for texts. */
const char *header_said(void);

#endif
