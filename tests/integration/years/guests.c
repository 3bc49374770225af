/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "guests.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "build.h"
#include <fcntl.h>
#include <libcryptsetup.h>
#include <string.h>
#include <sys/stat.h>

struct guest_volume guest_volumes[VOLUMES] = {
    [SYSTEM] = {.machine = "web1",
                .machine_id = "11111111-1111-4111-8111-111111111111",
                .disk = "system"},
    [DATA] = {.machine = "web1",
              .machine_id = "11111111-1111-4111-8111-111111111111",
              .disk = "data"},
    [DB] = {.machine = "db1", .machine_id = "22222222-2222-4222-8222-222222222222", .disk = "db"},
};

/* ---- images ---- */

static void shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void shell(const char *format, ...)
{
    char command[1000];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof(command), format, ap);
    va_end(ap);
    int status = system(command);
    if (status != 0)
        fail_msg("status %x: %s", status, command);
}

static struct crypt_device *open_luks(const char *path)
{
    struct crypt_device *cd = NULL;
    assert_int_equal(crypt_init(&cd, path), 0);
    assert_int_equal(crypt_metadata_locking(cd, 0), 0);
    assert_int_equal(crypt_load(cd, CRYPT_LUKS, NULL), 0);
    return cd;
}

static void make(struct guest_volume *v, const char *folder, bool luks2)
{
    v->path = sp_format("%s/%s.img", folder, v->disk);
    SP_FREE char *key = sp_format("%s/%s.key", folder, v->disk);
    snprintf(v->passphrase, sizeof(v->passphrase), "%s of the first day", v->disk);
    assert_int_equal(sp_file_replace(key, v->passphrase, strlen(v->passphrase), 0600), 0);
    shell("truncate -s 2M '%s' && mke2fs -q -t ext4 -F '%s'", v->path, v->path);
    if (luks2)
        shell("truncate -s +4M '%s' && cryptsetup -q reencrypt --encrypt --type luks2 --resilience "
              "none --key-size 256 --luks2-keyslots-size 512k --pbkdf pbkdf2 "
              "--pbkdf-force-iterations 1000 "
              "--reduce-device-size 4M --force-offline-reencrypt -d '%s' '%s'",
              v->path, key, v->path);
    else /* qemu-img gives up when a busy machine lets it measure nothing */
        shell("for i in $(seq 20); do qemu-img convert -f raw -O luks --object "
              "secret,id=k,file='%s' -o key-secret=k,iter-time=10,cipher-alg=aes-128 '%s' "
              "'%s.luks' 2>/dev/null && "
              "mv '%s.luks' '%s' && exit 0; done; exit 1",
              key, v->path, v->path, v->path, v->path);
    unlink(key);
    struct crypt_device *cd = open_luks(v->path);
    snprintf(v->volume_id, sizeof(v->volume_id), "luks:%s", crypt_get_uuid(cd));
    crypt_free(cd);
}

void guests_make(const char *folder)
{
    make(&guest_volumes[SYSTEM], folder, true);
    make(&guest_volumes[DATA], folder, false);
    make(&guest_volumes[DB], folder, false);
}

void guests_free(void)
{
    for (int i = 0; i < VOLUMES; i++)
        free((char *)(uintptr_t)guest_volumes[i].path);
}

void guests_roll_over(struct guest_volume *v, const char *passphrase)
{
    const struct crypt_pbkdf_type quick = {.type = CRYPT_KDF_PBKDF2,
                                           .hash = "sha256",
                                           .iterations = 1000,
                                           .flags = CRYPT_PBKDF_NO_BENCHMARK};
    struct crypt_device *cd = open_luks(v->path);
    assert_int_equal(crypt_set_pbkdf_type(cd, &quick), 0);
    int slot =
        crypt_keyslot_change_by_passphrase(cd, CRYPT_ANY_SLOT, CRYPT_ANY_SLOT, v->passphrase,
                                           strlen(v->passphrase), passphrase, strlen(passphrase));
    assert_true(slot >= 0);
    assert_int_equal(crypt_activate_by_passphrase(cd, NULL, CRYPT_ANY_SLOT, v->passphrase,
                                                  strlen(v->passphrase), 0),
                     -EPERM);
    crypt_free(cd);
    snprintf(v->passphrase, sizeof(v->passphrase), "%s", passphrase);
}

/* ---- the escrow systems ---- */

void escrow_put(struct escrow *e, const char *passphrase)
{
    assert_true(e->current + 1 < VERSIONS_MOST);
    e->versions[++e->current] = strdup(passphrase);
    if (e->most && e->current > e->most)
        escrow_delete(e, e->current - e->most);
}

void escrow_delete(struct escrow *e, unsigned version)
{
    free(e->versions[version]);
    e->versions[version] = NULL;
}

void escrow_free(struct escrow *e)
{
    for (unsigned i = 0; i < VERSIONS_MOST; i++)
        escrow_delete(e, i);
}

static bool serves(const struct provider *p, const Sp__Volume *v)
{
    const struct escrow *e = p->settings;
    return strcmp(v->volume_id, guest_volumes[e->volume].volume_id) == 0;
}

static int add(struct provider_items *out, const char *version)
{
    return provider_items_add(out, version, version, "", SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE);
}

static int lookup(const struct provider *p, const struct provider_query *q,
                  struct provider_items *out, provider_stage *stage, struct sp_why *why)
{
    const struct escrow *e = p->settings;
    char version[12];
    (void)stage;
    assert_string_equal(q->machine_id, guest_volumes[e->volume].machine_id);
    if (!e->versions[e->current])
        return sp_why_set(why, -ENOENT, "the key was deleted");
    snprintf(version, sizeof(version), "%u", e->current);
    return add(out, version);
}

static int recall(const struct provider *p, const Sp__EscrowRecord *record,
                  struct provider_items *out)
{
    (void)p;
    return add(out, record->version);
}

static int fetch(const struct provider *p, const struct provider_item *item, struct sp_secret **ret,
                 provider_stage *stage, struct sp_why *why)
{
    const struct escrow *e = p->settings;
    const char *passphrase = e->versions[atoi(item->locator) % VERSIONS_MOST];
    (void)stage;
    if (!passphrase)
        return sp_why_set(why, -ENOENT, "version %s is gone", item->version);
    *ret = sp_secret_copy(passphrase, strlen(passphrase));
    return *ret ? 0 : -ENOMEM;
}

static void describe(const struct provider *p, const struct provider_item *item, char *out,
                     size_t size)
{
    snprintf(out, size, "version %s at %s", item->version, p->name);
}

const struct provider_type escrow_type = {.name = "made-up",
                                          .settings_bytes = sizeof(struct escrow),
                                          .serves = serves,
                                          .lookup = lookup,
                                          .fetch = fetch,
                                          .describe = describe,
                                          .recall = recall};

/* ---- the hypervisor ---- */

struct source_snapshot {
    int fds[VOLUMES];
    uint64_t sizes[VOLUMES];
};

static Sp__SourceDisk *disk_of(const struct guest_volume *v)
{
    struct stat st;
    Sp__SourceDisk *d = a_source_disk(v->disk, v->disk, "");
    assert_int_equal(stat(v->path, &st), 0);
    d->size_bytes = (uint64_t)st.st_size;
    return d;
}

static int describe_machine(const Sp__DescribeRequest *request, Sp__DescribeResponse **ret,
                            struct sp_why *why)
{
    (void)why;
    *ret = message_new(&sp__describe_response__descriptor);
    for (int i = 0; i < VOLUMES; i++)
        if (strcmp(guest_volumes[i].machine, request->source->qemu->qmp_socket) == 0)
            ADD(*ret, disks, disk_of(&guest_volumes[i]));
    return 0;
}

static int snapshot(const Sp__SnapshotRequest *request, source_journal_fn *journal,
                    void *journal_self, struct source_snapshot **ret,
                    Sp__SnapshotResponse **ret_response, struct sp_why *why)
{
    struct source_snapshot *s = calloc(1, sizeof(*s));
    (void)why;
    assert_int_equal(journal(journal_self, "nothing to undo"), 0);
    *ret_response = message_new(&sp__snapshot_response__descriptor);
    for (size_t i = 0; i < request->n_disk_ids; i++) {
        const struct guest_volume *v = guest_volumes;
        while (strcmp(v->disk, request->disk_ids[i]) != 0)
            v++;
        Sp__SourceDisk *d = disk_of(v);
        s->fds[i] = open(v->path, O_RDONLY | O_CLOEXEC);
        s->sizes[i] = d->size_bytes;
        assert_true(s->fds[i] >= 0);
        ADD(*ret_response, disks, d);
    }
    *ret = s;
    return message_set(&(*ret_response)->journal, "nothing to undo");
}

static int read_at(struct source_snapshot *s, uint32_t disk, uint64_t offset, void *out,
                   uint32_t length, struct sp_why *why)
{
    (void)why;
    return sp_pread_all(s->fds[disk], out, length, offset);
}

static int next_data(struct source_snapshot *s, uint32_t disk, uint64_t offset,
                     uint64_t *ret_offset, uint64_t *ret_length, struct sp_why *why)
{
    (void)why;
    *ret_offset = offset;
    *ret_length = s->sizes[disk] - offset;
    return offset < s->sizes[disk];
}

static bool broken(struct source_snapshot *s)
{
    (void)s;
    return false;
}

static void close_snapshot(struct source_snapshot *s)
{
    for (int i = 0; i < VOLUMES; i++)
        if (s->sizes[i])
            close(s->fds[i]);
    free(s);
}

static int release(const Sp__ReleaseSnapshotRequest *request, Sp__ReleaseSnapshotResponse **ret,
                   struct sp_why *why)
{
    (void)request;
    (void)why;
    *ret = message_new(&sp__release_snapshot_response__descriptor);
    (*ret)->nothing_left = 1;
    return 0;
}

const struct source *guests_source(const Sp__SourceConfig *config)
{
    static const struct source row = {.name = "image files",
                                      .kind = SP__SOURCE_CONFIG__KIND_QEMU,
                                      .describe = describe_machine,
                                      .snapshot = snapshot,
                                      .read_at = read_at,
                                      .next_data = next_data,
                                      .broken = broken,
                                      .close = close_snapshot,
                                      .release = release};
    return config->kind_case == SP__SOURCE_CONFIG__KIND_QEMU ? &row : NULL;
}
