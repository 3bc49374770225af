/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Manifests and their names. */
#include "controller/mover/vault/manifest.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Sp__Signed *s = NULL;
    Sp__Manifest *m = NULL;
    struct sp_why why;
    if (manifest_parse(data, size, &s, &m, &why) == 0) {
        for (size_t i = 0; i < m->n_disks; i++)
            if (m->disks[i]->root.len != VAULT_ADDRESS_BYTES || m->disks[i]->size_bytes == 0)
                abort();
        if (!vault_id_valid(m->machine_id) || !vault_id_valid(m->point_id))
            abort();
        sp__manifest__free_unpacked(m, NULL);
        sp__signed__free_unpacked(s, NULL);
    }
    /* A payload by itself, so that the fuzzer need not find the envelope. */
    Sp__Signed envelope = SP__SIGNED__INIT;
    envelope.payload = (ProtobufCBinaryData){size, (uint8_t *)(uintptr_t)data};
    uint8_t *packed = NULL;
    size_t packed_size = 0;
    if (sp_pack(&envelope.base, &packed, &packed_size) == 0 &&
        manifest_parse(packed, packed_size, &s, &m, &why) == 0) {
        sp__manifest__free_unpacked(m, NULL);
        sp__signed__free_unpacked(s, NULL);
    }
    free(packed);
    char name[128];
    struct manifest_name n;
    size_t length = size < sizeof name - 1 ? size : sizeof name - 1;
    memcpy(name, data, length);
    name[length] = 0;
    if (manifest_name_parse(name, &n) == 0) {
        char again[VAULT_NAME_MAX];
        if (strcmp(manifest_name_text(&n, again), name))
            abort();
    }
    return 0;
}
