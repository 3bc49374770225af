/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The keeper's audit: chained, paged, and free of what does not belong into it. */
#include "rig.h"

#include "controller/keeper/audit.h"
#include <string.h>

static Sp__KeeperResponse *page(struct rig *r, uint64_t from, bool verify)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperAuditRequest ask = SP__KEEPER_AUDIT_REQUEST__INIT;
    ask.from_number = from;
    ask.verify = verify;
    request.kind_case = SP__KEEPER_REQUEST__KIND_AUDIT;
    request.audit = &ask;
    return rig_call(r, &request);
}

static void note(struct rig *r, const char *what, const char *text)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__AuditNote ask = SP__AUDIT_NOTE__INIT;
    ask.what = (char *)(uintptr_t)what;
    ask.text = (char *)(uintptr_t)text;
    request.peer = (char *)(uintptr_t) "spiffe://" DOMAIN "/agent/x";
    request.kind_case = SP__KEEPER_REQUEST__KIND_AUDIT_NOTE;
    request.audit_note = &ask;
    answer_free(rig_call(r, &request));
}

static void test_entries_are_chained_and_the_head_is_known(void **state)
{
    struct rig *r = *state;
    uint8_t head[32];
    struct sp_why why = {""};
    note(r, "identity.refused", "somebody");
    assert_int_equal(audit_verify(r->k, &why), 0);
    ANSWER a = page(r, 0, true);
    assert_int_equal(a->audit->n_entries, 2);
    assert_string_equal(a->audit->entries[0]->what, "init");
    assert_string_equal(a->audit->entries[1]->what, "controller.identity.refused");
    assert_string_equal(a->audit->entries[1]->who, "spiffe://" DOMAIN "/agent/x");
    assert_memory_equal(a->audit->entries[1]->previous.data, a->audit->entries[0]->hash.data, 32);
    assert_int_equal(audit_head(r->k, head), 0);
    assert_memory_equal(a->audit->entries[1]->hash.data, head, 32);
    assert_true(audit_knows(r->k, a->audit->entries[0]->hash.data, 32));
    head[0] ^= 1;
    assert_false(audit_knows(r->k, head, 32));

    /* The hash is what the contract says: over the packed entry without it. */
    Sp__AuditEntry *e = a->audit->entries[1];
    SP_FREE uint8_t *packed = NULL;
    size_t size = 0;
    uint8_t hash[32];
    ProtobufCBinaryData stored = e->hash;
    e->hash = (ProtobufCBinaryData){0};
    assert_int_equal(sp_pack(&e->base, &packed, &size), 0);
    e->hash = stored;
    struct sp_bytes parts[] = {{e->previous.data, 32}, {packed, size}};
    assert_int_equal(sp_sha256(parts, 2, hash), 0);
    assert_memory_equal(hash, stored.data, 32);
}

static void test_texts_cannot_forge_lines(void **state)
{
    struct rig *r = *state;
    note(r, "x\ny", "a\n\033[31mb\"");
    ANSWER a = page(r, 2, true);
    assert_string_equal(a->audit->entries[0]->what, "controller.x?y");
    assert_string_equal(a->audit->entries[0]->text, "a??[31mb\"");
}

static void test_pages(void **state)
{
    struct rig *r = *state;
    for (int i = 0; i < 620; i++)
        note(r, "n", "t");
    ANSWER first = page(r, 1, true);
    assert_int_equal(first->audit->n_entries, 500);
    assert_true(first->audit->more);
    ANSWER second = page(r, 501, true);
    assert_int_equal(second->audit->n_entries, 121);
    assert_false(second->audit->more);
    for (size_t i = 0; i < 500; i++)
        assert_false(first->audit->entries[i]->broken);
    for (size_t i = 0; i < 121; i++)
        assert_false(second->audit->entries[i]->broken);
    ANSWER none = page(r, 5000, true);
    assert_int_equal(none->audit->n_entries, 0);
}

static void test_a_changed_entry_is_found(void **state)
{
    struct rig *r = *state;
    struct sp_why why = {""};
    for (int i = 0; i < 5; i++)
        note(r, "n", "something");
    rig_close(r);
    sql(r, "UPDATE audit SET entry=CAST(replace(CAST(entry AS TEXT),'something','somethinG') AS "
           "BLOB) WHERE number=4");
    rig_reopen(r);
    assert_int_equal(audit_verify(r->k, &why), -EUCLEAN);
    ANSWER a = page(r, 1, true);
    assert_int_equal(a->audit->n_entries, 6);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(a->audit->entries[i]->broken, i == 3);
    ANSWER quiet = page(r, 1, false);
    assert_false(quiet->audit->entries[3]->broken);
}

static void test_a_removed_entry_is_found(void **state)
{
    struct rig *r = *state;
    struct sp_why why = {""};
    for (int i = 0; i < 5; i++)
        note(r, "n", "something");
    rig_close(r);
    sql(r, "DELETE FROM audit WHERE number=3");
    rig_reopen(r);
    assert_int_equal(audit_verify(r->k, &why), -EUCLEAN);
    ANSWER a = page(r, 1, true);
    assert_int_equal(a->audit->n_entries, 5);
    assert_true(a->audit->entries[2]->broken);
    assert_false(a->audit->entries[3]->broken);
}

static void test_no_secret_gets_in(void **state)
{
    struct rig *r = *state;
    import_key(r, MACHINE, VOLUME, "", "a secret in an import", NULL);
    fake.opens = "nothing";
    Sp__ProofStatement *s = prove(r, (struct proof_options){.root = 1}, NULL);
    sp__proof_statement__free_unpacked(s, NULL);
    assert_false(audit_has(r, "key.import", "a secret"));
    assert_false(audit_has(r, "proof", "a secret"));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_entries_are_chained_and_the_head_is_known),
        TEST(test_texts_cannot_forge_lines),
        TEST(test_pages),
        TEST(test_a_changed_entry_is_found),
        TEST(test_a_removed_entry_is_found),
        TEST(test_no_secret_gets_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
