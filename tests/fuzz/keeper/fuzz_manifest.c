/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Any manifest, also with statements in it that the keeper signed: nothing crashes, and none of
 * them is fit to be valid without a proof. */
#include "base/cleanup.h"
#include "base/signed_request.h"
#include "controller/keeper/manifest_rules.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Signs every proof in it, so that the checks behind the signature are reached. */
static uint8_t *sign_proofs(EVP_PKEY *key, const uint8_t *data, size_t size, size_t *ret_size)
{
    uint8_t *packed = NULL;
    Sp__Manifest *m = sp__manifest__unpack(NULL, size, data);
    if (!m)
        return NULL;
    for (size_t i = 0; i < m->n_proofs; i++) {
        Sp__Signed *made = NULL;
        if (sp_signed_make(key, SP_SIGN_PROOF, m->proofs[i]->payload.data,
                           m->proofs[i]->payload.len, &made) < 0)
            continue;
        sp__signed__free_unpacked(m->proofs[i], NULL);
        m->proofs[i] = made;
    }
    if (sp_pack(&m->base, &packed, ret_size) < 0)
        packed = NULL;
    sp__manifest__free_unpacked(m, NULL);
    return packed;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static EVP_PKEY *key;
    struct sp_why why = {""};
    JUDGED struct judged j = {0};
    uint8_t digest[32];
    size_t signed_size = 0;

    if (!key)
        key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    SP_FREE uint8_t *packed = sign_proofs(key, data, size, &signed_size);
    if (!packed || manifest_judge(packed, signed_size, key, true, &j, &why) < 0)
        return 0;
    manifest_disks_digest(j.manifest, digest);
    if (manifest_supports_valid(&j, &why) == 0)
        for (size_t i = 0; i < j.manifest->n_volumes; i++) {
            const Sp__Volume *v = j.manifest->volumes[i];
            bool excepted = j.manifest->policy && j.manifest->policy->n_exceptions > 0;
            if (v->kind != SP__VOLUME_KIND__VOLUME_KIND_CLEAR && !v->ephemeral && !excepted &&
                !manifest_opening(&j, v->volume_id))
                abort();
        }
    return 0;
}
