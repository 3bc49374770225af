/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What people hand over for BitLocker: a startup key file (first byte even) or the text of a
 * recovery password (odd). */
#include "base/bytes.h"
#include "controller/keeper/prover/bitlocker_key.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    SP_SECRET struct sp_secret *in = sp_secret_copy(data + 1, size - 1), *out = NULL;
    struct sp_why why = {0};
    char guid[37];
    if (!in)
        return 0;
    if (data[0] & 1) {
        if (bitlocker_recovery_password(in, &out, &why) == 0 && sp_secret_size(out) != 16)
            abort();
    } else if (bitlocker_startup_key(in, guid, &out) == 0 && sp_secret_size(out) != 32) {
        abort();
    }
    return 0;
}
