/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "rig.h"

#include "base/file.h"
#include "base/frame.h"
#include "base/sealed_box.h"
#include "base/signed_request.h"
#include <dirent.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

struct fake_prover fake;

/* ---- clock and prover ---- */

static uint64_t monotonic_ns(void *self)
{
    return ((struct rig *)self)->monotonic_ns;
}

static uint64_t wall_ms(void *self)
{
    return ((struct rig *)self)->wall_ms;
}

static bool secret_is(const struct sp_secret *secret, const char *text)
{
    return text && sp_secret_size(secret) == strlen(text) &&
           memcmp(sp_secret_data(secret), text, strlen(text)) == 0;
}

static Sp__ProverFinding *make_finding(const Sp__ProverProof *ask, Sp__ProofVerdict verdict)
{
    Sp__ProverFinding *f = malloc(sizeof(*f));
    sp__prover_finding__init(f);
    f->verdict = verdict;
    f->method = strdup("made up");
    f->header_fingerprint.data = malloc(32);
    memcpy(f->header_fingerprint.data, fake.fingerprint, 32);
    f->header_fingerprint.len = 32;
    if (verdict != SP__PROOF_VERDICT__PROOF_VERDICT_OPENS)
        return f;
    f->level = SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_PLAINTEXT;
    f->protector_id = strdup("0");
    f->content = malloc(sizeof(*f->content));
    sp__content__init(f->content);
    f->content->type = strdup(fake.content_type ? fake.content_type : "ext4");
    f->content->uuid = strdup(fake.content_uuid ? fake.content_uuid : "");
    f->sectors = malloc(sizeof(*f->sectors));
    f->n_sectors = 1;
    Sp__SectorEvidence *s = f->sectors[0] = malloc(sizeof(*s));
    sp__sector_evidence__init(s);
    s->on = malloc(sizeof(*s->on));
    sp__disk_extent__init(s->on);
    s->on->disk_id = strdup(ask->disks[0]->disk_id);
    s->on->offset_bytes = 1 << 20;
    s->on->length_bytes = 4096;
    s->sha256.data = calloc(1, 32);
    s->sha256.len = 32;
    return f;
}

static Sp__ProofVerdict decide(const Sp__ProverProof *ask, const struct sp_secret *secret)
{
    const Sp__ProofVerdict opens = SP__PROOF_VERDICT__PROOF_VERDICT_OPENS;
    Sp__ProofVerdict otherwise =
        fake.otherwise ? fake.otherwise : SP__PROOF_VERDICT__PROOF_VERDICT_WRONG_KEY;
    if (ask->header_opened_before) {
        fake.carried_jobs++;
        assert_int_equal(ask->secret_type, SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY);
        if (fake.carried)
            return fake.carried;
        return secret_is(secret, fake.volume_key) ? opens : otherwise;
    }
    if (!secret) /* a key that lies in the header, in the clear */
        return opens;
    return secret_is(secret, fake.opens) ? opens : otherwise;
}

static int run_fake(const struct prover_options *options, const Sp__ProverJob *job, int reader,
                    const struct sp_secret *secret, Sp__ProverResult **ret,
                    struct sp_secret **ret_volume_key, struct sp_why *why)
{
    (void)options;
    if (fake.error)
        return sp_why_set(why, fake.error, "the made-up prover fails");
    Sp__ProverResult *result = malloc(sizeof(*result));
    sp__prover_result__init(result);
    *ret = result;
    if (fake.reads)
        assert_int_equal(sp_pread_remote(reader, 0, 0, fake.seen, sizeof(fake.seen)), 0);
    if (fake.leaves_a_read) {
        struct sp_pread_ask left = {.disk = 0, .offset = 4096, .length = 512};
        assert_int_equal(send(reader, &left, sizeof(left), 0), sizeof(left));
    }
    if (job->kind_case == SP__PROVER_JOB__KIND_LOOK) {
        fake.looks++;
        result->kind_case = SP__PROVER_RESULT__KIND_LOOK;
        result->look = malloc(sizeof(*result->look));
        sp__look_response__init(result->look);
        return 0;
    }
    fake.jobs++;
    if (secret)
        snprintf(fake.last_secret, sizeof(fake.last_secret), "%.*s", (int)sp_secret_size(secret),
                 (const char *)sp_secret_data(secret));
    snprintf(fake.last_protector, sizeof(fake.last_protector), "%s", job->proof->protector_id);
    result->kind_case = SP__PROVER_RESULT__KIND_FINDING;
    result->finding = make_finding(job->proof, decide(job->proof, secret));
    if (result->finding->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS && fake.volume_key &&
        ret_volume_key) {
        result->finding->has_volume_key = true;
        *ret_volume_key = sp_secret_copy(fake.volume_key, strlen(fake.volume_key));
    }
    return 0;
}

/* ---- the rig ---- */

int rig_open(struct rig *r, struct sp_why *why)
{
    return keeper_open(&r->options, &r->k, why);
}

void rig_close(struct rig *r)
{
    keeper_close(r->k);
    r->k = NULL;
}

void rig_reopen(struct rig *r)
{
    struct sp_why why = {""};
    rig_close(r);
    if (rig_open(r, &why) < 0)
        fail_msg("%s", why.text);
}

struct rig *rig_new(void)
{
    struct rig *r = calloc(1, sizeof(*r));
    const char *base = getenv("TMPDIR");
    memset(&fake, 0, sizeof(fake));
    memset(fake.fingerprint, 0xf1, sizeof(fake.fingerprint));
    snprintf(r->folder, sizeof(r->folder), "%.40s/keeper-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(r->folder));
    snprintf(r->state, sizeof(r->state), "%s/state", r->folder);
    snprintf(r->passphrase, sizeof(r->passphrase), "%s/passphrase", r->folder);
    assert_int_equal(sp_file_replace(r->passphrase, "correct horse\n", 14, 0600), 0);
    r->wall_ms = sp_clock_system.wall_ms(sp_clock_system.self);
    r->monotonic_ns = 1000000000;
    r->clock = (struct sp_clock){monotonic_ns, wall_ms, r};
    r->options = (struct keeper_options){
        .state = r->state,
        .prover = "/nonexistent",
        .keks = {.passphrase_file = r->passphrase, .scrypt_log_n = 10},
        .clock = &r->clock,
        .run = run_fake,
    };
    return r;
}

int rig_setup_empty(void **state)
{
    struct rig *r = rig_new();
    struct sp_why why = {""};
    if (rig_open(r, &why) < 0)
        fail_msg("%s", why.text);
    *state = r;
    return 0;
}

void rig_read_keys(struct rig *r)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperKeysRequest ask = SP__KEEPER_KEYS_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_KEYS;
    request.keys = &ask;
    ANSWER a = rig_call(r, &request);
    X509 *ca = NULL;
    assert_int_equal(sp_certificate_from_pem(r->bundle, strlen(r->bundle), &ca), 0);
    EVP_PKEY *ca_key = X509_get_pubkey(ca);
    assert_int_equal(sp_signed_verify(a->keys->keys, SP_SIGN_KEEPER_KEYS, ca_key), 0);
    Sp__KeeperKeys *keys =
        sp__keeper_keys__unpack(NULL, a->keys->keys->payload.len, a->keys->keys->payload.data);
    assert_string_equal(keys->domain, DOMAIN);
    memcpy(r->box, keys->box_public_key.data, 32);
    assert_int_equal(sp_public_key_from_der(keys->sealing_public_key.data,
                                            keys->sealing_public_key.len, &r->sealing),
                     0);
    sp__keeper_keys__free_unpacked(keys, NULL);
    EVP_PKEY_free(ca_key);
    X509_free(ca);
}

int rig_setup(void **state)
{
    if (rig_setup_empty(state) < 0)
        return -1;
    struct rig *r = *state;
    answer_free(rig_init(r));
    rig_read_keys(r);
    return 0;
}

static void remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char inner[400];
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(inner, sizeof(inner), "%s/%s", path, e->d_name);
        if (lstat(inner, &st) == 0 && S_ISDIR(st.st_mode))
            remove_folder(inner);
        else
            unlink(inner);
    }
    if (dir)
        closedir(dir);
    rmdir(path);
}

int rig_teardown(void **state)
{
    struct rig *r = *state;
    rig_close(r);
    keeper_client_free(r->client);
    remove_folder(r->folder);
    person_free(&r->admin);
    EVP_PKEY_free(r->controller_key);
    EVP_PKEY_free(r->sealing);
    sp_secret_free(r->kit);
    free(r->bundle);
    free(r->controller_certificate);
    free(r);
    return 0;
}

/* ---- calls ---- */

void answer_free(Sp__KeeperResponse *a)
{
    sp__keeper_response__free_unpacked(a, NULL);
}

/* Over the socket; an error becomes an answer again. */
static Sp__KeeperResponse *call_process(struct rig *r, Sp__KeeperRequest *request, int fd)
{
    Sp__KeeperResponse *answer = NULL;
    struct sp_why why = {""};
    int e = keeper_call(r->client, request, fd, 0, &answer, &why);
    if (e == 0)
        return answer;
    answer = malloc(sizeof(*answer));
    sp__keeper_response__init(answer);
    answer->error = -e;
    answer->text = strdup(why.text);
    return answer;
}

/* Through the wire format, as the socket does it. */
static Sp__KeeperResponse *call(struct rig *r, Sp__KeeperRequest *request, int fd)
{
    Sp__KeeperResponse *answer = NULL;
    if (r->client)
        return call_process(r, request, fd);
    request->id = 7;
    Sp__KeeperRequest *copy = (Sp__KeeperRequest *)sp_message_copy(&request->base);
    assert_non_null(copy);
    assert_int_equal(keeper_handle(r->k, copy, fd, &answer), 0);
    sp__keeper_request__free_unpacked(copy, NULL);
    Sp__KeeperResponse *out = (Sp__KeeperResponse *)sp_message_copy(&answer->base);
    sp__keeper_response__free_unpacked(answer, NULL);
    assert_int_equal(out->id, 7);
    return out;
}

Sp__KeeperResponse *rig_call_fd(struct rig *r, Sp__KeeperRequest *request, int fd)
{
    Sp__KeeperResponse *a = call(r, request, fd);
    if (a->error != 0)
        fail_msg("%s: %s", strerror(a->error), a->text);
    return a;
}

Sp__KeeperResponse *rig_call(struct rig *r, Sp__KeeperRequest *request)
{
    return rig_call_fd(r, request, -1);
}

void rig_refused_fd(struct rig *r, Sp__KeeperRequest *request, int fd, int error, const char *text)
{
    ANSWER a = call(r, request, fd);
    if (a->error != error || !strstr(a->text, text))
        fail_msg("wanted '%s' with '%s', got '%s': %s", strerror(error), text, strerror(a->error),
                 a->text);
    assert_int_equal(a->kind_case, SP__KEEPER_RESPONSE__KIND__NOT_SET);
}

void rig_refused(struct rig *r, Sp__KeeperRequest *request, int error, const char *text)
{
    rig_refused_fd(r, request, -1, error, text);
}

ProtobufCBinaryData csr_of(EVP_PKEY *key)
{
    ProtobufCBinaryData out = {0};
    assert_int_equal(sp_csr_make(key, "anything", &out.data, &out.len), 0);
    return out;
}

X509 *first_certificate(ProtobufCBinaryData chain)
{
    X509 *certificate = NULL;
    assert_int_equal(sp_certificate_from_pem(chain.data, chain.len, &certificate), 0);
    return certificate;
}

Sp__KeeperResponse *rig_init(struct rig *r)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__InitRequest ask = SP__INIT_REQUEST__INIT;
    SP_BUFFER struct sp_buffer aad = {0};
    SP_SECRET struct sp_secret *reply = NULL;
    uint8_t reply_public[32];
    char *hosts[] = {(char[]){"backup.test.example"}, (char[]){"192.0.2.7"}};

    r->controller_key = sp_key_new();
    r->admin.key = sp_key_new();
    strcpy(r->admin.name, "root");
    assert_int_equal(sp_box_keypair(&reply, reply_public), 0);
    ask.domain = (char[]){DOMAIN};
    ask.controller_name = (char[]){"main"};
    ask.user_name = (char[]){"root"};
    ask.controller_hosts = hosts;
    ask.n_controller_hosts = 2;
    ask.controller_csr = csr_of(r->controller_key);
    ask.user_csr = csr_of(r->admin.key);
    ask.reply_key = (ProtobufCBinaryData){32, reply_public};
    request.kind_case = SP__KEEPER_REQUEST__KIND_INIT;
    request.init = &ask;
    Sp__KeeperResponse *a = rig_call(r, &request);
    free(ask.controller_csr.data);
    free(ask.user_csr.data);

    assert_int_equal(sp_kit_aad(&aad, DOMAIN), 0);
    assert_int_equal(sp_box_open(reply, aad.data, aad.size, a->init->recovery_kit, &r->kit), 0);
    assert_int_equal(sp_secret_size(r->kit), 32);
    r->admin.certificate = first_certificate(a->init->user_chain);
    r->bundle = strndup((char *)a->init->trust_bundle.data, a->init->trust_bundle.len);
    X509 *controller = first_certificate(a->init->controller_chain);
    int size = i2d_X509(controller, &r->controller_certificate);
    assert_true(size > 0);
    r->controller_certificate_size = (size_t)size;
    X509_free(controller);
    return a;
}

/* ---- people ---- */

void nonce_of(struct rig *r, uint8_t out[32])
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__NonceRequest ask = SP__NONCE_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_NONCE;
    request.nonce = &ask;
    ANSWER a = rig_call(r, &request);
    assert_int_equal(a->nonce->nonce.len, 32);
    memcpy(out, a->nonce->nonce.data, 32);
}

Sp__SignedRequest *sign(struct rig *r, const struct person *who, const char *method,
                        const ProtobufCMessage *arguments)
{
    Sp__SignedRequest *out = NULL;
    SP_FREE uint8_t *packed = NULL;
    uint8_t nonce[32];
    size_t size = 0;
    if (r->client)
        r->wall_ms = sp_clock_system.wall_ms(sp_clock_system.self);
    nonce_of(r, nonce);
    assert_int_equal(sp_pack(arguments, &packed, &size), 0);
    assert_int_equal(sp_request_sign(method, packed, size, nonce, sizeof(nonce), r->wall_ms + 60000,
                                     who->key, who->certificate, &out),
                     0);
    return out;
}

static Sp__KeeperRequest signed_call(Sp__SignedCall *ask, Sp__SignedRequest *signed_request)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    sp__signed_call__init(ask);
    ask->request = signed_request;
    request.kind_case = SP__KEEPER_REQUEST__KIND_EXECUTE;
    request.execute = ask;
    return request;
}

Sp__KeeperResponse *execute(struct rig *r, const struct person *who, const char *method,
                            const ProtobufCMessage *arguments)
{
    Sp__SignedCall ask;
    Sp__KeeperRequest request = signed_call(&ask, sign(r, who, method, arguments));
    Sp__KeeperResponse *a = rig_call(r, &request);
    sp__signed_request__free_unpacked(ask.request, NULL);
    return a;
}

void execute_refused(struct rig *r, const struct person *who, const char *method,
                     const ProtobufCMessage *arguments, int error, const char *text)
{
    Sp__SignedCall ask;
    Sp__KeeperRequest request = signed_call(&ask, sign(r, who, method, arguments));
    rig_refused(r, &request, error, text);
    sp__signed_request__free_unpacked(ask.request, NULL);
}

struct person add_user(struct rig *r, const char *name, Sp__Role role, const char *group)
{
    struct person p = {.key = sp_key_new()};
    Sp__AddUserRequest ask = SP__ADD_USER_REQUEST__INIT;
    Sp__RoleBinding binding = SP__ROLE_BINDING__INIT, *bindings[] = {&binding};
    snprintf(p.name, sizeof(p.name), "%s", name);
    binding.role = role;
    binding.group = (char *)(uintptr_t)group;
    ask.name = p.name;
    ask.roles = bindings;
    ask.n_roles = 1;
    ask.csr = csr_of(p.key);
    ANSWER a = execute(r, &r->admin, "/sealpoint.v1.Admin/AddUser", &ask.base);
    free(ask.csr.data);
    Sp__AddUserResponse *added =
        sp__add_user_response__unpack(NULL, a->execute->result.len, a->execute->result.data);
    assert_non_null(added);
    p.certificate = first_certificate(added->certificate_chain);
    sp__add_user_response__free_unpacked(added, NULL);
    return p;
}

void person_free(struct person *p)
{
    EVP_PKEY_free(p->key);
    X509_free(p->certificate);
}

/* ---- tokens and guests ---- */

static uint8_t token_reply[32];
static struct sp_secret *token_private;

Sp__TokenSpec *token_spec(struct rig *r)
{
    static Sp__TokenSpec spec;
    sp__token_spec__init(&spec);
    sp_secret_free(token_private);
    token_private = NULL;
    assert_int_equal(sp_box_keypair(&token_private, token_reply), 0);
    spec.count = 1;
    spec.expires_unix_ms = r->wall_ms + 3600 * 1000;
    spec.reply_key = (ProtobufCBinaryData){32, token_reply};
    return &spec;
}

struct test_token make_token(struct rig *r, const Sp__TokenSpec *spec)
{
    struct test_token t = {0};
    SP_BUFFER struct sp_buffer aad = {0};
    SP_SECRET struct sp_secret *packed = NULL;
    char id[37];

    ANSWER a = execute(r, &r->admin, "/sealpoint.v1.Admin/CreateToken", &spec->base);
    Sp__CreateTokenResponse *made =
        sp__create_token_response__unpack(NULL, a->execute->result.len, a->execute->result.data);
    assert_non_null(made);
    assert_int_equal(sp_token_aad(&aad, made->token_id), 0);
    assert_int_equal(sp_box_open(token_private, aad.data, aad.size, made->token, &packed), 0);
    Sp__EnrolmentToken *token =
        sp__enrolment_token__unpack(NULL, sp_secret_size(packed), sp_secret_data(packed));
    assert_int_equal(sp_token_parse(token->text, strlen(token->text), id, &t.secret), 0);
    assert_string_equal(id, made->token_id);
    snprintf(t.id, sizeof(t.id), "%s", made->token_id);
    sp__enrolment_token__free_unpacked(token, NULL);
    sp__create_token_response__free_unpacked(made, NULL);
    return t;
}

Sp__EnrolRequest *enrol_request(const struct test_token *t, EVP_PKEY *key, const uint8_t box[32],
                                const char *name)
{
    Sp__EnrolRequest *ask = malloc(sizeof(*ask));
    sp__enrol_request__init(ask);
    ask->token_id = strdup(t->id);
    ask->csr = csr_of(key);
    ask->encryption_key.data = malloc(32);
    ask->encryption_key.len = 32;
    memcpy(ask->encryption_key.data, box, 32);
    ask->machine_name = strdup(name);
    ask->evidence_case = SP__ENROL_REQUEST__EVIDENCE_TOKEN_PROOF;
    ask->token_proof.data = malloc(32);
    ask->token_proof.len = 32;
    assert_int_equal(
        sp_enrol_proof(t->secret, ask->csr.data, ask->csr.len, box, ask->token_proof.data), 0);
    return ask;
}

void enrol_free(Sp__EnrolRequest *ask)
{
    sp__enrol_request__free_unpacked(ask, NULL);
}

struct guest enrol_guest(struct rig *r, const struct test_token *t, const char *name)
{
    struct guest g = {.key = sp_key_new(), .box = {1, 2, 3}};
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_ENROL;
    request.enrol = enrol_request(t, g.key, g.box, name);
    ANSWER a = rig_call(r, &request);
    enrol_free(request.enrol);
    snprintf(g.machine_id, sizeof(g.machine_id), "%s", a->enrol->machine_id);
    if (!a->enrol->pending)
        g.certificate = first_certificate(a->enrol->certificate_chain);
    return g;
}

void guest_free(struct guest *g)
{
    EVP_PKEY_free(g->key);
    X509_free(g->certificate);
}

/* ---- keys ---- */

Sp__SealedBox *seal_key(struct rig *r, const char *machine, const char *volume,
                        const char *protector, Sp__SecretType type, const char *secret,
                        Sp__PlainParameters *plain)
{
    Sp__KeyMaterial material = SP__KEY_MATERIAL__INIT;
    SP_BUFFER struct sp_buffer aad = {0};
    SP_FREE uint8_t *packed = NULL;
    Sp__SealedBox *box = NULL;
    size_t size = 0;
    material.type = type;
    material.secret = (ProtobufCBinaryData){strlen(secret), (uint8_t *)(uintptr_t)secret};
    material.plain = plain;
    assert_int_equal(sp_pack(&material.base, &packed, &size), 0);
    assert_int_equal(sp_import_aad(&aad, machine, volume, protector), 0);
    assert_int_equal(sp_box_seal(r->box, aad.data, aad.size, packed, size, &box), 0);
    return box;
}

void import_key(struct rig *r, const char *machine, const char *volume, const char *protector,
                const char *secret, char out[37])
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ImportKeysRequest ask = SP__IMPORT_KEYS_REQUEST__INIT;
    Sp__ImportKey key = SP__IMPORT_KEY__INIT, *keys[] = {&key};
    key.machine = (char *)(uintptr_t)machine;
    key.volume_id = (char *)(uintptr_t)volume;
    key.protector_id = (char *)(uintptr_t)protector;
    key.material = seal_key(r, machine, volume, protector, SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE,
                            secret, NULL);
    ask.keys = keys;
    ask.n_keys = 1;
    request.kind_case = SP__KEEPER_REQUEST__KIND_IMPORT;
    request.import = &ask;
    ANSWER a = rig_call(r, &request);
    sp__sealed_box__free_unpacked(key.material, NULL);
    assert_int_equal(a->import->n_results, 1);
    assert_string_equal(a->import->results[0]->error, "");
    if (out)
        snprintf(out, 37, "%s", a->import->results[0]->record->record_id);
}

/* ---- points ---- */

void pin_point(struct rig *r, const char *point, const char *machine, const char *volume)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__PinRequest ask = SP__PIN_REQUEST__INIT;
    char *volumes[] = {(char *)(uintptr_t)volume};
    ask.machine_id = (char *)(uintptr_t)machine;
    ask.point_id = (char *)(uintptr_t)point;
    ask.volume_ids = volumes;
    ask.n_volume_ids = 1;
    request.kind_case = SP__KEEPER_REQUEST__KIND_PIN;
    request.pin = &ask;
    answer_free(rig_call(r, &request));
}

/* A snapshot whose bytes are their offset. */
static void *serve_reads(void *self)
{
    int socket = *(int *)self;
    for (;;) {
        struct sp_pread_ask ask;
        if (recv(socket, &ask, sizeof(ask), MSG_WAITALL) != sizeof(ask))
            return NULL;
        struct sp_pread_answer answer = {.error = 0, .length = ask.length};
        uint8_t *data = malloc(ask.length + 1);
        for (uint32_t i = 0; i < ask.length; i++)
            data[i] = (uint8_t)(ask.offset + i);
        bool sent = send(socket, &answer, sizeof(answer), MSG_NOSIGNAL) == sizeof(answer) &&
                    send(socket, data, ask.length, MSG_NOSIGNAL) == (ssize_t)ask.length;
        free(data);
        if (!sent)
            return NULL;
    }
}

Sp__ProofStatement *prove(struct rig *r, struct proof_options o, Sp__Signed **ret_signed)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ProveRequest ask = SP__PROVE_REQUEST__INIT;
    Sp__LookDisk disk = SP__LOOK_DISK__INIT, *disks[] = {&disk};
    Sp__Volume volume = SP__VOLUME__INIT;
    Sp__HeaderFacts header = SP__HEADER_FACTS__INIT;
    Sp__Protector protector = SP__PROTECTOR__INIT, *protectors[] = {&protector};
    Sp__Content expected = SP__CONTENT__INIT;
    uint8_t root[32];
    int pair[2];
    pthread_t thread;

    memset(root, o.root, sizeof(root));
    disk.disk_id = (char[]){DISK};
    disk.size_bytes = 64 << 20;
    disk.disk_root = (ProtobufCBinaryData){o.root ? 32 : 0, root};
    volume.volume_id = (char *)(uintptr_t)(o.volume ? o.volume : VOLUME);
    volume.kind = o.kind ? o.kind : SP__VOLUME_KIND__VOLUME_KIND_LUKS2;
    header.fingerprint = (ProtobufCBinaryData){32, fake.fingerprint};
    header.protection_suspended = o.suspended;
    if (o.only) {
        protector.id = (char *)(uintptr_t)(o.protector ? o.protector : "");
        protector.type = o.only;
        protector.usable = true;
        protector.kdf_memory_kib = o.kdf_memory_kib;
        header.protectors = protectors;
        header.n_protectors = 1;
    }
    if (o.machine_name)
        ask.machine_name = (char *)(uintptr_t)o.machine_name;
    if (volume.kind != SP__VOLUME_KIND__VOLUME_KIND_PLAIN)
        volume.header = &header;
    if (o.expected_type) {
        expected.type = (char *)(uintptr_t)o.expected_type;
        expected.uuid = (char *)(uintptr_t)(o.expected_uuid ? o.expected_uuid : "");
        ask.expected = &expected;
    }
    ask.machine_id = (char *)(uintptr_t)(o.machine ? o.machine : MACHINE);
    ask.point_id = (char *)(uintptr_t)(o.point ? o.point : POINT);
    ask.disks = disks;
    ask.n_disks = 1;
    ask.volume = &volume;
    ask.allow_carry_over = o.carry;
    ask.reproof = o.reproof;
    request.kind_case = SP__KEEPER_REQUEST__KIND_PROVE;
    request.prove = &ask;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(pthread_create(&thread, NULL, serve_reads, &pair[0]), 0);
    ANSWER a = rig_call_fd(r, &request, pair[1]);
    close(pair[1]);
    pthread_join(thread, NULL);
    close(pair[0]);

    assert_int_equal(sp_signed_verify(a->prove->statement, SP_SIGN_PROOF, r->sealing), 0);
    Sp__ProofStatement *s = sp__proof_statement__unpack(NULL, a->prove->statement->payload.len,
                                                        a->prove->statement->payload.data);
    assert_non_null(s);
    if (ret_signed)
        *ret_signed = (Sp__Signed *)sp_message_copy(&a->prove->statement->base);
    return s;
}

/* ---- looking ---- */

bool audit_has(struct rig *r, const char *what, const char *text)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperAuditRequest ask = SP__KEEPER_AUDIT_REQUEST__INIT;
    ask.verify = true;
    request.kind_case = SP__KEEPER_REQUEST__KIND_AUDIT;
    request.audit = &ask;
    ANSWER a = rig_call(r, &request);
    bool found = false;
    for (size_t i = 0; i < a->audit->n_entries; i++) {
        Sp__AuditEntry *e = a->audit->entries[i];
        assert_false(e->broken);
        if (strcmp(e->what, what) == 0 &&
            (strstr(e->text, text) || strstr(e->about, text) || strstr(e->who, text)))
            found = true;
    }
    return found;
}

void sql(struct rig *r, const char *statement)
{
    char path[120];
    sqlite3 *db = NULL;
    char *error = NULL;
    snprintf(path, sizeof(path), "%s/keystore.db", r->state);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, statement, NULL, NULL, &error) != SQLITE_OK)
        fail_msg("%s", error);
    sqlite3_close(db);
}

bool folder_has(struct rig *r, const void *bytes, size_t size)
{
    static const char *const names[] = {"keystore.db", "keystore.db-wal"};
    for (size_t i = 0; i < SP_COUNT(names); i++) {
        SP_FREE char *path = sp_format("%s/%s", r->state, names[i]);
        SP_FREE char *data = NULL;
        size_t length = 0;
        if (sp_file_read(path, 256 << 20, &data, &length) == 0 && memmem(data, length, bytes, size))
            return true;
    }
    return false;
}
