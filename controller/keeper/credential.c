/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/credential.h"

#include "base/cleanup.h"
#include "base/file.h"
#include <string.h>

size_t credential_trim(struct sp_secret *s)
{
    size_t size = sp_secret_size(s);
    if (size > 0 && sp_secret_data(s)[size - 1] == '\n')
        sp_secret_shrink(s, --size);
    return size;
}

int credential_read(const char *name, size_t most, struct sp_secret **ret, struct sp_why *why)
{
    const char *folder = getenv("CREDENTIALS_DIRECTORY");
    if (strchr(name, '/') || name[0] == '.')
        return sp_why_set(why, -EINVAL, "'%s' is no name of a credential", name);
    if (!folder)
        return sp_why_set(why, -EACCES,
                          "systemd handed over no credentials: LoadCredentialEncrypted=%s:… in the "
                          "unit does",
                          name);
    SP_FREE char *path = sp_format("%s/%s", folder, name);
    int r = path ? sp_secret_read_file(path, most, ret) : -ENOMEM;
    if (r < 0)
        return sp_why_set(why, r == -ENOENT ? -EACCES : r, "cannot read the credential '%s'", name);
    if (credential_trim(*ret) == 0) {
        sp_secret_free(sp_steal(*ret));
        return sp_why_set(why, -EINVAL, "the credential '%s' is empty", name);
    }
    return 0;
}
