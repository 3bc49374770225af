/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A keystore copy comes from a vault that anybody may have written to. */
#include "controller/keeper/copy.h"
#include "controller/keeper/keeper.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[] = "/tmp/sealpoint-fuzz-copy.XXXXXX";
static struct keeper *empty;

static void remove_state(void)
{
    static const char *const files[] = {"keystore.db", "keystore.db-wal", "keystore.db-shm",
                                        "lock"};
    keeper_close(empty);
    if (chdir(folder) == 0) {
        for (size_t i = 0; i < SP_COUNT(files); i++)
            unlink(files[i]);
    }
    rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const struct keeper_options options = {.state = folder};
    struct sp_why why = {""};
    (void)argc;
    (void)argv;
    if (!mkdtemp(folder) || atexit(remove_state) != 0 || keeper_open(&options, &empty, &why) < 0)
        abort();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char magic[] = "sealpoint keystore copy 1\n";
    struct sp_why why = {""};
    SP_SECRET struct sp_secret *kit = sp_secret_new(KEK_KIT_BYTES);
    SP_SECRET struct sp_secret *text = sp_secret_copy(data, size);
    SP_SECRET struct sp_secret *parsed = NULL;
    SP_BUFFER struct sp_buffer copy = {0};

    if (!kit || sp_buffer_append(&copy, magic, sizeof(magic) - 1) < 0 ||
        sp_buffer_append(&copy, data, size) < 0)
        return 0;
    copy_restore_into(empty, kit, (struct sp_bytes){data, size}, &why);
    /* And with the beginning that every copy has. */
    copy_restore_into(empty, kit, (struct sp_bytes){copy.data, copy.size}, &why);
    if (text)
        copy_parse_kit(text, &parsed, &why);
    return 0;
}
