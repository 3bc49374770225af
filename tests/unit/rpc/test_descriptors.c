/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What reflection hands out, looked up in the protoset of the build. */
#include "base/cleanup.h"
#include "base/file.h"
#include "rpc/internal.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct rpc_descriptors *d;

static int load(void **state)
{
    struct sp_why why = {0};
    (void)state;
    assert_int_equal(rpc_descriptors_load(PROTOSET, &d, &why), 0);
    return 0;
}

static int unload(void **state)
{
    (void)state;
    rpc_descriptors_free(d);
    return 0;
}

/* The file that declares a symbol starts with field 1, its name. */
static void assert_in(const char *symbol, const char *file)
{
    struct sp_bytes found = rpc_descriptors_by_symbol(d, symbol);
    size_t size = strlen(file);

    if (found.size < size + 2 || found.data[0] != 0x0a || found.data[1] != size ||
        memcmp(found.data + 2, file, size) != 0)
        fail_msg("%s is not found in %s", symbol, file);
    struct sp_bytes named = rpc_descriptors_by_name(d, file);
    assert_ptr_equal(named.data, found.data);
    assert_int_equal(named.size, found.size);
}

static void symbols_of_every_kind_are_found(void **state)
{
    (void)state;
    assert_in("sealpoint.v1.Fleet", "sealpoint/v1/fleet.proto");
    assert_in("sealpoint.v1.Fleet.Watch", "sealpoint/v1/fleet.proto");
    assert_in("sealpoint.v1.Machine", "sealpoint/v1/fleet.proto");
    assert_in("sealpoint.v1.Machine.last_valid_unix_ms", "sealpoint/v1/fleet.proto");
    assert_in("sealpoint.v1.FreezeResult.Outcome", "sealpoint/v1/types.proto");
    assert_in("sealpoint.v1.FreezeResult.Outcome.OUTCOME_FROZEN", "sealpoint/v1/types.proto");
    assert_in("sealpoint.v1.PointState", "sealpoint/v1/types.proto");
    assert_in("grpc.health.v1.Health", "grpc/health/v1/health.proto");
    assert_in("grpc.reflection.v1alpha.ServerReflection",
              "grpc/reflection/v1alpha/reflection.proto");
}

static void what_is_not_there_is_not_found(void **state)
{
    static const char *const symbols[] = {"",
                                          ".",
                                          "sealpoint.v1",
                                          "sealpoint.v1.",
                                          "sealpoint.v1.Flee",
                                          "sealpoint.v1.Fleets",
                                          "sealpoint.v1.Fleet.Watches",
                                          "sealpoint.v1.Fleet.Watch.x",
                                          "Fleet"};
    (void)state;
    for (size_t i = 0; i < SP_COUNT(symbols); i++)
        assert_int_equal(rpc_descriptors_by_symbol(d, symbols[i]).size, 0);
    assert_int_equal(rpc_descriptors_by_name(d, "").size, 0);
    assert_int_equal(rpc_descriptors_by_name(d, "sealpoint/v1/fleet").size, 0);
}

/* Cut anywhere, it is refused or read without a step outside (the sanitizer watches). */
static void a_damaged_set_is_survived(void **state)
{
    SP_FREE char *data = NULL;
    size_t size;
    (void)state;

    assert_int_equal(sp_file_read(PROTOSET, 16 << 20, &data, &size), 0);
    for (size_t cut = 1; cut < size; cut += 97) {
        struct rpc_descriptors *part = NULL;
        char *copy = malloc(cut);
        memcpy(copy, data, cut);
        copy[cut / 2] = (char)(copy[cut / 2] ^ 0x5a);
        if (rpc_descriptors_parse(copy, cut, &part) == 0) {
            rpc_descriptors_by_symbol(part, "sealpoint.v1.FreezeResult.Outcome.NONE");
            rpc_descriptors_free(part);
        }
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(symbols_of_every_kind_are_found),
        cmocka_unit_test(what_is_not_there_is_not_found),
        cmocka_unit_test(a_damaged_set_is_survived),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
