/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A controller that lies: the one program that may speak to the keeper asks a real keeper process
 * for what nobody allowed it. Each lie is refused, and each is in the audit. */
#include "point.h"
#include "process.h"

#include "base/file.h"
#include "base/sealed_box.h"
#include "base/signed_request.h"
#include <string.h>

#define RELEASE "/sealpoint.v1.Keys/Release"

static struct process process;

static int setup(void **state)
{
    *state = process_rig(&process);
    return 0;
}

static int teardown(void **state)
{
    process_rig_free(*state, &process);
    return 0;
}

/* A manifest as it might be sealed: any; what is wrong with it comes after the signature. */
static Sp__Signed *unsealed(void)
{
    Sp__Signed *s = malloc(sizeof(*s));
    sp__signed__init(s);
    s->payload.data = calloc(1, 8);
    s->payload.len = 8;
    return s;
}

static void refused(struct rig *r, Sp__KeeperRequest *request, int error, const char *text,
                    const char *audited)
{
    rig_refused(r, request, error, text);
    if (!audit_has(r, audited, text))
        fail_msg("the audit has no %s with '%s'", audited, text);
}

static void test_a_release_without_a_signature(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ReleaseForRequest ask = SP__RELEASE_FOR_REQUEST__INIT;
    Sp__SignedRequest forged = SP__SIGNED_REQUEST__INIT;
    Sp__Signed *manifest = unsealed();
    request.kind_case = SP__KEEPER_REQUEST__KIND_RELEASE;
    request.release = &ask;
    ask.manifest = manifest;
    refused(r, &request, EKEYREJECTED, "not signed", "key.release.refused");
    forged.method = (char[]){RELEASE};
    forged.expires_unix_ms = sp_clock_system.wall_ms(NULL) + 60000;
    ask.request = &forged;
    refused(r, &request, EKEYREJECTED, "not signed", "key.release.refused");
    sp__signed__free_unpacked(manifest, NULL);
}

/* Signed by the controller's own key, the only one it has. */
static void test_a_release_that_it_signed_itself(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ReleaseForRequest ask = SP__RELEASE_FOR_REQUEST__INIT;
    Sp__ReleaseRequest arguments = SP__RELEASE_REQUEST__INIT;
    const uint8_t *der = r->controller_certificate;
    X509 *own = d2i_X509(NULL, &der, (long)r->controller_certificate_size);
    struct person controller = {.key = r->controller_key, .certificate = own};
    uint8_t reply[32] = {1};
    arguments.point_id = (char[]){POINT};
    arguments.reply_key = (ProtobufCBinaryData){32, reply};
    ask.request = sign(r, &controller, RELEASE, &arguments.base);
    ask.manifest = unsealed();
    request.kind_case = SP__KEEPER_REQUEST__KIND_RELEASE;
    request.release = &ask;
    refused(r, &request, EKEYREJECTED, "not a user's", "key.release.refused");
    sp__signed_request__free_unpacked(ask.request, NULL);
    sp__signed__free_unpacked(ask.manifest, NULL);
    X509_free(own);
}

/* A person's request, sent twice: the nonce is used up by the first, whatever came of it. */
static void test_a_replayed_release(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ReleaseForRequest ask = SP__RELEASE_FOR_REQUEST__INIT;
    Sp__ReleaseRequest arguments = SP__RELEASE_REQUEST__INIT;
    uint8_t reply[32] = {1};
    arguments.point_id = (char[]){POINT};
    arguments.reply_key = (ProtobufCBinaryData){32, reply};
    ask.request = sign(r, &r->admin, RELEASE, &arguments.base);
    ask.manifest = unsealed();
    request.kind_case = SP__KEEPER_REQUEST__KIND_RELEASE;
    request.release = &ask;
    refused(r, &request, EKEYREJECTED, "not sealed by this keeper", "key.release.refused");
    refused(r, &request, EKEYREJECTED, "used before", "key.release.refused");
    /* Nor is a request for something else good for a release. */
    sp__signed_request__free_unpacked(ask.request, NULL);
    ask.request = sign(r, &r->admin, "/sealpoint.v1.Keys/Destroy", &arguments.base);
    refused(r, &request, EKEYREJECTED, "not for", "key.release.refused");
    sp__signed_request__free_unpacked(ask.request, NULL);
    sp__signed__free_unpacked(ask.manifest, NULL);
}

/* ---- proofs and seals ---- */

/* A statement in the shape of a proof, signed by a key that is not the keeper's. */
static Sp__Signed *forged_proof(const char *machine)
{
    Sp__ProofStatement s = SP__PROOF_STATEMENT__INIT;
    SP_FREE uint8_t *packed = NULL;
    Sp__Signed *out = NULL;
    size_t size = 0;
    EVP_PKEY *own = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    s.format = 1;
    s.rules_version = 1;
    s.machine_id = (char *)(uintptr_t)machine;
    s.point_id = (char[]){POINT};
    s.volume_id = (char[]){VOLUME};
    s.verdict = SP__PROOF_VERDICT__PROOF_VERDICT_OPENS;
    assert_int_equal(sp_pack(&s.base, &packed, &size), 0);
    assert_int_equal(sp_signed_make(own, SP_SIGN_PROOF, packed, size, &out), 0);
    EVP_PKEY_free(own);
    return out;
}

static void seal_is_refused(struct rig *r, Sp__Signed *proof, const char *text)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__SealRequest ask = SP__SEAL_REQUEST__INIT;
    Sp__Manifest m = SP__MANIFEST__INIT;
    Sp__DiskImage disk = SP__DISK_IMAGE__INIT, *disks[] = {&disk};
    SP_FREE uint8_t *packed = NULL;
    uint8_t root[32] = {0xaa};
    disk.disk_id = (char[]){DISK};
    disk.size_bytes = 1 << 20;
    disk.root = (ProtobufCBinaryData){sizeof(root), root};
    m.disks = disks;
    m.n_disks = 1;
    m.format = 1;
    m.machine_id = (char[]){MACHINE};
    m.point_id = (char[]){POINT};
    m.state_at_seal = SP__POINT_STATE__POINT_STATE_VALID;
    m.proofs = &proof;
    m.n_proofs = 1;
    assert_int_equal(sp_pack(&m.base, &packed, &ask.manifest.len), 0);
    ask.manifest.data = packed;
    request.kind_case = SP__KEEPER_REQUEST__KIND_SEAL;
    request.seal = &ask;
    Sp__KeeperResponse *answer = NULL;
    struct sp_why why = {""};
    int e = keeper_call(r->client, &request, -1, 0, &answer, &why);
    assert_true(e == -EKEYREJECTED || e == -ESTALE);
    if (!strstr(why.text, text))
        fail_msg("%s", why.text);
    assert_true(audit_has(r, "seal.refused", text));
}

static void test_a_seal_over_a_proof_that_it_made_itself(void **state)
{
    Sp__Signed *proof = forged_proof(MACHINE);
    seal_is_refused(*state, proof, "not signed by this keeper");
    sp__signed__free_unpacked(proof, NULL);
}

static int no_bytes(void *self, uint32_t disk, uint64_t offset, void *out, uint32_t length)
{
    (void)self, (void)disk, (void)offset;
    memset(out, 0, length);
    return 0;
}

static Sp__ProofStatement *prove_as(struct rig *r, const char *machine, Sp__Signed **ret)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ProveRequest ask = SP__PROVE_REQUEST__INIT;
    Sp__LookDisk disk = SP__LOOK_DISK__INIT, *disks[] = {&disk};
    Sp__Volume volume = SP__VOLUME__INIT;
    Sp__KeeperResponse *answer = NULL;
    struct sp_why why = {""};
    disk.disk_id = (char[]){DISK};
    disk.size_bytes = 1 << 20;
    volume.volume_id = (char[]){VOLUME};
    volume.kind = SP__VOLUME_KIND__VOLUME_KIND_LUKS2;
    ask.machine_id = (char *)(uintptr_t)machine;
    ask.point_id = (char[]){POINT};
    ask.disks = disks;
    ask.n_disks = 1;
    ask.volume = &volume;
    request.kind_case = SP__KEEPER_REQUEST__KIND_PROVE;
    request.prove = &ask;
    int e = keeper_call_reading(r->client, &request, no_bytes, NULL, 0, &answer, &why);
    if (e < 0)
        fail_msg("%s", why.text);
    *ret = (Sp__Signed *)sp_message_copy(&answer->prove->statement->base);
    Sp__ProofStatement *s = sp__proof_statement__unpack(NULL, answer->prove->statement->payload.len,
                                                        answer->prove->statement->payload.data);
    answer_free(answer);
    return s;
}

/* The keeper's own statement, of another machine. */
static void test_a_seal_over_a_proof_of_another_machine(void **state)
{
    struct rig *r = *state;
    Sp__Signed *proof = NULL;
    Sp__ProofStatement *s = prove_as(r, OTHER, &proof);
    seal_is_refused(r, proof, "another");
    sp__proof_statement__free_unpacked(s, NULL);
    sp__signed__free_unpacked(proof, NULL);
}

/* "Try the key of that machine on this header": there is no way to say it. The record is looked up
 * by the machine that is named, and a header of another machine gets no key of it. */
static void test_a_record_on_a_header_of_another_machine(void **state)
{
    struct rig *r = *state;
    Sp__Signed *proof = NULL;
    import_key(r, MACHINE, VOLUME, "", "the key of one machine", NULL);
    Sp__ProofStatement *s = prove_as(r, OTHER, &proof);
    assert_int_equal(s->verdict, SP__PROOF_VERDICT__PROOF_VERDICT_NO_RECORD);
    assert_int_equal(s->n_attempts, 0);
    assert_true(audit_has(r, "proof", "record none"));
    sp__proof_statement__free_unpacked(s, NULL);
    sp__signed__free_unpacked(proof, NULL);
}

/* ---- identities ---- */

static void test_an_agent_that_nobody_gave_a_token(void **state)
{
    struct rig *r = *state;
    struct test_token token = {.id = OTHER};
    uint8_t box[32] = {7};
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    EVP_PKEY *key = sp_key_new();
    token.secret = sp_secret_copy("made up by the controller, really", 32);
    request.kind_case = SP__KEEPER_REQUEST__KIND_ENROL;
    request.enrol = enrol_request(&token, key, box, "web1");
    refused(r, &request, EKEYREJECTED, "token", "enrol.refused");
    enrol_free(request.enrol);

    /* It sees the real token's id, which the agent sends, and not its secret. */
    struct test_token real = make_token(r, token_spec(r));
    strcpy(token.id, real.id);
    request.enrol = enrol_request(&token, key, box, "web1");
    refused(r, &request, EKEYREJECTED, "token", "enrol.refused");
    enrol_free(request.enrol);
    sp_secret_free(real.secret);
    sp_secret_free(token.secret);
    EVP_PKEY_free(key);
}

static void test_an_agents_certificate_for_another_key(void **state)
{
    struct rig *r = *state;
    struct test_token token = make_token(r, token_spec(r));
    struct guest g = enrol_guest(r, &token, "web1");
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__RenewForRequest ask = SP__RENEW_FOR_REQUEST__INIT;
    Sp__RenewRequest inner = SP__RENEW_REQUEST__INIT;
    SP_FREE char *id = sp_format("spiffe://" DOMAIN "/agent/%s", g.machine_id);
    EVP_PKEY *own = sp_key_new();
    inner.csr = csr_of(own);
    ask.spiffe_id = id;
    ask.certificate =
        (ProtobufCBinaryData){r->controller_certificate_size, r->controller_certificate};
    ask.request = &inner;
    request.kind_case = SP__KEEPER_REQUEST__KIND_RENEW;
    request.renew = &ask;
    Sp__KeeperResponse *answer = NULL;
    struct sp_why why = {""};
    assert_true(keeper_call(r->client, &request, -1, 0, &answer, &why) < 0);
    assert_true(audit_has(r, "renew.refused", ""));
    free(inner.csr.data);
    EVP_PKEY_free(own);
    guest_free(&g);
    sp_secret_free(token.secret);
}

static void test_destruction_and_keks_without_a_person(void **state)
{
    struct rig *r = *state;
    static const char *const methods[] = {
        "/sealpoint.v1.Keys/Destroy",        "/sealpoint.v1.Keys/Compromise",
        "/sealpoint.v1.Keys/AddKek",         "/sealpoint.v1.Keys/RemoveKek",
        "/sealpoint.v1.Keys/ExportKeystore", "/sealpoint.v1.Keys/Reconcile"};
    for (size_t i = 0; i < SP_COUNT(methods); i++) {
        Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
        Sp__SignedCall call = SP__SIGNED_CALL__INIT;
        Sp__SignedRequest forged = SP__SIGNED_REQUEST__INIT;
        forged.method = (char *)(uintptr_t)methods[i];
        forged.expires_unix_ms = sp_clock_system.wall_ms(NULL) + 60000;
        call.request = &forged;
        request.kind_case = SP__KEEPER_REQUEST__KIND_EXECUTE;
        request.execute = &call;
        rig_refused(r, &request, EKEYREJECTED, "not signed");
        assert_true(audit_has(r, "admin.refused", methods[i]));
    }
}

/* An empty descriptor is no kit, and somebody else's kit is not this keystore's. */
static void test_it_does_not_make_itself_admin_without_the_kit(void **state)
{
    struct rig *r = *state;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__RestoreRequest ask = SP__RESTORE_REQUEST__INIT;
    EVP_PKEY *own = sp_key_new();
    ask.controller_name = (char[]){"ctl"};
    ask.user_name = (char[]){"mallory"};
    ask.controller_csr = csr_of(own);
    ask.user_csr = csr_of(own);
    request.kind_case = SP__KEEPER_REQUEST__KIND_RESTORE;
    request.restore = &ask;
    SP_SECRET struct sp_secret *kit =
        sp_secret_copy("sealpoint-kit-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 59);
    SP_FD int fd = sp_secret_memfd(kit, "kit");
    rig_refused_fd(r, &request, fd, EKEYREJECTED, "not the recovery kit");
    assert_true(audit_has(r, "keystore.admit.refused", "mallory"));
    rig_refused(r, &request, EINVAL, "with a descriptor");
    free(ask.controller_csr.data);
    free(ask.user_csr.data);
    EVP_PKEY_free(own);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_release_without_a_signature),
        cmocka_unit_test(test_a_release_that_it_signed_itself),
        cmocka_unit_test(test_a_replayed_release),
        cmocka_unit_test(test_a_seal_over_a_proof_that_it_made_itself),
        cmocka_unit_test(test_a_seal_over_a_proof_of_another_machine),
        cmocka_unit_test(test_a_record_on_a_header_of_another_machine),
        cmocka_unit_test(test_an_agent_that_nobody_gave_a_token),
        cmocka_unit_test(test_an_agents_certificate_for_another_key),
        cmocka_unit_test(test_destruction_and_keks_without_a_person),
        cmocka_unit_test(test_it_does_not_make_itself_admin_without_the_kit),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
