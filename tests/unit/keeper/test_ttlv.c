/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * TTLV: the examples of the specification, what passes is written again as it was, what lies does
 * not pass. */
#include "rig.h"

#include "base/cleanup.h"
#include "controller/keeper/providers/kmip_message.h"
#include "controller/keeper/providers/ttlv.h"
#include <string.h>

/* ---- KMIP Specification 1.2, 9.1.2 ---- */

static const struct {
    const char *hex;
    enum ttlv_type type;
} examples[] = {
    {"42002002000000040000000800000000", TTLV_INTEGER},
    {"420020030000000801b69b4ba5749200", TTLV_LONG_INTEGER},
    {"42002004000000100000000003fd35eb6bc2df4618080000", TTLV_BIG_INTEGER},
    {"4200200500000004000000ff00000000", TTLV_ENUMERATION},
    {"42002006000000080000000000000001", TTLV_BOOLEAN},
    {"420020070000000b48656c6c6f20576f726c640000000000", TTLV_TEXT},
    {"42002008000000030102030000000000", TTLV_BYTES},
    {"42002009000000080000000047da67f8", TTLV_DATE_TIME},
    {"4200200a00000004000d2f0000000000", TTLV_INTERVAL},
    {"42002001000000204200040500000004000000fe000000004200050200000004000000ff00000000",
     TTLV_STRUCTURE},
};

static struct sp_bytes unhex(const char *hex, uint8_t out[256])
{
    size_t size = strlen(hex) / 2;
    assert_int_equal(sp_unhex(hex, out, size), 0);
    return (struct sp_bytes){out, size};
}

/* Writes an item and all in it. */
static void rewrite(struct ttlv_writer *w, const struct ttlv_item *item)
{
    struct sp_bytes rest = item->value;
    struct ttlv_item inner;
    switch (item->type) {
    case TTLV_STRUCTURE:
        ttlv_begin(w, item->tag);
        while (ttlv_next(&rest, &inner))
            rewrite(w, &inner);
        ttlv_end(w);
        break;
    case TTLV_INTEGER:
    case TTLV_ENUMERATION:
    case TTLV_INTERVAL:
        ttlv_put_u32(w, item->tag, item->type, ttlv_u32(item));
        break;
    case TTLV_LONG_INTEGER:
    case TTLV_BOOLEAN:
    case TTLV_DATE_TIME:
        ttlv_put_u64(w, item->tag, item->type, ttlv_u64(item));
        break;
    default:
        ttlv_put(w, item->tag, item->type, item->value.data, item->value.size);
    }
}

/* An error, or a message that says exactly what it is. */
static bool passes(struct sp_bytes message)
{
    uint8_t again[1024];
    struct ttlv_item item;
    struct ttlv_writer w = {.data = again, .capacity = sizeof(again)};
    if (ttlv_check(message, &item) < 0)
        return false;
    rewrite(&w, &item);
    assert_true(ttlv_done(&w));
    assert_int_equal(w.size, message.size);
    assert_memory_equal(again, message.data, message.size);
    return true;
}

static void test_examples_of_the_specification(void **state)
{
    uint8_t bytes[256];
    struct ttlv_item item, inner;
    (void)state;
    for (size_t i = 0; i < SP_COUNT(examples); i++) {
        struct sp_bytes message = unhex(examples[i].hex, bytes);
        assert_true(passes(message));
        assert_int_equal(ttlv_check(message, &item), 0);
        assert_int_equal(item.tag, 0x420020);
        assert_int_equal(item.type, examples[i].type);
    }
    ttlv_check(unhex(examples[0].hex, bytes), &item);
    assert_int_equal(ttlv_u32(&item), 8);
    ttlv_check(unhex(examples[1].hex, bytes), &item);
    assert_int_equal(ttlv_u64(&item), 123456789000000000);
    ttlv_check(unhex(examples[5].hex, bytes), &item);
    assert_true(ttlv_text_is(&item, "Hello World"));
    assert_false(ttlv_text_is(&item, "Hello Worl"));
    ttlv_check(unhex(examples[9].hex, bytes), &item);
    assert_int_equal(ttlv_find(&item, 0x420004, TTLV_ENUMERATION, &inner), 0);
    assert_int_equal(ttlv_u32(&inner), 254);
    assert_int_equal(ttlv_find(&item, 0x420005, TTLV_INTEGER, &inner), 0);
    assert_int_equal(ttlv_u32(&inner), 255);
    assert_int_equal(ttlv_find(&item, 0x420005, TTLV_TEXT, &inner), -EBADMSG);
    assert_int_equal(ttlv_find(&item, 0x420006, TTLV_INTEGER, &inner), -ENOENT);
    assert_int_equal(ttlv_find(&inner, 0x420005, TTLV_INTEGER, &inner), -EBADMSG);
}

/* ---- every truncation, every byte ---- */

static size_t message_of_all(uint8_t *out, size_t capacity)
{
    const struct kmip_ask ask = {.operation = KMIP_REGISTER, .minor = 2, .number = 7};
    struct ttlv_writer w = {.data = out, .capacity = capacity};
    SP_SECRET struct sp_secret *secret = sp_secret_copy("open sesame", 11);
    kmip_request_begin(&w, &ask);
    kmip_put_register(&w, "sealpoint-canary", secret);
    ttlv_put_u64(&w, 0x420001, TTLV_BOOLEAN, 1);
    ttlv_put_u64(&w, 0x420092, TTLV_DATE_TIME, 1234567890);
    ttlv_put_u32(&w, 0x540001, TTLV_INTERVAL, 60);
    ttlv_put(&w, 0x540002, TTLV_BIG_INTEGER, "12345678", 8);
    ttlv_put(&w, 0x540003, TTLV_BYTES, NULL, 0);
    assert_true(kmip_request_end(&w));
    return w.size;
}

static void test_every_truncation_is_an_error(void **state)
{
    uint8_t message[1024];
    struct ttlv_item item;
    (void)state;
    size_t size = message_of_all(message, sizeof(message));
    assert_true(passes((struct sp_bytes){message, size}));
    for (size_t cut = 0; cut < size; cut++)
        assert_int_equal(ttlv_check((struct sp_bytes){message, cut}, &item), -EBADMSG);
    memset(message + size, 0, 8);
    for (size_t more = 1; more <= 8; more++)
        assert_int_equal(ttlv_check((struct sp_bytes){message, size + more}, &item), -EBADMSG);
}

static void test_every_changed_byte_is_an_error_or_means_what_it_says(void **state)
{
    uint8_t message[1024];
    unsigned passed = 0, failed = 0;
    (void)state;
    size_t size = message_of_all(message, sizeof(message));
    for (size_t i = 0; i < size; i++)
        for (unsigned change = 1; change < 256; change++) {
            message[i] ^= (uint8_t)change;
            if (passes((struct sp_bytes){message, size}))
                passed++;
            else
                failed++;
            message[i] ^= (uint8_t)change;
        }
    assert_true(failed > size * 100); /* lengths, types, spaces, padding */
    assert_true(passed > size * 10);  /* values, and the tags' last bytes */
}

/* ---- bounds ---- */

static void test_depth_has_an_end(void **state)
{
    enum { DEEP = 1000 };
    static uint8_t message[DEEP * TTLV_HEADER_BYTES];
    struct ttlv_item item;
    (void)state;
    for (unsigned depth = 1; depth <= DEEP; depth++) {
        struct sp_bytes m = {message + sizeof(message) - depth * TTLV_HEADER_BYTES,
                             depth * TTLV_HEADER_BYTES};
        uint8_t *head = (uint8_t *)(uintptr_t)m.data;
        const size_t inner = m.size - TTLV_HEADER_BYTES;
        memcpy(head, "\x42\x00\x20\x01\x00\x00", 6);
        head[6] = (uint8_t)(inner >> 8);
        head[7] = (uint8_t)inner;
        assert_int_equal(ttlv_check(m, &item), depth <= TTLV_DEPTH_MOST ? 0 : -E2BIG);
    }
}

static void test_a_writer_stops_at_its_end(void **state)
{
    uint8_t all[1024], part[1024];
    (void)state;
    size_t size = message_of_all(all, sizeof(all));
    const struct kmip_ask ask = {.operation = KMIP_GET, .minor = 0, .number = 1};
    struct ttlv_item item;
    assert_int_equal(ttlv_check((struct sp_bytes){all, size}, &item), 0);
    for (size_t capacity = 0; capacity < size; capacity++) {
        struct ttlv_writer w = {.data = part, .capacity = capacity};
        memset(part, 0xee, sizeof(part));
        rewrite(&w, &item);
        assert_false(ttlv_done(&w));
        for (size_t i = capacity; i < sizeof(part); i++)
            assert_int_equal(part[i], 0xee);
    }
    struct ttlv_writer open = {.data = part, .capacity = sizeof(part)};
    kmip_request_begin(&open, &ask);
    assert_false(ttlv_done(&open));
    struct ttlv_writer over = {.data = part, .capacity = sizeof(part)};
    ttlv_end(&over);
    assert_false(ttlv_done(&over));
    struct ttlv_writer deep = {.data = part, .capacity = sizeof(part)};
    for (int i = 0; i < TTLV_DEPTH_MOST + 1; i++)
        ttlv_begin(&deep, 0x420020);
    assert_true(deep.failed);
}

static void test_no_second_spelling(void **state)
{
    static const char *const lies[] = {
        "42002002000000040000000800000001", /* padding */
        "42002002000000080000000800000000", /* a long integer that says to be short */
        "42002006000000080000000000000002", /* neither true nor false */
        "4200200700000003610062000000000000",
        "42002007000000036100620000000000", /* 0 in a text */
        "42002004000000040000000800000000",
        "420020040000000000000000", /* big integers */
        "4200200b000000080000000047da67f8",
        "42002000000000040000000800000000", /* no such type */
        "41002002000000040000000800000000",
        "00000002000000040000000800000000", /* no such space */
        "4200200100000004420004050000000400000000",
        "42002008ffffffff0102030000000000",
        "42002001000000084200040500000004",
    };
    uint8_t bytes[256];
    struct ttlv_item item;
    (void)state;
    for (size_t i = 0; i < SP_COUNT(lies); i++)
        assert_int_equal(ttlv_check(unhex(lies[i], bytes), &item), -EBADMSG);
    /* Once more of the same is no answer either. */
    struct sp_bytes twice = unhex(
        "42002001000000204200050200000004000000010000000042000502000000040000000200000000", bytes);
    assert_int_equal(ttlv_check(twice, &item), 0);
    assert_int_equal(ttlv_find(&item, 0x420005, TTLV_INTEGER, &item), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examples_of_the_specification),
        cmocka_unit_test(test_every_truncation_is_an_error),
        cmocka_unit_test(test_every_changed_byte_is_an_error_or_means_what_it_says),
        cmocka_unit_test(test_depth_has_an_end),
        cmocka_unit_test(test_a_writer_stops_at_its_end),
        cmocka_unit_test(test_no_second_spelling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
