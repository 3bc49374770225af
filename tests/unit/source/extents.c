/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What differs between two maps of a file's bytes, against comparing them block by block. */
#include "controller/mover/source/extents.h"

#include "base/bytes.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BLOCKS = 48, BLOCK = 4096 };

/* A file of BLOCKS blocks: where each lies; 0: a hole. Odd: nobody knows for certain. */
typedef unsigned file_map[BLOCKS];

static void to_extents(const file_map f, struct extents *ret)
{
    ret->all = calloc(BLOCKS, sizeof(*ret->all));
    ret->count = 0;
    for (unsigned i = 0; i < BLOCKS; i++) {
        if (!f[i])
            continue;
        struct extent *last = ret->count ? &ret->all[ret->count - 1] : NULL;
        /* Some neighbours are one extent, some two that touch. */
        if (last && i && f[i - 1] && f[i] == f[i - 1] + 2 && f[i] % 8 != 0)
            last->length += BLOCK;
        else
            ret->all[ret->count++] = (struct extent){.at = (uint64_t)i * BLOCK,
                                                     .length = BLOCK,
                                                     .on = (uint64_t)f[i] / 2 * BLOCK,
                                                     .certain = f[i] % 2 == 0};
    }
}

static bool differs(const file_map a, const file_map b, unsigned i)
{
    return (a[i] || b[i]) && (a[i] != b[i] || a[i] % 2);
}

static void check(const file_map a, const file_map b)
{
    struct extents before, now;
    struct extent_range *c;
    size_t count;
    bool marked[BLOCKS] = {false};
    to_extents(a, &before);
    to_extents(b, &now);
    assert_int_equal(extents_changed(&before, &now, BLOCKS * BLOCK, &c, &count), 0);
    for (size_t i = 0; i < count; i++) {
        assert_true(c[i].length > 0 && c[i].at % BLOCK == 0 && c[i].length % BLOCK == 0);
        assert_true(c[i].at + c[i].length <= BLOCKS * BLOCK);
        assert_true(i == 0 || c[i].at > c[i - 1].at + c[i - 1].length); /* in order, apart */
        for (uint64_t at = c[i].at; at < c[i].at + c[i].length; at += BLOCK)
            marked[at / BLOCK] = true;
    }
    for (unsigned i = 0; i < BLOCKS; i++)
        assert_int_equal(marked[i], differs(a, b, i));
    free(c);
    extents_clear(&before);
    extents_clear(&now);
}

static void any_two_files(void **state)
{
    (void)state;
    srand(7);
    for (unsigned round = 0; round < 20000; round++) {
        file_map a, b;
        unsigned place = 2;
        for (unsigned i = 0; i < BLOCKS; i++) {
            place += rand() % 4 ? 2 : 2 * (unsigned)(rand() % 50);
            a[i] = rand() % 5 ? place : 0;
            b[i] = rand() % 6 ? a[i] : rand() % 3 ? 10000 + 2 * (unsigned)(rand() % 90) : 0;
            if (rand() % 40 == 0 && b[i])
                b[i] |= 1;
        }
        check(a, b);
    }
}

static void the_ends(void **state)
{
    (void)state;
    static const file_map nothing, all = {2, 4, 6, 8}, other = {2, 4, 100, 8};
    check(nothing, nothing);
    check(nothing, all);
    check(all, nothing);
    check(all, other);
    struct extents none = {NULL, 0};
    struct extent_range *c = NULL;
    size_t count = 9;
    assert_int_equal(extents_changed(&none, &none, 0, &c, &count), 0);
    assert_int_equal(count, 0);
    free(c);
    /* An extent may end behind the file: file systems give out whole blocks. */
    struct extent x = {.at = 0, .length = BLOCK, .on = 77, .certain = true};
    struct extents one = {&x, 1};
    assert_int_equal(extents_changed(&one, &none, 512, &c, &count), 0);
    assert_int_equal(count, 1);
    assert_int_equal(c[0].length, 512);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_two_files),
        cmocka_unit_test(the_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
