/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Guest against snapshot: a volume on one side only is a finding. */
#include "controller/backup/compare.h"
#include "build.h"
#include "controller/backup/finding.h"

#define KIND(name)   SP__VOLUME_KIND__VOLUME_KIND_##name
#define REASON(name) SP__REASON__REASON_##name

struct scene {
    Sp__Manifest *m;
    Sp__LookResponse *look;
};

static struct scene a_scene(void)
{
    struct scene s = {message_new(&sp__manifest__descriptor),
                      message_new(&sp__look_response__descriptor)};
    assert_non_null(s.m);
    assert_non_null(s.look);
    ADD(s.m, disks, a_disk("d", 1 << 20));
    s.m->inventory = message_new(&sp__inventory__descriptor);
    return s;
}

static void end_scene(struct scene *s)
{
    message_free(s->m);
    message_free(s->look);
}

static bool has(const struct scene *s, Sp__Reason reason, const char *volume_id)
{
    return finding_has((const Sp__Finding *const *)s->m->findings, s->m->n_findings, reason,
                       volume_id);
}

static Sp__Volume *luks(const char *id, const char *disk, uint8_t fingerprint)
{
    Sp__Volume *v = a_volume(KIND(LUKS2), id, disk, 0, 65536);
    with_header(v, id, fingerprint);
    return v;
}

static void the_same_on_both_sides_is_no_finding(void **state)
{
    (void)state;
    struct scene s = a_scene();
    ADD(s.m->inventory, volumes, luks("luks:a", "d", 1));
    ADD(s.look, volumes, luks("luks:a", "d", 1));
    assert_int_equal(compare(COMPARE_NOW, s.look, s.m), 0);
    assert_int_equal(s.m->n_findings, 0);
    assert_int_equal(s.m->n_volumes, 1);
    end_scene(&s);
}

/* A cloned disk, attached beside the original: the look tells the two apart by their place. */
static void clones_are_told_apart_by_their_place(void **state)
{
    (void)state;
    static const char uuid[] = "luks:11111111-2222-4333-8444-555555555555";
    static const char clone[] = "luks:11111111-2222-4333-8444-555555555555@e+0";
    struct scene s = a_scene();
    ADD(s.m, disks, a_disk("e", 1 << 20));
    /* The guest names both alike, in the other order; the clone's key was changed since. */
    ADD(s.m->inventory, volumes, luks(uuid, "e", 2));
    ADD(s.m->inventory, volumes, luks(uuid, "d", 1));
    ADD(s.look, volumes, luks(uuid, "d", 1));
    ADD(s.look, volumes, luks(clone, "e", 2));
    assert_int_equal(compare(COMPARE_NOW, s.look, s.m), 0);
    assert_int_equal(s.m->n_findings, 0);
    assert_int_equal(s.m->n_volumes, 2);
    assert_string_not_equal(s.m->volumes[0]->volume_id, s.m->volumes[1]->volume_id);
    assert_ptr_equal(compare_find(s.m->inventory, s.m->volumes[1]), s.m->inventory->volumes[0]);
    end_scene(&s);
    /* One that the guest does not have, beside one that it has. */
    s = a_scene();
    ADD(s.m, disks, a_disk("e", 1 << 20));
    ADD(s.m->inventory, volumes, luks(uuid, "d", 1));
    ADD(s.look, volumes, luks(uuid, "d", 3));
    ADD(s.look, volumes, luks(clone, "e", 1));
    assert_int_equal(compare(COMPARE_NOW, s.look, s.m), 0);
    assert_true(has(&s, REASON(HEADER_CHANGED), uuid));
    end_scene(&s);
}

static void a_changed_header_is_seen(void **state)
{
    (void)state;
    struct scene s = a_scene();
    ADD(s.m->inventory, volumes, luks("luks:a", "d", 1));
    ADD(s.look, volumes, luks("luks:a", "d", 2));
    assert_int_equal(compare(COMPARE_NOW, s.look, s.m), 0);
    assert_true(has(&s, REASON(HEADER_CHANGED), "luks:a"));
    end_scene(&s);
    /* An inventory from before proves nothing about a change. */
    s = a_scene();
    ADD(s.m->inventory, volumes, luks("luks:a", "d", 1));
    ADD(s.look, volumes, luks("luks:a", "d", 2));
    assert_int_equal(compare(COMPARE_OFFLINE, s.look, s.m), 0);
    assert_int_equal(s.m->n_findings, 0);
    end_scene(&s);
}

static void one_side_only_is_a_mismatch(void **state)
{
    (void)state;
    struct scene s = a_scene();
    ADD(s.m->inventory, volumes, luks("luks:guest", "d", 1));
    ADD(s.look, volumes, a_volume(KIND(LUKS1), "luks:snapshot", "d", 524288, 4096));
    assert_int_equal(compare(COMPARE_NOW, s.look, s.m), 0);
    assert_true(has(&s, REASON(INVENTORY_MISMATCH), "luks:guest"));
    assert_true(has(&s, REASON(INVENTORY_MISMATCH), "luks:snapshot"));
    end_scene(&s);
}

static void a_volume_elsewhere_is_not_seen_by_storage(void **state)
{
    (void)state;
    struct scene s = a_scene();
    ADD(s.m->inventory, volumes, luks("luks:a", "iscsi0", 1));
    assert_int_equal(compare(COMPARE_NOW, s.look, s.m), 0);
    assert_true(has(&s, REASON(NOT_SEEN_BY_STORAGE), "luks:a"));
    end_scene(&s);
}

static void a_volume_on_an_excluded_disk_is_missed_by_nobody(void **state)
{
    (void)state;
    struct scene s = a_scene();
    s.m->policy = message_new(&sp__policy__descriptor);
    assert_int_equal(message_append_text(&s.m->policy->excluded_disks,
                                         &s.m->policy->n_excluded_disks, "scratch"),
                     0);
    ADD(s.m->inventory, volumes, luks("luks:a", "scratch", 1));
    assert_int_equal(compare(COMPARE_NOW, s.look, s.m), 0);
    assert_int_equal(s.m->n_findings, 0);
    end_scene(&s);
}

static void a_volume_inside_another_is_not_seen_by_storage(void **state)
{
    (void)state;
    struct scene s = a_scene();
    ADD(s.look, volumes, luks("luks:outer", "d", 1));
    ADD(s.m->inventory, volumes, luks("luks:outer", "d", 1));
    ADD(s.m->inventory, volumes, a_volume(KIND(LUKS2), "luks:inner", "d", 4096, 4096));
    assert_int_equal(compare(COMPARE_NOW, s.look, s.m), 0);
    assert_true(has(&s, REASON(NOT_SEEN_BY_STORAGE), "luks:inner"));
    end_scene(&s);
}

static void an_open_plain_volume_comes_from_the_guest_and_needs_proof(void **state)
{
    (void)state;
    struct scene s = a_scene();
    Sp__Volume *open = a_volume(KIND(PLAIN), "plain:d+0", "d", 0, 4096);
    open->open = 1;
    ADD(s.m->inventory, volumes, open);
    ADD(s.m->inventory, volumes, a_volume(KIND(PLAIN), "plain:d+8192", "d", 8192, 4096));
    assert_int_equal(compare(COMPARE_NOW, s.look, s.m), 0);
    /* The closed one is nobody's to describe. */
    assert_int_equal(s.m->n_volumes, 1);
    assert_true(compare_needs_proof(s.m->volumes[0]));
    assert_int_equal(s.m->n_findings, 0);
    end_scene(&s);
}

static void random_swap_needs_no_proof_unless_the_agent_is_gone(void **state)
{
    (void)state;
    for (int stale = 0; stale < 2; stale++) {
        struct scene s = a_scene();
        Sp__Volume *swap = a_volume(KIND(PLAIN), "plain:d+0", "d", 0, 4096);
        swap->open = swap->ephemeral = 1;
        ADD(s.m->inventory, volumes, swap);
        assert_int_equal(compare(stale ? COMPARE_STALE : COMPARE_NOW, s.look, s.m), 0);
        assert_int_equal(s.m->n_volumes, 1);
        assert_int_equal(compare_needs_proof(s.m->volumes[0]), stale);
        assert_int_equal(has(&s, REASON(EPHEMERAL_KEY), "plain:d+0"), !stale);
        end_scene(&s);
    }
}

static void a_detached_header_must_have_been_handed_over(void **state)
{
    (void)state;
    for (int there = 0; there < 2; there++) {
        struct scene s = a_scene();
        Sp__Volume *v = luks("luks:det", "d", 1);
        v->header->detached = 1;
        v->open = 1;
        ADD(s.m->inventory, volumes, v);
        if (there) {
            Sp__CapturedHeader *h = message_new(&sp__captured_header__descriptor);
            h->from_guest = 1;
            assert_int_equal(message_set(&h->volume_id, "luks:det"), 0);
            ADD(s.m, headers, h);
        }
        assert_int_equal(compare(COMPARE_NOW, s.look, s.m), 0);
        assert_int_equal(has(&s, REASON(HEADER_MISSING), "luks:det"), !there);
        assert_int_equal(s.m->n_volumes, 1);
        end_scene(&s);
    }
}

static void what_a_header_says_against_its_volume_is_said(void **state)
{
    (void)state;
    struct scene s = a_scene();
    Sp__Volume *v = luks("luks:a", "d", 1);
    v->header->damaged = 1;
    v->header->conversion_in_progress = 1;
    v->header->protection_suspended = 1;
    ADD(s.look, volumes, v);
    assert_int_equal(compare(COMPARE_NONE, s.look, s.m), 0);
    assert_true(has(&s, REASON(HEADER_DAMAGED), "luks:a"));
    assert_true(has(&s, REASON(CONVERSION_IN_PROGRESS), "luks:a"));
    assert_true(has(&s, REASON(PROTECTION_SUSPENDED), "luks:a"));
    end_scene(&s);
}

static void what_the_look_said_is_not_said_again(void **state)
{
    (void)state;
    struct scene s = a_scene();
    Sp__Volume *v = luks("luks:a", "d", 1);
    v->header->damaged = 1;
    ADD(s.look, volumes, v);
    ADD(s.look, findings, a_finding(REASON(HEADER_DAMAGED), "luks:a", "d", 0));
    assert_int_equal(compare(COMPARE_NONE, s.look, s.m), 0);
    assert_int_equal(s.m->n_findings, 1);
    end_scene(&s);
}

static void without_an_inventory_the_look_stands_alone(void **state)
{
    (void)state;
    struct scene s = a_scene();
    ADD(s.look, volumes, luks("luks:a", "d", 1));
    assert_int_equal(compare(COMPARE_NONE, s.look, s.m), 0);
    assert_int_equal(s.m->n_findings, 0);
    assert_int_equal(s.m->n_volumes, 1);
    end_scene(&s);
}

static void kinds_nobody_knows_count_as_encrypted(void **state)
{
    (void)state;
    Sp__Volume *v = a_volume((Sp__VolumeKind)42, "odd:a", "d", 0, 4096);
    assert_true(compare_needs_proof(v));
    v->kind = KIND(CLEAR);
    assert_false(compare_needs_proof(v));
    message_free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_on_both_sides_is_no_finding),
        cmocka_unit_test(clones_are_told_apart_by_their_place),
        cmocka_unit_test(a_changed_header_is_seen),
        cmocka_unit_test(one_side_only_is_a_mismatch),
        cmocka_unit_test(a_volume_elsewhere_is_not_seen_by_storage),
        cmocka_unit_test(a_volume_on_an_excluded_disk_is_missed_by_nobody),
        cmocka_unit_test(a_volume_inside_another_is_not_seen_by_storage),
        cmocka_unit_test(an_open_plain_volume_comes_from_the_guest_and_needs_proof),
        cmocka_unit_test(random_swap_needs_no_proof_unless_the_agent_is_gone),
        cmocka_unit_test(a_detached_header_must_have_been_handed_over),
        cmocka_unit_test(what_a_header_says_against_its_volume_is_said),
        cmocka_unit_test(what_the_look_said_is_not_said_again),
        cmocka_unit_test(without_an_inventory_the_look_stands_alone),
        cmocka_unit_test(kinds_nobody_knows_count_as_encrypted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
