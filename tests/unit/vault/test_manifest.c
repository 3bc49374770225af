/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/cleanup.h"
#include "base/file.h"
#include "fixture.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
// cmocka needs the four above first
#include <cmocka.h>

static struct fixture f;
static const struct disk disk = {DISK_MIXED, 3, 2 << 20, UINT64_MAX};
static Sp__DiskImage image;

static int setup(void **state)
{
    (void)state;
    fixture_make(&f);
    sp__disk_image__init(&image);
    point_make(&f, "machine-a", "point-1", &disk, &image);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(image.root.data);
    fixture_free(&f);
    return 0;
}

static int get(const char *machine, const char *point, struct sp_why *why)
{
    Sp__Signed *s = NULL;
    Sp__Manifest *m = NULL;
    why->text[0] = 0;
    int r = vault_get_manifest(f.vault, machine, point, fixture_seal_key(&f), &s, &m, why);
    if (r == 0) {
        assert_string_equal(m->point_id, point);
        int revision = (int)m->revision;
        sp__manifest__free_unpacked(m, NULL);
        sp__signed__free_unpacked(s, NULL);
        return revision;
    }
    assert_true(strlen(why->text) > 0);
    return r;
}

static int put(const char *machine, const char *point, uint32_t revision, struct sp_why *why)
{
    Sp__DiskImage *images[] = {&image};
    Sp__Signed *m = manifest_make(&f, machine, point, 1, revision, images, 1);
    int r = vault_put_manifest(f.vault, m, why);
    sp__signed__free_unpacked(m, NULL);
    return r;
}

static int count_one(void *arg, const char *machine, const char *point)
{
    assert_true(!strcmp(machine, "machine-a") || !strcmp(machine, "machine-b"));
    assert_int_equal(strncmp(point, "point-", 6), 0);
    ++*(int *)arg;
    return 0;
}

static void the_newest_good_revision_is_given(void **state)
{
    (void)state;
    struct sp_why why = {{0}};
    assert_int_equal(get("machine-a", "point-1", &why), 0);
    for (uint32_t i = 1; i < 12; i++)
        assert_int_equal(put("machine-a", "point-1", i, &why), 0);
    assert_int_equal(get("machine-a", "point-1", &why), 11);
    assert_int_equal(put("machine-a", "point-1", 11, &why), -EEXIST);
    assert_int_equal(put("machine-b", "point-7", 0, &why), 0);
    int n = 0;
    assert_int_equal(vault_list_manifests(f.vault, count_one, &n), 0);
    assert_int_equal(n, 2);
    assert_int_equal(get("machine-a", "point-9", &why), -ENOENT);
    assert_int_equal(get("machine-a", "../x", &why), -EINVAL);
    /* When the newest is damaged, the one before still tells where the data is. */
    char path[300];
    snprintf(path, sizeof path, "%s/manifests/machine-a/point-1.11", f.dir);
    flip(path, 40, 1);
    assert_int_equal(get("machine-a", "point-1", &why), 10);
    char *text SP_FREE = check_text(&f, false);
    assert_non_null(strstr(text, "point-1.11"));
}

static void a_manifest_over_data_that_is_not_there_is_refused(void **state)
{
    (void)state;
    struct sp_why why = {{0}};
    image.root.data[4] ^= 1;
    assert_int_equal(put("machine-a", "point-2", 0, &why), -ESTALE);
    image.root.data[4] ^= 1;
    assert_int_equal(put("machine-a", "point-2", 0, &why), 0);
    /* After a restart every chunk is looked for. */
    fixture_reopen(&f);
    assert_int_equal(put("machine-a", "point-3", 0, &why), 0);
    char pack[256];
    object_path(&f, "packs/", 0, pack);
    assert_int_equal(unlink(pack), 0);
    fixture_reopen(&f);
    assert_int_equal(put("machine-a", "point-4", 0, &why), -ESTALE);
}

static void malformed_manifests_are_not_taken(void **state)
{
    (void)state;
    struct sp_why why = {{0}};
    assert_int_equal(put("../machine", "p", 0, &why), -EBADMSG);
    assert_int_equal(put("machine", "", 0, &why), -EBADMSG);
    assert_int_equal(put("machine-a", "p", UINT32_MAX, &why), -EINVAL);
    image.root.len = 31;
    assert_int_equal(put("machine-a", "p", 0, &why), -EBADMSG);
    image.root.len = 32;
    char id = f.id[0];
    f.id[0] = 'x';
    assert_int_equal(put("machine-a", "p", 0, &why), -EINVAL);
    f.id[0] = id;
    Sp__Signed empty = SP__SIGNED__INIT;
    assert_int_equal(vault_put_manifest(f.vault, &empty, &why), -EBADMSG);
    Sp__Manifest future = SP__MANIFEST__INIT;
    char *feature = (char[]){"from-the-future"};
    future.format = 1;
    future.n_critical_features = 1;
    future.critical_features = &feature;
    size_t size = 0;
    Sp__Signed s = SP__SIGNED__INIT;
    assert_int_equal(sp_pack(&future.base, &s.payload.data, &size), 0);
    s.payload.len = size;
    assert_int_equal(vault_put_manifest(f.vault, &s, &why), -ENOTSUP);
    free(s.payload.data);
}

static void any_flip_in_a_manifest_is_found(void **state)
{
    (void)state;
    char path[300];
    struct sp_why why = {{0}};
    snprintf(path, sizeof path, "%s/manifests/machine-a/point-1.0", f.dir);
    uint64_t size = file_size(path);
    for (uint64_t i = 0; i < size; i++) {
        flip(path, i, i % 8);
        int r = get("machine-a", "point-1", &why);
        if (r >= 0)
            fail_msg("flip of bit %d of byte %llu of %llu was not noticed", (int)(i % 8),
                     (unsigned long long)i, (unsigned long long)size);
        flip(path, i, i % 8);
    }
    flip(path, size / 2, 0);
    char *text SP_FREE = check_text(&f, false);
    assert_non_null(strstr(text, "manifests/machine-a/point-1.0"));
    assert_non_null(strstr(text, "|LOST|point-1,"));
}

static void any_cut_manifest_is_found(void **state)
{
    (void)state;
    char path[300];
    struct sp_why why = {{0}};
    snprintf(path, sizeof path, "%s/manifests/machine-a/point-1.0", f.dir);
    assert_int_equal(chmod(path, 0600), 0);
    for (uint64_t size = file_size(path); size > 0; size--) {
        assert_int_equal(truncate(path, (off_t)(size - 1)), 0);
        assert_true(get("machine-a", "point-1", &why) < 0);
    }
    char *text SP_FREE = check_text(&f, false);
    assert_non_null(strstr(text, "manifests/machine-a/point-1.0"));
}

static void move(const char *from, const char *to)
{
    char a[300], b[300];
    snprintf(a, sizeof a, "%s/manifests/%s", f.dir, from);
    snprintf(b, sizeof b, "%s/manifests/%s", f.dir, to);
    *strrchr(b, '/') = 0;
    assert_true(mkdir(b, 0700) == 0 || errno == EEXIST);
    b[strlen(b)] = '/';
    char command[700];
    snprintf(command, sizeof command, "cp -f %s %s", a, b);
    assert_int_equal(system(command), 0);
}

static void a_manifest_replayed_for_another_machine_is_refused(void **state)
{
    (void)state;
    struct sp_why why = {{0}};
    move("machine-a/point-1.0", "machine-b/point-1.0");
    assert_int_equal(get("machine-b", "point-1", &why), -EBADMSG);
    assert_non_null(strstr(why.text, "moved or replayed"));
    char *text SP_FREE = check_text(&f, false);
    assert_non_null(strstr(text, "of machine machine-a and lies under machine machine-b"));
}

static void swapped_points_and_revisions_are_refused(void **state)
{
    (void)state;
    struct sp_why why = {{0}};
    move("machine-a/point-1.0", "machine-a/point-2.0");
    assert_int_equal(get("machine-a", "point-2", &why), -EBADMSG);
    assert_non_null(strstr(why.text, "swapped"));
    move("machine-a/point-1.0", "machine-a/point-1.5");
    assert_int_equal(get("machine-a", "point-1", &why), 0); /* the false one is passed over */
    char *text SP_FREE = check_text(&f, false);
    assert_non_null(strstr(text, "is revision 0 and lies under revision 5"));
}

static void a_manifest_of_another_vault_is_refused(void **state)
{
    (void)state;
    struct fixture other;
    struct sp_why why = {{0}};
    fixture_make(&other);
    char command[700];
    snprintf(command, sizeof command, "cp -r %s/manifests %s/packs %s/", f.dir, f.dir, other.dir);
    assert_int_equal(system(command), 0);
    fixture_reopen(&other);
    Sp__Signed *s = NULL;
    Sp__Manifest *m = NULL;
    assert_int_equal(
        vault_get_manifest(other.vault, "machine-a", "point-1", fixture_seal_key(&f), &s, &m, &why),
        -EBADMSG);
    assert_non_null(strstr(why.text, "another vault"));
    fixture_free(&other);
}

static void signatures_are_looked_at(void **state)
{
    (void)state;
    struct sp_why why = {{0}};
    Sp__DiskImage *images[] = {&image};
    /* Signed by somebody else. */
    EVP_PKEY *mine = f.seal;
    f.seal = sp_key_new();
    Sp__Signed *m = manifest_make(&f, "machine-a", "point-2", 2, 0, images, 1);
    EVP_PKEY_free(f.seal);
    f.seal = mine;
    assert_int_equal(vault_put_manifest(f.vault, m, &why), 0);
    sp__signed__free_unpacked(m, NULL);
    assert_int_equal(get("machine-a", "point-2", &why), -EKEYREJECTED);
    assert_non_null(strstr(why.text, "signature is not the keeper's"));
    /* Not signed: an unproven point's may be read when nobody asks for a signature. */
    m = manifest_make(&f, "machine-a", "point-3", 3, 0, images, 1);
    sp__signature__free_unpacked(m->signatures[0], NULL);
    m->n_signatures = 0;
    assert_int_equal(vault_put_manifest(f.vault, m, &why), 0);
    sp__signed__free_unpacked(m, NULL);
    assert_int_equal(get("machine-a", "point-3", &why), -EKEYREJECTED);
    assert_non_null(strstr(why.text, "no signature"));
    Sp__Signed *s = NULL;
    Sp__Manifest *manifest = NULL;
    assert_int_equal(vault_get_manifest(f.vault, "machine-a", "point-3", (struct sp_bytes){0}, &s,
                                        &manifest, &why),
                     0);
    sp__manifest__free_unpacked(manifest, NULL);
    sp__signed__free_unpacked(s, NULL);
    char *text SP_FREE = check_text(&f, false);
    assert_non_null(strstr(text, "point-2.0: the manifest's signature is not the keeper's"));
    assert_non_null(strstr(text, "point-3.0: the manifest carries no signature"));
}

static void keystore_copies_are_named_by_content_and_missed(void **state)
{
    (void)state;
    struct sp_why why = {{0}};
    char one[128], two[128], path[300];
    assert_int_equal(vault_put_keystore_copy(f.vault, 7, "keys", 4, one, &why), 0);
    assert_int_equal(vault_put_keystore_copy(f.vault, 7, "keys", 4, two, &why), 0);
    assert_string_equal(one, two);
    Sp__Manifest m = SP__MANIFEST__INIT;
    m.format = 1;
    m.vault_id = f.id;
    m.machine_id = (char[]){"machine-a"};
    m.point_id = (char[]){"point-5"};
    m.keystore_copy = one;
    uint8_t *payload SP_FREE = NULL;
    size_t size = 0;
    Sp__Signed *s = NULL;
    assert_int_equal(sp_pack(&m.base, &payload, &size), 0);
    assert_int_equal(sp_signed_make(f.seal, SP_SIGN_MANIFEST, payload, size, &s), 0);
    assert_int_equal(vault_put_manifest(f.vault, s, &why), 0);
    sp__signed__free_unpacked(s, NULL);
    char *good SP_FREE = check_text(&f, false);
    assert_string_equal(good, "");
    snprintf(path, sizeof path, "%s/%s", f.dir, one);
    flip(path, 1, 1);
    char *damaged SP_FREE = check_text(&f, false);
    assert_non_null(strstr(damaged, "is damaged"));
    assert_int_equal(unlink(path), 0);
    char *missing SP_FREE = check_text(&f, false);
    assert_non_null(strstr(missing, "is missing: without the keeper its keys are lost|LOST|"));
    assert_int_equal(put("machine-a", "point-6", 0, &why), 0);
}

/* Each manifest names the hash of the one before. */
static void a_replaced_manifest_breaks_the_chain(void **state)
{
    (void)state;
    struct sp_why why = {{0}};
    Sp__Signed *before = NULL;
    Sp__Manifest *parsed = NULL;
    assert_int_equal(vault_get_manifest(f.vault, "machine-a", "point-1", fixture_seal_key(&f),
                                        &before, &parsed, &why),
                     0);
    sp__manifest__free_unpacked(parsed, NULL);
    for (int wrong = 0; wrong <= 1; wrong++) {
        uint8_t hash[32];
        assert_int_equal(sp_sha256_of(before->payload.data, before->payload.len, hash), 0);
        hash[0] ^= (uint8_t)wrong;
        Sp__Manifest m = SP__MANIFEST__INIT;
        m.format = 1;
        m.vault_id = f.id;
        m.machine_id = (char[]){"machine-a"};
        m.point_id = wrong ? (char[]){"point-3"} : (char[]){"point-2"};
        m.sequence = 2;
        m.previous_manifest_sha256 = (ProtobufCBinaryData){32, hash};
        uint8_t *payload SP_FREE = NULL;
        size_t size = 0;
        Sp__Signed *s = NULL;
        assert_int_equal(sp_pack(&m.base, &payload, &size), 0);
        assert_int_equal(sp_signed_make(f.seal, SP_SIGN_MANIFEST, payload, size, &s), 0);
        assert_int_equal(vault_put_manifest(f.vault, s, &why), 0);
        sp__signed__free_unpacked(s, NULL);
        char *text SP_FREE = check_text(&f, false);
        assert_true(wrong ? strstr(text, "one of the two was replaced") != NULL : !*text);
    }
    sp__signed__free_unpacked(before, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
        TEST(the_newest_good_revision_is_given),
        TEST(a_manifest_over_data_that_is_not_there_is_refused),
        TEST(malformed_manifests_are_not_taken),
        TEST(any_flip_in_a_manifest_is_found),
        TEST(any_cut_manifest_is_found),
        TEST(a_manifest_replayed_for_another_machine_is_refused),
        TEST(swapped_points_and_revisions_are_refused),
        TEST(a_manifest_of_another_vault_is_refused),
        TEST(signatures_are_looked_at),
        TEST(keystore_copies_are_named_by_content_and_missed),
        TEST(a_replaced_manifest_breaks_the_chain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
