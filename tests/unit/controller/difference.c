/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What changed between two inventories, as events; and how the catalog keeps them. */
#include "controller/fleet/difference.h"
#include "base/file.h"
#include "build.h"
#include "controller/catalog/catalog.h"
#include <string.h>

#define KIND(name)   SP__VOLUME_KIND__VOLUME_KIND_##name
#define CHANGE(name) SP__CHANGE_KIND__CHANGE_KIND_##name

static Sp__VolumeEvent **events;
static size_t count;

static int forget(void **state)
{
    (void)state;
    for (size_t i = 0; i < count; i++)
        message_free(events[i]);
    free(events);
    events = NULL;
    count = 0;
    return 0;
}

static Sp__Volume *luks(const char *id, const char *device)
{
    Sp__Volume *v = a_volume(KIND(LUKS2), id, "d", 0, 65536);
    with_header(v, id, 1);
    assert_int_equal(message_set(&v->device, device), 0);
    return v;
}

static void with_keyslot(Sp__Volume *v, const char *id)
{
    Sp__Protector *p = message_new(&sp__protector__descriptor);
    assert_non_null(p);
    assert_int_equal(message_set(&p->id, id), 0);
    ADD(v->header, protectors, p);
}

/* One volume with keyslot 0 on one disk, before and after. */
static Sp__Inventory *inventory(Sp__Volume **ret)
{
    Sp__Inventory *i = message_new(&sp__inventory__descriptor);
    assert_non_null(i);
    ADD(i, devices, a_device("vda", "disk", "S", NULL));
    *ret = luks("luks:a", "/dev/vda");
    with_keyslot(*ret, "0");
    ADD(i, volumes, *ret);
    return i;
}

static void compare(const Sp__Inventory *before, const Sp__Inventory *after)
{
    forget(NULL);
    assert_int_equal(difference("m", 7, before, after, &events, &count), 0);
}

struct pair {
    Sp__Inventory *before, *after;
    Sp__Volume *a, *b;
};

static struct pair a_pair(void)
{
    struct pair p;
    p.before = inventory(&p.a);
    p.after = inventory(&p.b);
    return p;
}

/* Compares, and expects one event of this kind. */
static const Sp__VolumeEvent *only(struct pair *p, Sp__ChangeKind change)
{
    compare(p->before, p->after);
    message_free(p->before);
    message_free(p->after);
    assert_int_equal(count, 1);
    assert_int_equal(events[0]->change, change);
    assert_int_equal(events[0]->at_unix_ms, 7);
    assert_string_equal(events[0]->machine_id, "m");
    return events[0];
}

static void nothing_new_is_no_event(void **state)
{
    (void)state;
    struct pair p = a_pair();
    compare(p.before, p.after);
    assert_int_equal(count, 0);
    message_free(p.before);
    message_free(p.after);
}

static void keyslots(void **state)
{
    (void)state;
    struct pair p = a_pair();
    with_keyslot(p.b, "1");
    const Sp__VolumeEvent *e = only(&p, CHANGE(PROTECTOR_ADDED));
    assert_string_equal(e->kind, "protector-added");
    assert_string_equal(e->subject, "luks:a");
    assert_string_equal(e->protector_id, "1");
    assert_int_equal(e->before->header->n_protectors, 1);
    assert_int_equal(e->after->header->n_protectors, 2);
    p = a_pair();
    with_keyslot(p.a, "1");
    assert_string_equal(only(&p, CHANGE(PROTECTOR_REMOVED))->protector_id, "1");
    p = a_pair();
    p.b->header->protectors[0]->kdf_iterations = 99;
    assert_string_equal(only(&p, CHANGE(PROTECTOR_CHANGED))->protector_id, "0");
}

static void states_of_a_volume(void **state)
{
    (void)state;
    struct pair p = a_pair();
    p.b->open = true;
    only(&p, CHANGE(VOLUME_OPENED));
    p = a_pair();
    p.a->open = true;
    only(&p, CHANGE(VOLUME_CLOSED));
    p = a_pair();
    p.b->header->conversion_in_progress = true;
    only(&p, CHANGE(CONVERSION_STARTED));
    p = a_pair();
    p.b->header->protection_suspended = true;
    only(&p, CHANGE(PROTECTION_SUSPENDED));
    p = a_pair();
    p.b->header->damaged = true;
    only(&p, CHANGE(HEADER_DAMAGED));
    p = a_pair();
    assert_int_equal(message_set(&p.b->header->label, "new"), 0);
    only(&p, CHANGE(HEADER_CHANGED));
}

static void a_conversion_that_goes_on_is_no_event(void **state)
{
    (void)state;
    struct pair p = a_pair();
    p.a->header->conversion_in_progress = p.b->header->conversion_in_progress = true;
    p.b->header->conversion_percent = 50;
    compare(p.before, p.after);
    assert_int_equal(count, 0);
    message_free(p.before);
    message_free(p.after);
}

static void what_comes_and_goes(void **state)
{
    (void)state;
    struct pair p = a_pair();
    ADD(p.after, volumes, luks("luks:b", "/dev/vdb"));
    const Sp__VolumeEvent *e = only(&p, CHANGE(VOLUME_APPEARED));
    assert_null(e->before);
    assert_string_equal(e->after->volume_id, "luks:b");
    p = a_pair();
    ADD(p.before, volumes, luks("luks:b", "/dev/vdb"));
    e = only(&p, CHANGE(VOLUME_GONE));
    assert_null(e->after);
    p = a_pair();
    ADD(p.after, devices, a_device("vdb", "disk", "T", NULL));
    e = only(&p, CHANGE(DISK_ADDED));
    assert_string_equal(e->subject, "T");
    assert_null(e->disk_before);
    p = a_pair();
    ADD(p.before, devices, a_device("vdb", "disk", "", NULL));
    assert_string_equal(only(&p, CHANGE(DISK_REMOVED))->subject, "vdb");
}

/* The kernel hands out names anew; two clones have one id. */
static void a_volume_is_the_same_in_another_place(void **state)
{
    (void)state;
    struct pair p = a_pair();
    assert_int_equal(message_set(&p.b->device, "/dev/vdc"), 0);
    compare(p.before, p.after);
    assert_int_equal(count, 0);
    ADD(p.before, volumes, luks("luks:a", "/dev/vdc"));
    p.before->volumes[1]->open = true;
    compare(p.before, p.after);
    assert_int_equal(count, 3); /* the clone in the same place: closed, keyslot; the other: gone */
    message_free(p.before);
    message_free(p.after);
}

static int keep(void *arg, Sp__VolumeEvent *e)
{
    char *kinds = arg;
    snprintf(kinds + strlen(kinds), 64, "%s%llu ", e->kind, (unsigned long long)e->event_id);
    return 0;
}

static void the_catalog_keeps_them(void **state)
{
    (void)state;
    char *folder = make_folder(), kinds[256] = "";
    SP_FREE char *path = sp_format("%s/catalog", folder);
    struct catalog *c = NULL;
    assert_int_equal(catalog_open(path, &c, NULL), 0);
    Sp__VolumeEvent *two[] = {difference_event("m", 1, "a", "v", "t"),
                              difference_event("m", 2, "b", "v", "t")};
    assert_int_equal(catalog_events_add(c, "m", NULL, two, 2), 0);
    catalog_close(c);
    assert_int_equal(catalog_open(path, &c, NULL), 0);
    assert_int_equal(catalog_event_each(c, "m", 0, keep, kinds), 0);
    assert_int_equal(catalog_event_each(c, "m", 2, keep, kinds), 0);
    assert_int_equal(catalog_event_each(c, "other", 0, keep, kinds), 0);
    assert_string_equal(kinds, "b2 a1 a1 ");
    catalog_close(c);
    message_free(two[0]);
    message_free(two[1]);
    remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(nothing_new_is_no_event, forget),
        cmocka_unit_test_teardown(keyslots, forget),
        cmocka_unit_test_teardown(states_of_a_volume, forget),
        cmocka_unit_test_teardown(a_conversion_that_goes_on_is_no_event, forget),
        cmocka_unit_test_teardown(what_comes_and_goes, forget),
        cmocka_unit_test_teardown(a_volume_is_the_same_in_another_place, forget),
        cmocka_unit_test(the_catalog_keeps_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
