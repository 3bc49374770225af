/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A stranger cannot fill the audit, and nothing is left unsaid. */
#include "controller/api/refusals.h"
#include "build.h"
#include <string.h>

static uint64_t now_ns;

static uint64_t fake_now(void *self)
{
    (void)self;
    return now_ns;
}

static const struct sp_clock fake_clock = {.monotonic_ns = fake_now};

static void pass_s(unsigned seconds)
{
    now_ns += seconds * UINT64_C(1000000000);
}

struct told {
    unsigned entries, total;
    char last[80];
};

static void tell(void *arg, const char *source, unsigned count)
{
    struct told *t = arg;
    t->entries++;
    t->total += count;
    snprintf(t->last, sizeof(t->last), "%s", source);
}

static struct refusals *fresh(void)
{
    struct refusals *r = NULL;
    now_ns = 0;
    assert_int_equal(refusals_new(&fake_clock, &r), 0);
    return r;
}

static unsigned admitted(struct refusals *r, const char *source, unsigned times)
{
    unsigned n = 0;
    for (unsigned i = 0; i < times; i++)
        n += refusals_admit(r, source);
    return n;
}

static void the_first_are_written_the_rest_is_told_a_minute_later(void **state)
{
    (void)state;
    struct refusals *r = fresh();
    struct told t = {0};
    assert_int_equal(admitted(r, "192.0.2.7", 1000), REFUSALS_OF_ONE);
    refusals_tell(r, false, tell, &t);
    assert_int_equal(t.entries, 0);
    pass_s(60);
    refusals_tell(r, false, tell, &t);
    assert_int_equal(t.entries, 1);
    assert_int_equal(t.total, 1000 - REFUSALS_OF_ONE);
    assert_string_equal(t.last, "192.0.2.7");
    /* Told once. */
    refusals_tell(r, false, tell, &t);
    assert_int_equal(t.entries, 1);
    /* And after that it is written again, a few times. */
    assert_int_equal(admitted(r, "192.0.2.7", 1000), REFUSALS_OF_ONE);
    refusals_free(r);
}

static void one_source_does_not_silence_another(void **state)
{
    (void)state;
    struct refusals *r = fresh();
    assert_int_equal(admitted(r, "192.0.2.7", 1000), REFUSALS_OF_ONE);
    assert_int_equal(admitted(r, "192.0.2.8", 3), 3);
    refusals_free(r);
}

static void few_refusals_are_all_written(void **state)
{
    (void)state;
    struct refusals *r = fresh();
    struct told t = {0};
    for (unsigned i = 0; i < 100; i++) {
        assert_true(refusals_admit(r, "192.0.2.7"));
        pass_s(10);
    }
    refusals_tell(r, true, tell, &t);
    assert_int_equal(t.entries, 0);
    refusals_free(r);
}

static void very_many_sources_are_bounded_too(void **state)
{
    (void)state;
    struct refusals *r = fresh();
    struct told t = {0};
    unsigned written = 0, total = 0;
    char source[80];
    for (unsigned i = 0; i < 5000; i++, total++) {
        snprintf(source, sizeof(source), "2001:db8:%x::/64", i);
        written += refusals_admit(r, source);
    }
    assert_true(written <= REFUSALS_OF_ALL);
    refusals_tell(r, true, tell, &t);
    assert_true(t.entries <= REFUSALS_SOURCES + 1);
    assert_int_equal(written + t.total, total); /* nothing is left unsaid */
    assert_string_equal(t.last, "");            /* those that no slot was left for */
    refusals_free(r);
}

static void ports_and_hosts_of_one_network_are_one_source(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"ipv4:192.0.2.7:4711", "192.0.2.7"},
        {"192.0.2.7:4712", "192.0.2.7"},
        {"[2001:db8:1:2:3:4:5:6]:443", "2001:db8:1:2::/64"},
        {"ipv6:%5B2001:db8:1:2::9%5D:443", "2001:db8:1:2::/64"},
        {"ipv6:[::ffff:192.0.2.7]:443", "192.0.2.7"},
        {"unix:/run/x", "unix:/run/x"},
        {"", ""},
    };
    for (size_t i = 0; i < SP_COUNT(rows); i++) {
        char out[80];
        assert_string_equal(refusals_source(rows[i][0], out), rows[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_are_written_the_rest_is_told_a_minute_later),
        cmocka_unit_test(one_source_does_not_silence_another),
        cmocka_unit_test(few_refusals_are_all_written),
        cmocka_unit_test(very_many_sources_are_bounded_too),
        cmocka_unit_test(ports_and_hosts_of_one_network_are_one_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
