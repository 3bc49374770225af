/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * KEKs: several at once, changed without touching a DEK, one of them on a PKCS#11 token (SoftHSM).
 */
#include "rig.h"

#include "base/file.h"
#include "base/sealed_box.h"
#include "controller/keeper/records.h"
#include <string.h>
#include <sys/stat.h>

#define ADD    "/sealpoint.v1.Keys/AddKek"
#define REMOVE "/sealpoint.v1.Keys/RemoveKek"

static char record[37];
static const char *module;

static int setup(void **state)
{
    if (rig_setup(state) < 0)
        return -1;
    import_key(*state, MACHINE, VOLUME, "", "open sesame", record);
    return 0;
}

static Sp__ListKeksResponse *list(struct rig *r)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ListKeksRequest ask = SP__LIST_KEKS_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_LIST_KEKS;
    request.list_keks = &ask;
    ANSWER a = rig_call(r, &request);
    return (Sp__ListKeksResponse *)sp_message_copy(&a->list_keks->base);
}

static void id_of(struct rig *r, const char *kind, char out[37])
{
    Sp__ListKeksResponse *l = list(r);
    out[0] = 0;
    for (size_t i = 0; i < l->n_keks; i++)
        if (strcmp(l->keks[i]->kind, kind) == 0)
            snprintf(out, 37, "%s", l->keks[i]->kek_id);
    sp__list_keks_response__free_unpacked(l, NULL);
    assert_true(out[0] != 0);
}

static const Sp__AddKekRequest *kind_of(const char *kind)
{
    static Sp__AddKekRequest ask;
    sp__add_kek_request__init(&ask);
    ask.kind = (char *)(uintptr_t)kind;
    return &ask;
}

static uint64_t add(struct rig *r, const char *kind)
{
    ANSWER a = execute(r, &r->admin, ADD, &kind_of(kind)->base);
    Sp__AddKekResponse *k =
        sp__add_kek_response__unpack(NULL, a->execute->result.len, a->execute->result.data);
    assert_string_equal(k->kek->kind, kind);
    assert_true(k->kek->configured);
    uint64_t deks = k->deks;
    sp__add_kek_response__free_unpacked(k, NULL);
    return deks;
}

static Sp__RemoveKekRequest *remove_of(char *id)
{
    static Sp__RemoveKekRequest ask;
    sp__remove_kek_request__init(&ask);
    ask.kek_id = id;
    return &ask;
}

static void opens(struct rig *r)
{
    Sp__EscrowRecord *e = NULL;
    struct sp_secret *secret = NULL;
    assert_false(r->k->locked);
    assert_string_equal(r->k->damage.text, "");
    assert_int_equal(record_load(r->k, record, &e, &secret, NULL), 0);
    assert_memory_equal(sp_secret_data(secret), "open sesame", 11);
    sp_secret_free(secret);
    sp__escrow_record__free_unpacked(e, NULL);
}

static void write_key_file(struct rig *r, char path[100], size_t size)
{
    uint8_t bytes[64];
    memset(bytes, 0x7e, sizeof(bytes));
    snprintf(path, 100, "%s/key-file", r->folder);
    assert_int_equal(sp_file_replace(path, bytes, size, 0600), 0);
}

/* Everything that the DEKs encrypt, as it lies in the file. */
static void digest_ciphertexts(struct rig *r, uint8_t out[32])
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    SP_BUFFER struct sp_buffer all = {0};
    int e;
    assert_int_equal(store_query(r->k->store, &stmt,
                                 "SELECT dek_id, nonce, ciphertext FROM records UNION ALL SELECT "
                                 "dek_id, nonce, ciphertext FROM core ORDER BY 1",
                                 ""),
                     0);
    while ((e = store_step(stmt)) == 1)
        for (int i = 1; i < 3; i++)
            assert_int_equal(
                sp_buffer_append(&all, store_blob(stmt, i).data, store_blob(stmt, i).size), 0);
    assert_int_equal(e, 0);
    assert_int_equal(sp_sha256_of(all.data, all.size, out), 0);
}

static void test_a_new_kek_wraps_what_is_there_and_what_comes(void **state)
{
    struct rig *r = *state;
    char path[100], old[37];
    uint8_t before[32], after[32];
    digest_ciphertexts(r, before);
    execute_refused(r, &r->admin, ADD, &kind_of(KEK_KEY_FILE)->base, EINVAL, "keeper.conf");
    write_key_file(r, path, 64);
    r->options.keks.key_file = path;
    rig_reopen(r);
    assert_int_equal(add(r, KEK_KEY_FILE), 5); /* 4 of its own, 1 record */
    digest_ciphertexts(r, after);
    assert_memory_equal(before, after, 32); /* no DEK was touched */
    assert_true(audit_has(r, "kek.add", "wraps 5 keys"));

    /* Only the new one is at hand from now on. */
    r->options.keks.passphrase_file = NULL;
    rig_reopen(r);
    opens(r);
    id_of(r, KEK_SCRYPT, old);
    answer_free(execute(r, &r->admin, REMOVE, &remove_of(old)->base));
    rig_reopen(r);
    opens(r);
    r->options.keks.key_file = NULL;
    r->options.keks.passphrase_file = r->passphrase;
    rig_reopen(r);
    assert_true(r->k->locked);
}

static void test_a_new_passphrase_takes_over(void **state)
{
    struct rig *r = *state;
    char old[37];
    id_of(r, KEK_SCRYPT, old);
    execute_refused(r, &r->admin, REMOVE, &remove_of(old)->base, ESTALE, "no other");
    assert_int_equal(sp_file_replace(r->passphrase, "new words", 9, 0600), 0);
    add(r, KEK_SCRYPT);
    /* The keeper is open by the old one; it goes on by the new one. */
    answer_free(execute(r, &r->admin, REMOVE, &remove_of(old)->base));
    opens(r);
    rig_reopen(r);
    opens(r);
    assert_int_equal(sp_file_replace(r->passphrase, "correct horse\n", 14, 0600), 0);
    rig_reopen(r);
    assert_true(r->k->locked);
    assert_non_null(strstr(r->k->lock_text.text, "passphrase does not open"));
}

static void test_what_is_refused(void **state)
{
    struct rig *r = *state;
    char kit[37], path[100];
    struct person keys = add_user(r, "keys", SP__ROLE__ROLE_CUSTODIAN, "");
    id_of(r, KEK_KIT, kit);
    execute_refused(r, &r->admin, REMOVE, &remove_of(kit)->base, EPERM, "dies with its host");
    execute_refused(r, &r->admin, REMOVE, &remove_of((char[]){OTHER})->base, ENOENT, "no KEK");
    execute_refused(r, &keys, ADD, &kind_of(KEK_SCRYPT)->base, EPERM, "keys");
    execute_refused(r, &keys, REMOVE, &remove_of(kit)->base, EPERM, "keys");
    execute_refused(r, &r->admin, ADD, &kind_of("rot13")->base, EINVAL, "rot13");
    execute_refused(r, &r->admin, ADD, &kind_of(KEK_KIT)->base, EINVAL, "32 bytes");
    write_key_file(r, path, 31);
    r->options.keks.key_file = path;
    rig_reopen(r); /* by the passphrase, which is the other source */
    opens(r);
    execute_refused(r, &r->admin, ADD, &kind_of(KEK_KEY_FILE)->base, EINVAL, "fewer than 32");
    /* Nothing of it stayed, and what is open is open. */
    opens(r);
    Sp__ListKeksResponse *l = list(r);
    assert_int_equal(l->n_keks, 2);
    sp__list_keks_response__free_unpacked(l, NULL);
    for (int i = 0; i < KEK_MOST - 2; i++)
        add(r, KEK_SCRYPT);
    execute_refused(r, &r->admin, ADD, &kind_of(KEK_SCRYPT)->base, ENOSPC, "8 KEKs");
    rig_reopen(r);
    opens(r);
    person_free(&keys);
}

static void test_a_new_kit_takes_the_place_of_the_old_one(void **state)
{
    struct rig *r = *state;
    SP_BUFFER struct sp_buffer aad = {0};
    SP_SECRET struct sp_secret *reply = NULL, *kit = NULL;
    uint8_t reply_public[32];
    char old[37], fresh[37];
    id_of(r, KEK_KIT, old);
    assert_int_equal(sp_box_keypair(&reply, reply_public), 0);
    Sp__AddKekRequest ask = *kind_of(KEK_KIT);
    ask.reply_key = (ProtobufCBinaryData){32, reply_public};
    ANSWER a = execute(r, &r->admin, ADD, &ask.base);
    Sp__AddKekResponse *k =
        sp__add_kek_response__unpack(NULL, a->execute->result.len, a->execute->result.data);
    assert_int_equal(sp_kit_aad(&aad, DOMAIN), 0);
    assert_int_equal(sp_box_open(reply, aad.data, aad.size, k->recovery_kit, &kit), 0);
    sp__add_kek_response__free_unpacked(k, NULL);
    id_of(r, KEK_KIT, fresh);
    assert_string_not_equal(old, fresh);
    struct sp_why why = {""};
    assert_int_equal(kek_open(r->k, KEK_KIT, r->kit, &why), -EKEYREJECTED);
    assert_int_equal(kek_open(r->k, KEK_KIT, kit, &why), 0);
    opens(r);
}

static void test_insecure_is_said(void **state)
{
    struct rig *r = *state;
    char path[120];
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperStatusRequest ask = SP__KEEPER_STATUS_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_STATUS;
    request.status = &ask;
    snprintf(path, sizeof(path), "%s/passphrase", r->state);
    assert_int_equal(sp_file_replace(path, "correct horse\n", 14, 0600), 0);
    r->options.keks.passphrase_file = path;
    rig_reopen(r);
    assert_true(r->k->locked);
    assert_non_null(strstr(r->k->lock_text.text, "beside the keystore"));
    r->options.keks.insecure = true;
    rig_reopen(r);
    opens(r);
    ANSWER a = rig_call(r, &request);
    assert_int_equal(a->status->n_warnings, 1);
    assert_non_null(strstr(a->status->warnings[0], "insecure"));
    /* Allowed and not needed is no warning. */
    r->options.keks.passphrase_file = r->passphrase;
    rig_reopen(r);
    ANSWER b = rig_call(r, &request);
    assert_int_equal(b->status->n_warnings, 0);
}

/* ---- a token ---- */

static void shell(const char *format, ...)
{
    char command[800];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof(command), format, ap);
    va_end(ap);
    if (system(command) != 0)
        fail_msg("%s", command);
}

/* A SoftHSM of this test's own with an RSA pair on it; the PIN in a file. */
static void make_hsm(struct rig *r, char pin[100])
{
    char conf[100], text[200];
    static const char *const places[] = {"/usr/lib/softhsm/libsofthsm2.so",
                                         "/usr/lib64/pkcs11/libsofthsm2.so"};
    module = access(places[0], R_OK) == 0 ? places[0] : places[1];
    snprintf(conf, sizeof(conf), "%s/softhsm.conf", r->folder);
    snprintf(text, sizeof(text), "directories.tokendir = %s/tokens\nlog.level = ERROR\n",
             r->folder);
    assert_int_equal(sp_file_replace(conf, text, strlen(text), 0600), 0);
    setenv("SOFTHSM2_CONF", conf, 1);
    shell("mkdir %s/tokens && softhsm2-util --init-token --free --label sealpoint --pin 2468 "
          "--so-pin 1357 >/dev/null",
          r->folder);
    shell("pkcs11-tool --module %s --token-label sealpoint --login --pin 2468 --keypairgen "
          "--key-type rsa:2048 --id 01 --label kek --usage-decrypt >/dev/null 2>&1",
          module);
    snprintf(pin, 100, "%s/pin", r->folder);
    assert_int_equal(sp_file_replace(pin, "2468\n", 5, 0600), 0);
}

static void configure(struct rig *r, const char *pin)
{
    r->options.keks.pkcs11_module = module;
    r->options.keks.pkcs11_token = "sealpoint";
    r->options.keks.pkcs11_key = "kek";
    r->options.keks.pkcs11_pin_file = pin;
}

static void locked_because(struct rig *r, const char *text)
{
    rig_reopen(r);
    assert_true(r->k->locked);
    if (!strstr(r->k->lock_text.text, text))
        fail_msg("%s", r->k->lock_text.text);
}

static void test_a_token_opens_the_keystore(void **state)
{
    struct rig *r = *state;
    char pin[100], old[37];
    make_hsm(r, pin);
    configure(r, pin);
    rig_reopen(r); /* the keystore has none yet: by the passphrase */
    opens(r);
    add(r, KEK_PKCS11);
    id_of(r, KEK_SCRYPT, old);
    answer_free(execute(r, &r->admin, REMOVE, &remove_of(old)->base));
    r->options.keks.passphrase_file = NULL;
    rig_reopen(r);
    opens(r);
    import_key(r, OTHER, VOLUME, "", "wrapped for it, too", NULL);
    rig_reopen(r);
    opens(r);

    r->options.keks.pkcs11_token = "another";
    locked_because(r, "no token 'another'");
    configure(r, pin);
    r->options.keks.pkcs11_key = "other";
    locked_because(r, "no RSA key 'other'");
    configure(r, pin);
    r->options.keks.pkcs11_module = "/nonexistent.so";
    locked_because(r, "cannot be loaded");
    configure(r, pin);
    r->options.keks.pkcs11_pin_file = NULL;
    locked_because(r, "kek.pkcs11_pin_file");
    configure(r, pin);
    assert_int_equal(sp_file_replace(pin, "1111\n", 5, 0600), 0);
    locked_because(r, "refuses the PIN");
    assert_int_equal(chmod(pin, 0644), 0);
    locked_because(r, "others may read");
    assert_int_equal(sp_file_replace(pin, "2468\n", 5, 0600), 0);
    rig_reopen(r);
    opens(r);
}

static void test_another_key_of_the_token_does_not_open(void **state)
{
    struct rig *r = *state;
    char pin[100];
    make_hsm(r, pin);
    configure(r, pin);
    rig_reopen(r);
    add(r, KEK_PKCS11);
    r->options.keks.passphrase_file = NULL;
    shell("pkcs11-tool --module %s --token-label sealpoint --login --pin 2468 --keypairgen "
          "--key-type rsa:2048 --id 02 --label second --usage-decrypt >/dev/null 2>&1",
          module);
    r->options.keks.pkcs11_key = "second";
    locked_because(r, "token does not open this keystore");
    r->options.keks.pkcs11_key = "kek";
    rig_reopen(r);
    opens(r);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_new_kek_wraps_what_is_there_and_what_comes),
        TEST(test_a_new_passphrase_takes_over),
        TEST(test_what_is_refused),
        TEST(test_a_new_kit_takes_the_place_of_the_old_one),
        TEST(test_insecure_is_said),
        TEST(test_a_token_opens_the_keystore),
        TEST(test_another_key_of_the_token_does_not_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
