/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/clock.h"
#include "base/signed_request.h"
#include "controller/backup/run.h"
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>
#include <time.h>

enum { ASK_AGAIN_MS = 250 };

/* False when the job or the engine ends meanwhile. */
static bool pause_for_keeper(const struct engine *e, const atomic_bool *cancel)
{
    const struct timespec pause = {.tv_nsec = ASK_AGAIN_MS * 1000000L};
    nanosleep(&pause, NULL);
    return !atomic_load(&e->stopping) && !(cancel && atomic_load(cancel));
}

int keeper_ask(struct engine *e, const atomic_bool *cancel, Sp__KeeperRequest *request,
               int (*read_at)(void *, uint32_t, uint64_t, void *, uint32_t), void *self,
               int timeout_ms, Sp__KeeperResponse **ret, struct sp_why *why)
{
    const struct engine_keeper *keeper = e->options.keeper;
    void *keeper_self = e->options.keeper_self;
    uint64_t until = sp_clock_monotonic_ms(&sp_clock_system) + e->options.keeper_wait_ms;
    int r;
    do {
        r = read_at
                ? keeper->call_reading(keeper_self, request, read_at, self, timeout_ms, ret, why)
                : keeper->call(keeper_self, request, timeout_ms, ret, why);
    } while (r == -EHOSTUNREACH && sp_clock_monotonic_ms(&sp_clock_system) < until &&
             pause_for_keeper(e, cancel));
    return r;
}

const atomic_bool keeper_now_or_later = true;

static int ask(struct engine *e, const atomic_bool *cancel, Sp__KeeperRequest *request,
               Sp__KeeperResponse **ret, struct sp_why *why)
{
    return keeper_ask(e, cancel, request, NULL, NULL, RUN_KEEPER_TIMEOUT_MS, ret, why);
}

int keeper_pin(struct engine *e, const atomic_bool *cancel, const char *machine_id,
               const char *point_id, const char *const *volume_ids, size_t count,
               struct sp_why *why)
{
    Sp__PinRequest pin = SP__PIN_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    witness_machine(e, machine_id);
    pin.machine_id = (char *)machine_id;
    pin.point_id = (char *)point_id;
    pin.volume_ids = (char **)volume_ids;
    pin.n_volume_ids = count;
    request.kind_case = SP__KEEPER_REQUEST__KIND_PIN;
    request.pin = &pin;
    return ask(e, cancel, &request, &response, why);
}

int keeper_unpin(struct engine *e, const atomic_bool *cancel, const char *point_id, char **keep,
                 size_t count, struct sp_why *why)
{
    Sp__UnpinRequest unpin = SP__UNPIN_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    unpin.point_id = (char *)point_id;
    unpin.keep_record_ids = keep;
    unpin.n_keep_record_ids = count;
    request.kind_case = SP__KEEPER_REQUEST__KIND_UNPIN;
    request.unpin = &unpin;
    return ask(e, cancel, &request, &response, why);
}

int keeper_known_volumes(struct engine *e, const atomic_bool *cancel, const char *machine_id,
                         char ***ids, size_t *count, struct sp_why *why)
{
    Sp__ListKeysRequest list = SP__LIST_KEYS_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    list.machine = (char *)machine_id;
    request.kind_case = SP__KEEPER_REQUEST__KIND_LIST_KEYS;
    request.list_keys = &list;
    int r = ask(e, cancel, &request, &response, why);
    if (r < 0)
        return r;
    if (response->kind_case != SP__KEEPER_RESPONSE__KIND_LIST_KEYS)
        return -EPROTO;
    for (size_t i = 0; i < response->list_keys->n_records && r == 0; i++)
        r = message_append_text(ids, count, response->list_keys->records[i]->volume_id);
    return r;
}

int keeper_status(struct engine *e, Sp__KeeperResponse **ret, struct sp_why *why)
{
    Sp__KeeperStatusRequest status = SP__KEEPER_STATUS_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    request.kind_case = SP__KEEPER_REQUEST__KIND_STATUS;
    request.status = &status;
    int r = ask(e, NULL, &request, &response, why);
    if (r < 0)
        return r;
    if (response->kind_case != SP__KEEPER_RESPONSE__KIND_STATUS)
        return -EPROTO;
    *ret = sp_steal(response);
    return 0;
}

int keeper_seal(struct engine *e, const Sp__Manifest *manifest, Sp__Signed **ret,
                struct sp_why *why)
{
    uint8_t *packed SP_FREE = NULL;
    size_t size = 0;
    int r = sp_pack(&manifest->base, &packed, &size);
    if (r < 0)
        return r;
    Sp__SealRequest seal = SP__SEAL_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    seal.manifest = (ProtobufCBinaryData){size, packed};
    request.kind_case = SP__KEEPER_REQUEST__KIND_SEAL;
    request.seal = &seal;
    r = keeper_ask(e, NULL, &request, NULL, NULL, RUN_PROVE_TIMEOUT_MS, &response, why);
    if (r < 0)
        return r;
    Sp__Signed *sealed =
        response->kind_case == SP__KEEPER_RESPONSE__KIND_SEAL ? response->seal->manifest : NULL;
    /* What was signed must be what was asked for, to the byte. */
    if (!sealed || sealed->n_signatures == 0 || sealed->payload.len != size ||
        memcmp(sealed->payload.data, packed, size) != 0)
        return sp_why_set(why, -EPROTO, "the keeper sealed something else than the manifest");
    response->seal->manifest = NULL;
    *ret = sealed;
    return 0;
}

int keeper_copy_to(struct engine *e, struct vault *vault, char ret_name[128], uint64_t *ret_epoch,
                   struct sp_why *why)
{
    Sp__KeystoreCopyRequest copy = SP__KEYSTORE_COPY_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    request.kind_case = SP__KEEPER_REQUEST__KIND_KEYSTORE_COPY;
    request.keystore_copy = &copy;
    int r = ask(e, NULL, &request, &response, why);
    if (r < 0)
        return r;
    if (response->kind_case != SP__KEEPER_RESPONSE__KIND_KEYSTORE_COPY ||
        response->keystore_copy->copy.len == 0)
        return sp_why_set(why, -EPROTO, "the keeper gave no copy of the keystore");
    const Sp__KeystoreCopyResponse *got = response->keystore_copy;
    r = vault_put_keystore_copy(vault, got->epoch, got->copy.data, got->copy.len, ret_name, why);
    if (r == 0)
        *ret_epoch = got->epoch;
    return r;
}

/* Whether any CA of the bundle signed the keeper's keys. */
static int vouched(const char *trust_path, const Sp__Signed *keys, struct sp_why *why)
{
    FILE *file SP_FILE = fopen(trust_path, "re");
    if (!file)
        return sp_why_set(why, -errno, "cannot read the trust bundle %s: %s", trust_path,
                          strerror(errno));
    int r = -EKEYREJECTED;
    X509 *ca;
    while (r != 0 && (ca = PEM_read_X509(file, NULL, NULL, NULL))) {
        r = sp_signed_verify(keys, SP_SIGN_KEEPER_KEYS, X509_get0_pubkey(ca));
        X509_free(ca);
    }
    return r == 0 ? 0
                  : sp_why_set(why, -EKEYREJECTED,
                               "the keeper's sealing key is not signed by a CA of %s", trust_path);
}

static int fetch_sealing_key(struct engine *e, uint8_t **ret, size_t *ret_size, struct sp_why *why)
{
    Sp__KeeperKeysRequest keys = SP__KEEPER_KEYS_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    request.kind_case = SP__KEEPER_REQUEST__KIND_KEYS;
    request.keys = &keys;
    int r = ask(e, NULL, &request, &response, why);
    if (r < 0)
        return r;
    if (response->kind_case != SP__KEEPER_RESPONSE__KIND_KEYS || !response->keys->keys)
        return -EPROTO;
    const Sp__Signed *message = response->keys->keys;
    if (e->options.trust_path) {
        r = vouched(e->options.trust_path, message, why);
        if (r < 0)
            return r;
    }
    Sp__KeeperKeys *said =
        sp__keeper_keys__unpack(NULL, message->payload.len, message->payload.data);
    if (!said)
        return -EPROTO;
    *ret = NULL;
    if (said->sealing_public_key.len > 0) {
        *ret = said->sealing_public_key.data;
        *ret_size = said->sealing_public_key.len;
        said->sealing_public_key = (ProtobufCBinaryData){0, NULL};
    }
    message_free(said);
    return *ret ? 0 : -EPROTO;
}

int engine_sealing_key(struct engine *e, struct sp_bytes *ret, struct sp_why *why)
{
    pthread_mutex_lock(&e->lock);
    bool known = e->sealing_key != NULL;
    pthread_mutex_unlock(&e->lock);
    if (!known) {
        uint8_t *key = NULL;
        size_t size = 0;
        int r = fetch_sealing_key(e, &key, &size, why);
        if (r < 0)
            return r;
        pthread_mutex_lock(&e->lock);
        if (!e->sealing_key) {
            e->sealing_key = sp_steal(key);
            e->sealing_key_size = size;
        }
        pthread_mutex_unlock(&e->lock);
        free(key);
    }
    /* Once set it never changes, so the view stays good without the lock. */
    *ret = (struct sp_bytes){e->sealing_key, e->sealing_key_size};
    return 0;
}
