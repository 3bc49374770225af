/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "point.h"

#include <string.h>

#define NEW(type, init)                                                                            \
    ({                                                                                             \
        type *new_ = malloc(sizeof(*new_));                                                        \
        init(new_);                                                                                \
        new_;                                                                                      \
    })

void set_text(char **field, const char *text)
{
    if (*field != (const char *)protobuf_c_empty_string)
        free(*field);
    *field = strdup(text);
}

static void set_bytes(ProtobufCBinaryData *field, const void *data, size_t size)
{
    free(field->data);
    field->data = malloc(size);
    memcpy(field->data, data, size);
    field->len = size;
}

static void add_disk(Sp__Manifest *m)
{
    uint8_t root[32];
    Sp__DiskImage *d = NEW(Sp__DiskImage, sp__disk_image__init);
    memset(root, 0xaa, sizeof(root));
    set_text(&d->disk_id, DISK);
    d->size_bytes = 64 << 20;
    set_bytes(&d->root, root, sizeof(root));
    m->disks = malloc(sizeof(*m->disks));
    m->disks[0] = d;
    m->n_disks = 1;
}

static void add_volume(Sp__Manifest *m, const char *volume)
{
    Sp__Volume *v = NEW(Sp__Volume, sp__volume__init);
    set_text(&v->volume_id, volume);
    v->kind = SP__VOLUME_KIND__VOLUME_KIND_LUKS2;
    v->header = NEW(Sp__HeaderFacts, sp__header_facts__init);
    set_bytes(&v->header->fingerprint, fake.fingerprint, 32);
    m->volumes = realloc(m->volumes, (m->n_volumes + 1) * sizeof(*m->volumes));
    m->volumes[m->n_volumes++] = v;
}

/* What the controller asks for before it seals. */
static void add_keystore(struct rig *r, Sp__Manifest *m)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperStatusRequest status = SP__KEEPER_STATUS_REQUEST__INIT;
    Sp__KeystoreCopyRequest copy = SP__KEYSTORE_COPY_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_KEYSTORE_COPY;
    request.keystore_copy = &copy;
    ANSWER c = rig_call(r, &request);
    m->keystore_epoch = c->keystore_copy->epoch;
    set_text(&m->keystore_copy, "keystore/1");
    request.kind_case = SP__KEEPER_REQUEST__KIND_STATUS;
    request.status = &status;
    ANSWER s = rig_call(r, &request);
    set_bytes(&m->keeper_audit_head, s->status->audit_head.data, s->status->audit_head.len);
}

void point_add_volume(struct rig *r, struct point *p, const char *volume)
{
    Sp__Manifest *m = p->manifest;
    add_volume(m, volume);
    m->proofs = realloc(m->proofs, (m->n_proofs + 1) * sizeof(*m->proofs));
    struct proof_options o = {
        .machine = m->machine_id, .point = m->point_id, .volume = volume, .root = 0xaa};
    Sp__ProofStatement *s = prove(r, o, &m->proofs[m->n_proofs++]);
    assert_int_equal(s->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_OPENS);
    sp__proof_statement__free_unpacked(s, NULL);
    add_keystore(r, m);
}

struct point point_make_for(struct rig *r, const char *machine, const char *point)
{
    struct point p = {.manifest = NEW(Sp__Manifest, sp__manifest__init)};
    Sp__Manifest *m = p.manifest;
    fake.opens = "open sesame";
    import_key(r, machine, VOLUME, "", "open sesame", p.record_id);
    pin_point(r, point, machine, VOLUME);
    m->format = 1;
    set_text(&m->machine_id, machine);
    set_text(&m->point_id, point);
    m->grade = SP__GRADE__GRADE_FILESYSTEM;
    m->state_at_seal = SP__POINT_STATE__POINT_STATE_VALID;
    add_disk(m);
    point_add_volume(r, &p, VOLUME);
    return p;
}

struct point point_make(struct rig *r)
{
    return point_make_for(r, MACHINE, POINT);
}

void point_free(struct point *p)
{
    sp__manifest__free_unpacked(p->manifest, NULL);
}

static Sp__KeeperRequest seal_request(const struct point *p, Sp__SealRequest *ask)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    sp__seal_request__init(ask);
    assert_int_equal(sp_pack(&p->manifest->base, &ask->manifest.data, &ask->manifest.len), 0);
    request.kind_case = SP__KEEPER_REQUEST__KIND_SEAL;
    request.seal = ask;
    return request;
}

Sp__Signed *seal_point(struct rig *r, const struct point *p)
{
    Sp__SealRequest ask;
    Sp__KeeperRequest request = seal_request(p, &ask);
    ANSWER a = rig_call(r, &request);
    assert_int_equal(a->seal->manifest->payload.len, ask.manifest.len);
    assert_memory_equal(a->seal->manifest->payload.data, ask.manifest.data, ask.manifest.len);
    free(ask.manifest.data);
    return (Sp__Signed *)sp_message_copy(&a->seal->manifest->base);
}

void seal_refused(struct rig *r, const struct point *p, int error, const char *text)
{
    Sp__SealRequest ask;
    Sp__KeeperRequest request = seal_request(p, &ask);
    rig_refused(r, &request, error, text);
    assert_true(audit_has(r, "seal.refused", text));
    free(ask.manifest.data);
}
