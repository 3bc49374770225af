/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Guest disk ↔ source disk: one candidate or none. */
#include "controller/backup/match.h"
#include "build.h"
#include <string.h>

static void free_all(Sp__SourceDisk **disks, size_t count)
{
    for (size_t i = 0; i < count; i++)
        message_free(disks[i]);
}

static Sp__Inventory *an_inventory(void)
{
    Sp__Inventory *i = message_new(&sp__inventory__descriptor);
    assert_non_null(i);
    return i;
}

static void serials_match_first(void **state)
{
    (void)state;
    Sp__Inventory *i = an_inventory();
    ADD(i, devices, a_device("vda", "disk", "root", NULL));
    ADD(i, devices, a_device("vdb", "disk", "data", NULL));
    ADD(i, devices, a_device("sr0", "rom", "", NULL));
    Sp__SourceDisk *disks[] = {a_source_disk("data", "data", ""),
                               a_source_disk("root", "root", "")};
    struct match m MATCH = {0};
    assert_int_equal(match_disks(i, disks, 2, NULL, &m), 0);
    assert_int_equal(m.count, 2);
    assert_ptr_equal(match_find(&m, "vda"), disks[1]);
    assert_ptr_equal(match_find(&m, "data"), disks[0]);
    assert_null(match_find(&m, "sr0"));
    free_all(disks, 2);
    message_free(i);
}

static void a_serial_cut_by_virtio_still_matches(void **state)
{
    (void)state;
    Sp__Inventory *i = an_inventory();
    ADD(i, devices, a_device("vda", "disk", "01234567890123456789", NULL));
    Sp__SourceDisk *disks[] = {a_source_disk("d", "0123456789012345678901234", "")};
    struct match m MATCH = {0};
    assert_int_equal(match_disks(i, disks, 1, NULL, &m), 0);
    assert_ptr_equal(match_find(&m, "vda"), disks[0]);
    free_all(disks, 1);
    message_free(i);
}

static void equal_serials_are_ambiguous(void **state)
{
    (void)state;
    Sp__Inventory *i = an_inventory();
    ADD(i, devices, a_device("vda", "disk", "same", NULL));
    ADD(i, devices, a_device("vdb", "disk", "same", NULL));
    Sp__SourceDisk *disks[] = {a_source_disk("a", "same", "pci-1"),
                               a_source_disk("b", "same", "pci-2")};
    struct match m MATCH = {0};
    Sp__Point *p = message_new(&sp__point__descriptor);
    assert_int_equal(match_disks(i, disks, 2, NULL, &m), 0);
    assert_null(match_find(&m, "vda"));
    assert_null(match_find(&m, "vdb"));
    assert_int_equal(match_report(&m, FINDINGS(p)), 0);
    assert_int_equal(p->n_findings, 2);
    assert_int_equal(p->findings[0]->reason, SP__REASON__REASON_DISK_MISSING);
    message_free(p);
    free_all(disks, 2);
    message_free(i);
}

static void uuids_match_what_has_no_serial(void **state)
{
    (void)state;
    Sp__Inventory *i = an_inventory();
    ADD(i, devices, a_device("vda", "disk", "", NULL));
    ADD(i, devices, a_device("vdb", "disk", "", NULL));
    Sp__Volume *a = a_volume(SP__VOLUME_KIND__VOLUME_KIND_LUKS2, "luks:a", "vda", 0, 100);
    Sp__Volume *b = a_volume(SP__VOLUME_KIND__VOLUME_KIND_LUKS1, "luks:b", "vdb", 0, 100);
    with_header(a, "uuid-a", 1);
    with_header(b, "uuid-b", 2);
    ADD(i, volumes, a);
    ADD(i, volumes, b);
    Sp__LookResponse *look = message_new(&sp__look_response__descriptor);
    Sp__Volume *seen_a = a_volume(SP__VOLUME_KIND__VOLUME_KIND_LUKS2, "luks:a", "drive1", 0, 100);
    Sp__Volume *seen_b = a_volume(SP__VOLUME_KIND__VOLUME_KIND_LUKS1, "luks:b", "drive0", 0, 100);
    with_header(seen_a, "uuid-a", 1);
    with_header(seen_b, "uuid-b", 2);
    ADD(look, volumes, seen_a);
    ADD(look, volumes, seen_b);
    Sp__SourceDisk *disks[] = {a_source_disk("drive0", "", ""), a_source_disk("drive1", "", "")};
    struct match m MATCH = {0};
    assert_int_equal(match_disks(i, disks, 2, look, &m), 0);
    assert_ptr_equal(match_find(&m, "vda"), disks[1]);
    assert_ptr_equal(match_find(&m, "vdb"), disks[0]);
    /* And the inventory then speaks of the source's disks. */
    assert_int_equal(match_rewrite(&m, i), 0);
    assert_string_equal(i->volumes[0]->extents[0]->on->disk_id, "drive1");
    free_all(disks, 2);
    message_free(look);
    message_free(i);
}

static void pci_paths_come_last(void **state)
{
    (void)state;
    Sp__Inventory *i = an_inventory();
    Sp__BlockDevice *d = a_device("vda", "disk", "", NULL);
    assert_int_equal(message_set(&d->pci_path, "pci-0000:00:04.0"), 0);
    ADD(i, devices, d);
    Sp__SourceDisk *disks[] = {a_source_disk("x", "", "pci-0000:00:05.0"),
                               a_source_disk("y", "", "pci-0000:00:04.0")};
    struct match m MATCH = {0};
    assert_int_equal(match_disks(i, disks, 2, NULL, &m), 0);
    assert_ptr_equal(match_find(&m, "vda"), disks[1]);
    free_all(disks, 2);
    message_free(i);
}

static void plain_ids_are_rewritten(void **state)
{
    (void)state;
    Sp__Inventory *i = an_inventory();
    ADD(i, devices, a_device("vdc", "disk", "p", NULL));
    ADD(i, volumes,
        a_volume(SP__VOLUME_KIND__VOLUME_KIND_PLAIN, "plain:vdc+1048576", "vdc", 1048576, 4096));
    Sp__SourceDisk *disks[] = {a_source_disk("p", "p", "")};
    struct match m MATCH = {0};
    assert_int_equal(match_disks(i, disks, 1, NULL, &m), 0);
    assert_int_equal(match_rewrite(&m, i), 0);
    assert_string_equal(i->volumes[0]->volume_id, "plain:p+1048576");
    assert_string_equal(i->volumes[0]->extents[0]->on->disk_id, "p");
    free_all(disks, 1);
    message_free(i);
}

static bool captured(void *self, const Sp__SourceDisk *d)
{
    return strcmp(d->disk_id, self) == 0;
}

static void file_systems_are_followed_down_to_disks(void **state)
{
    (void)state;
    Sp__Inventory *i = an_inventory();
    ADD(i, devices, a_device("vda", "disk", "a", NULL));
    ADD(i, devices, a_device("vdb", "disk", "b", NULL));
    ADD(i, devices, a_device("vda1", "partition", "", "vda"));
    ADD(i, devices, a_device("dm-0", "dm", "", "vda1"));
    ADD(i, devices, a_device("dm-1", "dm", "", "dm-1")); /* a lie that goes in a circle */
    Sp__SourceDisk *disks[] = {a_source_disk("a", "a", ""), a_source_disk("b", "b", "")};
    struct match m MATCH = {0};
    assert_int_equal(match_disks(i, disks, 2, NULL, &m), 0);
    Sp__FileSystem *on_a = a_file_system("/", "dm-0"), *on_b = a_file_system("/b", "vdb"),
                   *circle = a_file_system("/c", "dm-1"), *unknown = a_file_system("/u", "nbd7");
    assert_true(match_on_captured(&m, i, on_a, captured, (void *)(uintptr_t) "a"));
    assert_false(match_on_captured(&m, i, on_b, captured, (void *)(uintptr_t) "a"));
    assert_true(match_on_captured(&m, i, circle, captured, (void *)(uintptr_t) "a"));
    assert_true(match_on_captured(&m, i, unknown, captured, (void *)(uintptr_t) "a"));
    message_free(on_a);
    message_free(on_b);
    message_free(circle);
    message_free(unknown);
    free_all(disks, 2);
    message_free(i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(serials_match_first),
        cmocka_unit_test(a_serial_cut_by_virtio_still_matches),
        cmocka_unit_test(equal_serials_are_ambiguous),
        cmocka_unit_test(uuids_match_what_has_no_serial),
        cmocka_unit_test(pci_paths_come_last),
        cmocka_unit_test(plain_ids_are_rewritten),
        cmocka_unit_test(file_systems_are_followed_down_to_disks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
