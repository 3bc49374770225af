/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "rig.h"

#include "controller/keeper/nonces.h"

static struct nonces nonces;

static int setup(void **state)
{
    (void)state;
    return nonces_init(&nonces);
}

static int teardown(void **state)
{
    (void)state;
    nonces_free(&nonces);
    return 0;
}

static void test_each_counts_once(void **state)
{
    uint8_t a[NONCE_BYTES], b[NONCE_BYTES];
    (void)state;
    assert_int_equal(nonces_make(&nonces, "x", 1, a), 0);
    assert_int_equal(nonces_make(&nonces, "x", 1, b), 0);
    assert_memory_not_equal(a, b, sizeof(a));
    assert_true(nonces_take(&nonces, a, sizeof(a), 2));
    assert_false(nonces_take(&nonces, a, sizeof(a), 2));
    assert_true(nonces_take(&nonces, b, sizeof(b), 2));
}

static void test_dies_after_five_minutes(void **state)
{
    uint8_t a[NONCE_BYTES], b[NONCE_BYTES];
    (void)state;
    assert_int_equal(nonces_make(&nonces, "x", 1000, a), 0);
    assert_int_equal(nonces_make(&nonces, "x", 1000, b), 0);
    assert_true(nonces_take(&nonces, a, sizeof(a), 1000 + NONCE_VALID_MS - 1));
    assert_false(nonces_take(&nonces, b, sizeof(b), 1000 + NONCE_VALID_MS));
}

static void test_nonsense_is_not_taken(void **state)
{
    uint8_t a[NONCE_BYTES] = {0};
    (void)state;
    assert_false(nonces_take(&nonces, a, sizeof(a), 1));
    assert_false(nonces_take(&nonces, a, 0, 1));
    assert_false(nonces_take(&nonces, a, 31, 1));
}

static void test_a_greedy_peer_loses_its_own(void **state)
{
    uint8_t other[NONCE_BYTES], first[NONCE_BYTES], last[NONCE_BYTES];
    (void)state;
    assert_int_equal(nonces_make(&nonces, "other", 1, other), 0);
    assert_int_equal(nonces_make(&nonces, "greedy", 1, first), 0);
    for (uint64_t i = 0; i < 2 * NONCES_MOST; i++)
        assert_int_equal(nonces_make(&nonces, "greedy", 2 + i % 100, last), 0);
    assert_true(nonces_take(&nonces, other, sizeof(other), 200));
    assert_false(nonces_take(&nonces, first, sizeof(first), 200));
    assert_true(nonces_take(&nonces, last, sizeof(last), 200));
}

static void test_the_table_is_bounded_and_recovers(void **state)
{
    uint8_t a[NONCE_BYTES];
    char peer[16];
    (void)state;
    for (int i = 0; i < NONCES_MOST; i++) {
        snprintf(peer, sizeof(peer), "p%d", i);
        assert_int_equal(nonces_make(&nonces, peer, 1, a), 0);
    }
    assert_int_equal(nonces_make(&nonces, "one more", 1, a), -EAGAIN);
    assert_int_equal(nonces_make(&nonces, "one more", 1 + NONCE_VALID_MS, a), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_each_counts_once),
        TEST(test_dies_after_five_minutes),
        TEST(test_nonsense_is_not_taken),
        TEST(test_a_greedy_peer_loses_its_own),
        TEST(test_the_table_is_bounded_and_recovers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
