/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Every non-zero range is known, or is named. */
#include "controller/backup/accounting.h"
#include "build.h"
#include <string.h>

enum { DISK_BYTES = 1 << 20, CHUNK = 65536 };

struct table {
    uint8_t bytes[DISK_BYTES];
    unsigned reads;
};

static int read_table(void *self, uint64_t offset, void *out, uint32_t length, struct sp_why *why)
{
    struct table *t = self;
    (void)why;
    assert_true(offset + length <= DISK_BYTES);
    memcpy(out, t->bytes + offset, length);
    t->reads++;
    return 0;
}

/* Whole chunks, as the vault's reader gives them. */
static int next_chunk(void *self, uint64_t offset, uint64_t *ret_offset, uint64_t *ret_length,
                      struct sp_why *why)
{
    struct table *t = self;
    (void)why;
    for (uint64_t at = offset / CHUNK * CHUNK; at < DISK_BYTES; at += CHUNK) {
        if (!sp_is_zero(t->bytes + at, CHUNK)) {
            *ret_offset = at;
            *ret_length = CHUNK;
            return 1;
        }
    }
    return 0;
}

static struct ranges account(struct table *t, const uint64_t (*uses)[2], size_t count)
{
    struct accounting_disk disk = {"data0", DISK_BYTES, read_table, next_chunk, t};
    struct ranges used RANGES = {0};
    struct ranges left = {0};
    for (size_t i = 0; i < count; i++)
        assert_int_equal(ranges_add(&used, uses[i][0], uses[i][1]), 0);
    ranges_settle(&used);
    assert_int_equal(accounting_left(&disk, &used, &left, NULL), 0);
    return left;
}

static void an_empty_disk_has_nothing_left(void **state)
{
    (void)state;
    struct table *t = calloc(1, sizeof(*t));
    struct ranges left RANGES = account(t, NULL, 0);
    assert_int_equal(left.count, 0);
    free(t);
}

static void a_single_byte_is_found(void **state)
{
    (void)state;
    struct table *t = calloc(1, sizeof(*t));
    t->bytes[5 * 4096 + 17] = 1;
    struct ranges left RANGES = account(t, NULL, 0);
    assert_int_equal(left.count, 1);
    assert_int_equal(left.at[0].start, 5 * 4096);
    assert_int_equal(left.at[0].end, 6 * 4096);
    free(t);
}

static void what_is_used_is_not_even_read(void **state)
{
    (void)state;
    struct table *t = calloc(1, sizeof(*t));
    memset(t->bytes + CHUNK, 7, 2 * CHUNK);
    const uint64_t uses[][2] = {{CHUNK, CHUNK}, {2 * CHUNK, CHUNK}};
    struct ranges left RANGES = account(t, uses, 2);
    assert_int_equal(left.count, 0);
    assert_int_equal(t->reads, 0);
    free(t);
}

static void a_byte_beside_what_is_used_is_found(void **state)
{
    (void)state;
    struct table *t = calloc(1, sizeof(*t));
    memset(t->bytes, 7, 10000);
    /* Uses need not end at a block: the rest of that block is looked at. */
    const uint64_t uses[][2] = {{0, 9999}};
    struct ranges left RANGES = account(t, uses, 1);
    assert_int_equal(left.count, 1);
    assert_int_equal(left.at[0].start, 9999);
    assert_int_equal(left.at[0].end, 3 * 4096);
    free(t);
}

static void neighbours_are_one_range(void **state)
{
    (void)state;
    struct table *t = calloc(1, sizeof(*t));
    memset(t->bytes + CHUNK - 4096, 9, 8192);
    t->bytes[DISK_BYTES - 1] = 1;
    struct ranges left RANGES = account(t, NULL, 0);
    assert_int_equal(left.count, 2);
    assert_int_equal(left.at[0].end - left.at[0].start, 8192);
    assert_int_equal(left.at[1].end, DISK_BYTES);
    free(t);
}

static void many_ranges_are_one_finding(void **state)
{
    (void)state;
    struct table *t = calloc(1, sizeof(*t));
    for (unsigned i = 1; i <= 100; i++)
        t->bytes[i * 8192] = 1;
    struct ranges left RANGES = account(t, NULL, 0);
    assert_int_equal(left.count, 100);
    Sp__Manifest *m = message_new(&sp__manifest__descriptor);
    assert_int_equal(accounting_report("data0", &left, FINDINGS(m)), 0);
    assert_int_equal(accounting_keep("data0", &left, m), 0);
    assert_int_equal(m->n_findings, 1);
    const Sp__Finding *f = m->findings[0];
    assert_int_equal(f->reason, SP__REASON__REASON_UNIDENTIFIED_CONTENT);
    assert_string_equal(f->disk_id, "data0");
    assert_int_equal(f->offset_bytes, 8192);
    assert_int_equal(f->offset_bytes + f->length_bytes, 100 * 8192 + 4096);
    assert_non_null(strstr(f->text, "409600 bytes in 100 ranges (8192+4096, 16384+4096, "
                                    "24576+4096, …)"));
    assert_null(strstr(f->text, "data0"));
    /* Each of them stays in the manifest. */
    assert_int_equal(m->n_ranges, 100);
    for (unsigned i = 0; i < 100; i++) {
        assert_string_equal(m->ranges[i]->what, "unidentified");
        assert_string_equal(m->ranges[i]->on->disk_id, "data0");
        assert_int_equal(m->ranges[i]->on->offset_bytes, (i + 1) * 8192);
        assert_int_equal(m->ranges[i]->on->length_bytes, 4096);
    }
    message_free(m);
    free(t);
}

static void nothing_left_is_no_finding(void **state)
{
    (void)state;
    struct ranges left RANGES = {0};
    Sp__Manifest *m = message_new(&sp__manifest__descriptor);
    assert_int_equal(accounting_report("data0", &left, FINDINGS(m)), 0);
    assert_int_equal(accounting_keep("data0", &left, m), 0);
    assert_int_equal(m->n_findings + m->n_ranges, 0);
    message_free(m);
}

static void very_many_ranges_are_covered_by_few(void **state)
{
    (void)state;
    struct ranges left RANGES = {0};
    /* Two clouds, far from each other: what is close becomes one, what is far stays apart. */
    for (uint64_t i = 0; i < 5000; i++)
        assert_int_equal(ranges_add(&left, i * 12288 + (i < 2500 ? 0 : UINT64_C(1) << 40), 4096),
                         0);
    ranges_settle(&left);
    Sp__Manifest *m = message_new(&sp__manifest__descriptor);
    uint64_t end = left.at[left.count - 1].end;
    assert_int_equal(accounting_keep("data0", &left, m), 0);
    assert_true(m->n_ranges >= 2 && m->n_ranges <= ACCOUNTING_MAX_RANGES);
    const Sp__DiskExtent *last = m->ranges[m->n_ranges - 1]->on;
    assert_int_equal(m->ranges[0]->on->offset_bytes, 0);
    assert_int_equal(last->offset_bytes + last->length_bytes, end);
    assert_true(last->offset_bytes >= UINT64_C(1) << 40);
    message_free(m);
}

static int fails(void *self, uint64_t offset, void *out, uint32_t length, struct sp_why *why)
{
    (void)self;
    (void)offset;
    (void)out;
    (void)length;
    return sp_why_set(why, -EBADMSG, "damaged");
}

static int backwards(void *self, uint64_t offset, uint64_t *ret_offset, uint64_t *ret_length,
                     struct sp_why *why)
{
    (void)self;
    (void)why;
    *ret_offset = offset ? offset - 1 : 0;
    *ret_length = 1;
    return 1;
}

static void damage_is_an_error_not_an_answer(void **state)
{
    (void)state;
    struct table *t = calloc(1, sizeof(*t));
    struct ranges used RANGES = {0};
    struct ranges left RANGES = {0};
    struct sp_why why = {0};
    t->bytes[0] = 1;
    struct accounting_disk disk = {"data0", DISK_BYTES, fails, next_chunk, t};
    assert_int_equal(accounting_left(&disk, &used, &left, &why), -EBADMSG);
    assert_string_equal(why.text, "damaged");
    disk.next_data = backwards;
    disk.read_at = read_table;
    assert_int_equal(accounting_left(&disk, &used, &left, &why), -EBADMSG);
    free(t);
}

static void ranges_that_overflow_are_refused(void **state)
{
    (void)state;
    struct ranges r RANGES = {0};
    assert_int_equal(ranges_add(&r, UINT64_MAX - 10, 11), -EOVERFLOW);
    assert_int_equal(ranges_add(&r, UINT64_MAX - 10, 10), 0);
    assert_int_equal(r.count, 1);
}

static void ranges_merge_in_any_order(void **state)
{
    (void)state;
    struct ranges r RANGES = {0};
    static const uint64_t in[][2] = {{50, 10}, {0, 10}, {10, 5}, {55, 20}, {100, 1}, {52, 2}};
    for (size_t i = 0; i < SP_COUNT(in); i++)
        assert_int_equal(ranges_add(&r, in[i][0], in[i][1]), 0);
    ranges_settle(&r);
    assert_int_equal(r.count, 3);
    assert_int_equal(r.at[0].start, 0);
    assert_int_equal(r.at[0].end, 15);
    assert_int_equal(r.at[1].start, 50);
    assert_int_equal(r.at[1].end, 75);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_disk_has_nothing_left),
        cmocka_unit_test(a_single_byte_is_found),
        cmocka_unit_test(what_is_used_is_not_even_read),
        cmocka_unit_test(a_byte_beside_what_is_used_is_found),
        cmocka_unit_test(neighbours_are_one_range),
        cmocka_unit_test(many_ranges_are_one_finding),
        cmocka_unit_test(nothing_left_is_no_finding),
        cmocka_unit_test(very_many_ranges_are_covered_by_few),
        cmocka_unit_test(damage_is_an_error_not_an_answer),
        cmocka_unit_test(ranges_that_overflow_are_refused),
        cmocka_unit_test(ranges_merge_in_any_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
