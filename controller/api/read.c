/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What reads a vault for as long as its caller wants: a disk of a point, a check. */
#include "controller/api/api.h"
#include "controller/mover/vault/ahead.h"
#include <string.h>

enum { BLOCK_BYTES = 1 << 20 };

/* ---- a manifest ---- */

static int send_manifest(struct rpc_call *call, const Sp__Signed *sealed)
{
    size_t at = 0;
    int r;
    do {
        Sp__ManifestPart part = SP__MANIFEST_PART__INIT;
        size_t left = sealed->payload.len - at;
        part.payload.data = sealed->payload.data + at;
        part.payload.len = left < BLOCK_BYTES ? left : BLOCK_BYTES;
        at += part.payload.len;
        part.last = at == sealed->payload.len;
        if (part.last) {
            part.signatures = sealed->signatures;
            part.n_signatures = sealed->n_signatures;
        }
        r = api_send(call, &part.base);
    } while (r == 0 && at < sealed->payload.len);
    return r;
}

int api_read_manifest(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                      ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__GetPointRequest *asked = (const void *)request;
    Sp__Signed *sealed SP_CLEANUP(signed_message) = NULL;
    Sp__Manifest *m SP_CLEANUP(manifest) = NULL;
    bool good = false;
    (void)ret;
    int r = engine_manifest(api->engine, asked->point, &sealed, &m, &good, why);
    if (r == 0)
        r = api_allow_machine_id(api, call, m->machine_id, why);
    return r < 0 ? r : send_manifest(call, sealed);
}

/* ---- a disk ---- */

struct stream {
    struct rpc_call *call;
    struct vault_ahead *ahead;
    const Sp__DiskImage *disk;
    uint64_t sent;
};

static int send_block(struct stream *s, uint64_t offset, const uint8_t *bytes, uint32_t length)
{
    if (sp_is_zero(bytes, length))
        return 0;
    Sp__DataBlock block = SP__DATA_BLOCK__INIT;
    Sp__DiskData data = SP__DISK_DATA__INIT;
    block.offset_bytes = offset;
    block.bytes = (ProtobufCBinaryData){length, (uint8_t *)(uintptr_t)bytes}; /* only read */
    data.kind_case = SP__DISK_DATA__KIND_DATA;
    data.data = &block;
    s->sent += length;
    return api_send(s->call, &data.base);
}

static int send_all(struct stream *s, struct sp_why *why)
{
    uint64_t offset;
    uint32_t length;
    const uint8_t *bytes;
    int r;
    while ((r = vault_ahead_next(s->ahead, &offset, &bytes, &length, why)) == 1) {
        r = send_block(s, offset, bytes, length);
        if (r < 0)
            return r;
    }
    return r;
}

static int send_start(struct stream *s)
{
    Sp__DiskData data = SP__DISK_DATA__INIT;
    data.kind_case = SP__DISK_DATA__KIND_START;
    data.start = (Sp__DiskImage *)s->disk;
    return api_send(s->call, &data.base);
}

static int send_end(struct stream *s)
{
    Sp__DiskEnd end = SP__DISK_END__INIT;
    Sp__DiskData data = SP__DISK_DATA__INIT;
    end.root = s->disk->root;
    end.data_bytes = s->sent;
    data.kind_case = SP__DISK_DATA__KIND_END;
    data.end = &end;
    return api_send(s->call, &data.base);
}

static const Sp__DiskImage *find_disk(const Sp__Manifest *m, const char *disk_id)
{
    for (size_t i = 0; i < m->n_disks; i++) {
        if (strcmp(m->disks[i]->disk_id, disk_id) == 0)
            return m->disks[i];
    }
    return NULL;
}

static int stream_disk(struct api *api, struct stream *s, const Sp__Manifest *m, uint64_t from,
                       struct sp_why *why)
{
    struct vault *vault = NULL;
    if (s->disk->root.len != 32)
        return sp_why_set(why, -EBADMSG, "the manifest names no root for disk %s",
                          s->disk->disk_id);
    /* Clear chunks are encrypted under the vault's key. */
    int r = engine_vault(api->engine, m->vault_id, true, &vault, why);
    if (r == 0)
        r = vault_ahead_new(vault, s->disk->root.data, s->disk->size_bytes, from, &s->ahead, why);
    if (r == 0)
        r = send_start(s);
    if (r == 0)
        r = send_all(s, why);
    if (r == 0)
        r = send_end(s);
    vault_ahead_free(s->ahead);
    return r;
}

int api_read_disk(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                  ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__ReadDiskRequest *asked = (const void *)request;
    Sp__Signed *sealed SP_CLEANUP(signed_message) = NULL;
    Sp__Manifest *m SP_CLEANUP(manifest) = NULL;
    bool good = false;
    (void)ret;
    int r = engine_manifest(api->engine, asked->point, &sealed, &m, &good, why);
    if (r == 0)
        r = api_allow_machine_id(api, call, m->machine_id, why);
    if (r < 0)
        return r;
    struct stream s = {.call = call, .disk = find_disk(m, asked->disk_id)};
    if (!s.disk)
        return sp_why_set(why, -ENOENT,
                          "point %s has no disk '%s': 'sealpoint point show' lists them",
                          m->point_id, asked->disk_id);
    if (asked->from_offset_bytes > s.disk->size_bytes)
        return sp_why_set(why, -EINVAL, "disk %s ends before byte %llu", asked->disk_id,
                          (unsigned long long)asked->from_offset_bytes);
    api_audit(api, call, "point.read", m->point_id, "disk %s", asked->disk_id);
    return stream_disk(api, &s, m, asked->from_offset_bytes, why);
}

/* ---- a check ---- */

static int send_progress(void *arg, const Sp__CheckProgress *progress)
{
    return api_send(arg, &progress->base);
}

int api_check_vault(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                    ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__CheckVaultRequest *asked = (const void *)request;
    (void)ret;
    int r = api_allow(api, call, "", why);
    if (r == 0)
        r = engine_check_vault(api->engine, asked->vault, asked->read_data, send_progress, call,
                               why);
    return r;
}
