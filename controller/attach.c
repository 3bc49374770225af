/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/bytes.h"
#include "base/file.h"
#include "base/log.h"
#include "controller/catalog/catalog.h"
#include "controller/init.h"
#include "controller/keeper/keeper_client.h"
#include "controller/message.h"
#include "controller/mover/vault/vault.h"
#include <dirent.h>
#include <fcntl.h>
#include <string.h>

enum { RESTORE_TIMEOUT_MS = 600000, COPY_MOST = 64 << 20, EPOCH_DIGITS = 20 };

/* ---- the newest copy of the keystore ---- */

/* "EPOCH-HASH": 20 digits, 64 hex digits. */
static bool is_copy_name(const char *name)
{
    return strspn(name, "0123456789") == EPOCH_DIGITS && name[EPOCH_DIGITS] == '-' &&
           strspn(name + EPOCH_DIGITS + 1, "0123456789abcdef") == 64 &&
           strlen(name) == EPOCH_DIGITS + 65;
}

static int only_copies(const struct dirent *entry)
{
    return is_copy_name(entry->d_name);
}

static int newest_first(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*b)->d_name, (*a)->d_name);
}

/* Whole, and what its name says that it is. */
static int read_copy(const char *folder, const char *name, char **ret, size_t *ret_size)
{
    char *path SP_FREE = sp_format("%s/%s", folder, name);
    char *data SP_FREE = NULL;
    uint8_t sum[32];
    size_t size = 0;
    int r = path ? sp_file_read(path, COPY_MOST, &data, &size) : -ENOMEM;
    if (r == 0)
        r = sp_sha256_of(data, size, sum);
    if (r == 0 && strcmp(SP_HEX32(sum), name + EPOCH_DIGITS + 1) != 0)
        r = -EBADMSG;
    if (r == 0) {
        *ret = sp_steal(data);
        *ret_size = size;
    }
    return r;
}

/* A damaged one is passed over: the one before it misses the newest keys, and the pins come back by
 * reconciling. */
static int find_copy(const char *vault, char **ret, size_t *ret_size, struct sp_why *why)
{
    char *folder SP_FREE = sp_format("%s/keystore", vault);
    struct dirent **names = NULL;
    int count = folder ? scandir(folder, &names, only_copies, newest_first) : -1;
    if (count < 0)
        return sp_why_set(why, -errno, "%s is no vault that can be read: %s", vault,
                          strerror(errno));
    int r = sp_why_set(why, -ENOENT, "the vault %s holds no copy of a keystore", vault);
    for (int i = 0; i < count; i++) {
        if (r < 0 && (r = read_copy(folder, names[i]->d_name, ret, ret_size)) < 0) {
            sp_log_error("copy of the keystore passed over", r, NULL, "copy", names[i]->d_name,
                         NULL);
            r = sp_why_set(why, r, "no copy of the keystore in %s can be read", folder);
        }
        free(names[i]);
    }
    free(names);
    return r;
}

/* ---- the keeper ---- */

static int get_status(struct keeper_client *keeper, Sp__KeeperResponse **ret, struct sp_why *why)
{
    Sp__KeeperStatusRequest status = SP__KEEPER_STATUS_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_STATUS;
    request.status = &status;
    int r = keeper_call(keeper, &request, -1, RESTORE_TIMEOUT_MS, ret, why);
    return r == 0 && (*ret)->kind_case != SP__KEEPER_RESPONSE__KIND_STATUS ? -EPROTO : r;
}

static int restore(struct keeper_client *keeper, const struct init_options *o,
                   const struct init_material *m, struct sp_bytes copy, int kit_fd,
                   Sp__KeeperResponse **ret, struct sp_why *why)
{
    Sp__RestoreRequest ask = SP__RESTORE_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    ask.copy = (ProtobufCBinaryData){copy.size, (uint8_t *)(uintptr_t)copy.data};
    ask.controller_name = (char *)(uintptr_t)o->name;
    ask.controller_csr = init_controller_csr(m);
    ask.controller_hosts = o->hosts;
    ask.n_controller_hosts = o->host_count;
    ask.user_name = (char *)(uintptr_t)o->user;
    ask.user_csr = init_user_csr(m);
    request.kind_case = SP__KEEPER_REQUEST__KIND_RESTORE;
    request.restore = &ask;
    int r = keeper_call(keeper, &request, kit_fd, RESTORE_TIMEOUT_MS, ret, why);
    return r == 0 && (*ret)->kind_case != SP__KEEPER_RESPONSE__KIND_RESTORE ? -EPROTO : r;
}

static int bring_back(struct keeper_client *keeper, const struct init_options *o,
                      const struct init_material *m, const char *vault, const char *kit,
                      Sp__KeeperResponse **ret, struct sp_why *why)
{
    Sp__KeeperResponse *status SP_CLEANUP(keeper_response) = NULL;
    char *copy SP_FREE = NULL;
    size_t size = 0;
    int kit_fd SP_FD = open(kit, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (kit_fd < 0)
        return sp_why_set(why, -errno, "cannot open %s: %s", kit, strerror(errno));
    int r = get_status(keeper, &status, why);
    if (r == 0 && status->status->initialised)
        sp_log(SP_LOG_INFO, "the keeper has a keystore, which stays", "domain",
               status->status->domain, NULL);
    else if (r == 0)
        r = find_copy(vault, &copy, &size, why);
    return r < 0
               ? r
               : restore(keeper, o, m, (struct sp_bytes){(uint8_t *)copy, size}, kit_fd, ret, why);
}

/* ---- the catalog ---- */

static int make_entry(const char *vault, Sp__DirectoryVault *directory, Sp__VaultConfig *config,
                      Sp__Vault *entry, struct vault **ret, struct sp_why *why)
{
    directory->path = (char *)(uintptr_t)vault;
    config->kind_case = SP__VAULT_CONFIG__KIND_DIRECTORY;
    config->directory = directory;
    int r = vault_open(config, NULL, NULL, ret, why);
    if (r < 0)
        return r;
    entry->vault_id = (char *)(uintptr_t)vault_id(*ret);
    entry->name = (char *)(uintptr_t) "main";
    entry->config = config;
    return 0;
}

/* The daemon takes the points over when it starts, since it knows the vault then. */
static int add_vault(const struct controller_config *c, const char *vault, struct sp_why *why)
{
    Sp__DirectoryVault directory = SP__DIRECTORY_VAULT__INIT;
    Sp__VaultConfig config = SP__VAULT_CONFIG__INIT;
    Sp__Vault entry = SP__VAULT__INIT;
    char *path SP_FREE = sp_format("%s/catalog.db", c->state);
    struct catalog *catalog = NULL;
    struct vault *v = NULL;
    if (!path)
        return -ENOMEM;
    int r = make_entry(vault, &directory, &config, &entry, &v, why);
    if (r == 0)
        r = catalog_open(path, &catalog, why);
    if (r == 0 && (r = catalog_vault_add(catalog, &entry)) == -EEXIST)
        r = 0; /* a second try */
    catalog_close(catalog);
    vault_close(v);
    static const char *const names[] = {"catalog.db", "catalog.db-wal", "catalog.db-shm"};
    for (size_t i = 0; i < SP_COUNT(names) && r == 0; i++) {
        char *file SP_FREE = sp_format("%s/%s", c->state, names[i]);
        if (file && access(file, F_OK) == 0)
            r = init_own(c->state, file);
    }
    return r < 0 && !*why->text
               ? sp_why_set(why, r, "cannot write the catalog in %s: %s", c->state, strerror(-r))
               : r;
}

int attach_run(const struct controller_config *c, const struct init_options *options,
               const char *vault, const char *kit, struct sp_why *why)
{
    Sp__KeeperResponse *restored SP_CLEANUP(keeper_response) = NULL;
    Sp__KeeperResponse *status SP_CLEANUP(keeper_response) = NULL;
    char *folder SP_FREE = realpath(vault, NULL);
    struct init_options o = *options;
    struct init_material *m = NULL;
    struct keeper_client *keeper = NULL;
    if (!folder)
        return sp_why_set(why, -errno, "cannot open %s: %s", vault, strerror(errno));
    int r = init_prepare(c, &o, &m, why);
    if (r == 0)
        r = keeper_client_new(c->keeper_socket, &keeper);
    if (r == 0)
        r = bring_back(keeper, &o, m, folder, kit, &restored, why);
    if (r == 0)
        r = get_status(keeper, &status, why);
    if (r == 0)
        r = add_vault(c, folder, why);
    if (r == 0) {
        o.domain = status->status->domain;
        r = init_write(c, &o, restored->restore, why);
    }
    keeper_client_free(keeper);
    init_material_free(m);
    return r;
}
