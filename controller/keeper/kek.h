/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Key-encryption keys. Each KEK is an X25519 pair, so that a new secret can be wrapped for every
 * KEK while only one of them is open:
 *
 *   scrypt        private half AES-256-GCM under scrypt(passphrase file)
 *   credential    the same under scrypt(systemd credential), which may be typed, too
 *   key-file      the same under scrypt(file of 32 and more random bytes, on another medium)
 *   pkcs11        private half encrypted to an RSA key of a token (kek_token.h)
 *   recovery-kit  private half = HKDF(kit), stored nowhere
 *
 * Public halves come from the keystore's file, which an attacker may write to. So each KEK vouches
 * for the sealing key (root_mac, keyed by its private half), and the sealing key signs the journal
 * that holds the digest of every KEK's row; nothing is wrapped before both were checked. */
#ifndef SEALPOINT_KEEPER_KEK_H
#define SEALPOINT_KEEPER_KEK_H

#include "base/secret.h"
#include "base/why.h"
#include <sealpoint/v1/keys.pb-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KEK_MOST = 8, KEK_KIT_BYTES = 32 };

#define KEK_SCRYPT     "scrypt"
#define KEK_CREDENTIAL "credential"
#define KEK_KEY_FILE   "key-file"
#define KEK_PKCS11     "pkcs11"
#define KEK_KIT        "recovery-kit"

/* Where KEK material comes from in this process. */
struct kek_sources {
    const char *passphrase_file; /* NULL or "": none */
    const char *credential;      /* name under $CREDENTIALS_DIRECTORY; NULL or "": none */
    const char *key_file;        /* NULL or "": none */
    const char *pkcs11_module;   /* shared object; NULL or "": none */
    const char *pkcs11_token;    /* label */
    const char *pkcs11_key;      /* label of an RSA pair on it */
    const char *pkcs11_pin_file; /* the user PIN */
    bool insecure;               /* a passphrase file beside the keystore or readable by others */
    unsigned scrypt_log_n;       /* of new KEKs; 0: 17 (128 MiB) */
};

struct kek {
    char kek_id[37];
    char kind[16];
    uint8_t public_key[32];
};

struct kek_set {
    struct kek items[KEK_MOST];
    size_t count;
    size_t open; /* index of the one whose private half is here */
    struct sp_secret *open_private;
};

struct keeper;

/* Material of a kind from this process's sources: passphrase, bytes of a key file, or a token's
 * PIN. -ENOENT: not configured. */
int kek_material(const struct keeper *, const char *kind, struct sp_secret **ret,
                 struct sp_why *why);
/* Makes a KEK, writes and journals its row and adds it to the set. In a transaction. */
int kek_add(struct keeper *, const char *kind, const struct sp_secret *material,
            struct sp_why *why);
/* A KEK beside the others, every DEK wrapped for it; the kit: in place of the old one. In a
 * transaction, through the open KEK. */
int kek_change(struct keeper *, const char *kind, const struct sp_secret *material,
               uint64_t *ret_deks, struct sp_why *why);
/* Takes a KEK and its wraps away. The open one: only when the configuration opens another, which is
 * open then. The kit: never. In a transaction. */
int kek_remove(struct keeper *, const char *kek_id, struct sp_why *why);
/* After a rollback: the set as it was before, with what is open now. */
void kek_restore(struct kek_set *, const struct kek_set *before);
/* For people: the KEK at an index of the set. */
int kek_describe(struct keeper *, size_t index, Sp__Kek **ret);
/* The passphrase or key file protects nothing, and kek.insecure lets it pass. */
bool kek_is_insecure(const struct keeper *);
int kek_none_configured(struct sp_why *why);
/* Reads the rows. */
int kek_load(struct keeper *);
/* Tries to open a KEK of this kind. 0; -ENOENT: the keystore has none; -EKEYREJECTED: the material
 * does not open it. */
int kek_open(struct keeper *, const char *kind, const struct sp_secret *material,
             struct sp_why *why);
/* Whether the open KEK vouches for the sealing key (k->sealing_der). 0 or -EBADMSG. */
int kek_check_root(struct keeper *);
/* The private half that a recovery kit stands for. */
int kek_kit_private(const struct sp_secret *kit, struct sp_secret **ret);
/* Every source that is configured and has no KEK in the keystore gets one; KEKs of a configured
 * kind are replaced. For init and restore only: a KEK change otherwise needs a signed request. In a
 * transaction. */
int kek_add_configured(struct keeper *, struct sp_why *why);
void kek_forget(struct kek_set *);

#endif
