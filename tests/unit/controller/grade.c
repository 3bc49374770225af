/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Grades: the lowest over the read-write file systems, and never better than the freeze was. */
#include "controller/backup/grade.h"
#include "build.h"
#include <string.h>

#define OUTCOME(name) SP__FREEZE_RESULT__OUTCOME__OUTCOME_##name
#define GRADE(name)   SP__GRADE__GRADE_##name

struct scene {
    Sp__FreezeAnswer *freeze;
    Sp__ThawAnswer *thaw;
    Sp__Inventory *inventory;
    struct grade_facts facts;
    struct grade_lowered lowered[8];
    size_t count;
};

static struct scene a_scene(Sp__FreezeResult__Outcome outcome)
{
    struct scene s = {.freeze = message_new(&sp__freeze_answer__descriptor),
                      .thaw = message_new(&sp__thaw_answer__descriptor),
                      .inventory = message_new(&sp__inventory__descriptor)};
    ADD(s.inventory, file_systems, a_file_system("/", "vda1"));
    ADD(s.inventory, file_systems, a_file_system("/srv", "vdb"));
    ADD(s.freeze, results, a_result("/", OUTCOME(FROZEN)));
    ADD(s.freeze, results, a_result("/srv", outcome));
    s.thaw->all_thawed_on_command = 1;
    s.facts = (struct grade_facts){.running = true,
                                   .disks = 2,
                                   .freeze = s.freeze,
                                   .thaw = s.thaw,
                                   .snapshot_inside_freeze = true,
                                   .inventory = s.inventory};
    return s;
}

static Sp__Grade end_scene(struct scene *s)
{
    Sp__Grade grade = grade_of(&s->facts, s->lowered, SP_COUNT(s->lowered), &s->count);
    message_free(s->freeze);
    message_free(s->thaw);
    message_free(s->inventory);
    return grade;
}

static void frozen_everywhere_is_filesystem(void **state)
{
    (void)state;
    struct scene s = a_scene(OUTCOME(FROZEN));
    assert_int_equal(end_scene(&s), GRADE(FILESYSTEM));
    assert_int_equal(s.count, 0);
}

static void outcomes_decide(void **state)
{
    (void)state;
    static const struct {
        int outcome;
        bool held_by_source;
        Sp__Grade grade;
    } cases[] = {
        {OUTCOME(SYNCED), false, GRADE(FILESYSTEM)},
        {OUTCOME(READ_ONLY), false, GRADE(FILESYSTEM)},
        {OUTCOME(NETWORK), false, GRADE(FILESYSTEM)},
        {OUTCOME(UNSUPPORTED), true, GRADE(CRASH)},
        {OUTCOME(BUSY), true, GRADE(CRASH)},
        {OUTCOME(BLOCKED), true, GRADE(CRASH)},
        {OUTCOME(FAILED), true, GRADE(CRASH)},
        {OUTCOME(UNSPECIFIED), true, GRADE(CRASH)},
        {99, true, GRADE(CRASH)},
        /* Two disks that nothing held still are not even that. */
        {OUTCOME(BUSY), false, GRADE(NONE)},
        {OUTCOME(UNSUPPORTED), false, GRADE(NONE)},
        {99, false, GRADE(NONE)},
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        struct scene s = a_scene((Sp__FreezeResult__Outcome)cases[i].outcome);
        s.facts.held_by_source = cases[i].held_by_source;
        assert_int_equal(end_scene(&s), cases[i].grade);
        assert_int_equal(s.count, cases[i].grade == GRADE(FILESYSTEM) ? 0 : 1);
    }
}

static void the_thaw_knows_better_than_the_freeze(void **state)
{
    (void)state;
    struct scene s = a_scene(OUTCOME(SYNCED));
    Sp__FreezeResult *wrote = a_result("/srv", OUTCOME(SYNCED));
    wrote->wrote_while_held = 1;
    ADD(s.thaw, results, wrote);
    assert_int_equal(end_scene(&s), GRADE(CRASH));

    s = a_scene(OUTCOME(FROZEN));
    Sp__FreezeResult *stuck = a_result("/srv", OUTCOME(FROZEN));
    stuck->thaw_error = 22;
    ADD(s.thaw, results, stuck);
    assert_int_equal(end_scene(&s), GRADE(CRASH));
}

static void a_thaw_that_was_not_on_command_is_no_filesystem_grade(void **state)
{
    (void)state;
    struct scene s = a_scene(OUTCOME(FROZEN));
    s.thaw->all_thawed_on_command = 0;
    s.facts.held_by_source = true;
    assert_int_equal(end_scene(&s), GRADE(CRASH));
    assert_int_equal(s.count, 1);
    assert_int_equal(s.lowered[0].reason, SP__REASON__REASON_LEASE_EXPIRED);

    s = a_scene(OUTCOME(FROZEN));
    s.facts.thaw = NULL;
    s.facts.held_by_source = true;
    assert_int_equal(end_scene(&s), GRADE(CRASH));

    /* The freeze ended early and the disks are two: torn. */
    s = a_scene(OUTCOME(FROZEN));
    s.thaw->all_thawed_on_command = 0;
    assert_int_equal(end_scene(&s), GRADE(NONE));
    /* One disk is a point in time by itself. */
    s = a_scene(OUTCOME(FROZEN));
    s.thaw->all_thawed_on_command = 0;
    s.facts.disks = 1;
    assert_int_equal(end_scene(&s), GRADE(CRASH));
}

static void a_snapshot_outside_the_freeze_gains_nothing_from_it(void **state)
{
    (void)state;
    struct scene s = a_scene(OUTCOME(FROZEN));
    s.facts.snapshot_inside_freeze = false;
    s.facts.held_by_source = true;
    assert_int_equal(end_scene(&s), GRADE(CRASH));
}

static void a_file_system_that_was_forgotten_is_not_frozen(void **state)
{
    (void)state;
    struct scene s = a_scene(OUTCOME(FROZEN));
    ADD(s.inventory, file_systems, a_file_system("/late", "vdb"));
    s.facts.held_by_source = true;
    assert_int_equal(end_scene(&s), GRADE(CRASH));
}

static bool nothing_captured(void *self, const Sp__FileSystem *fs)
{
    (void)self;
    return strcmp(fs->mount_point, "/srv") != 0;
}

static void file_systems_elsewhere_do_not_count(void **state)
{
    (void)state;
    struct scene s = a_scene(OUTCOME(BUSY));
    s.facts.captured = nothing_captured;
    s.facts.held_by_source = true;
    assert_int_equal(end_scene(&s), GRADE(FILESYSTEM));

    s = a_scene(OUTCOME(FROZEN));
    Sp__FileSystem *tmpfs = a_file_system("/tmp", "");
    tmpfs->has_block_device = 0;
    ADD(s.inventory, file_systems, tmpfs);
    assert_int_equal(end_scene(&s), GRADE(FILESYSTEM));
}

static Sp__FreezeResult *a_raw_result(Sp__FreezeResult__Outcome outcome)
{
    Sp__FreezeResult *r = a_result("", outcome);
    message_set(&r->raw_device, "/dev/mapper/db");
    message_set(&r->device, "dm-3");
    return r;
}

static bool raw_is_not_captured(void *self, const Sp__FileSystem *fs)
{
    (void)self;
    return strcmp(fs->device, "dm-3") != 0;
}

static void a_raw_device_that_was_held_lowers_nothing(void **state)
{
    (void)state;
    struct scene s = a_scene(OUTCOME(FROZEN));
    ADD(s.freeze, results, a_raw_result(OUTCOME(FROZEN)));
    ADD(s.thaw, results, a_raw_result(OUTCOME(FROZEN)));
    assert_true(grade_holds_guest(s.freeze));
    assert_int_equal(end_scene(&s), GRADE(FILESYSTEM));
    assert_int_equal(s.count, 0);
    /* By itself it makes no file system better. */
    s = a_scene(OUTCOME(BUSY));
    ADD(s.freeze, results, a_raw_result(OUTCOME(FROZEN)));
    s.facts.held_by_source = true;
    assert_int_equal(end_scene(&s), GRADE(CRASH));
}

static void a_raw_device_that_was_to_be_held_and_was_not_is_crash(void **state)
{
    (void)state;
    static const int outcomes[] = {OUTCOME(BUSY), OUTCOME(BLOCKED), OUTCOME(FAILED),
                                   OUTCOME(UNSPECIFIED), 99};
    for (size_t i = 0; i < SP_COUNT(outcomes); i++) {
        struct scene s = a_scene(OUTCOME(FROZEN));
        ADD(s.freeze, results, a_raw_result((Sp__FreezeResult__Outcome)outcomes[i]));
        s.facts.held_by_source = true;
        assert_false(grade_holds_guest(s.freeze));
        assert_int_equal(grade_of(&s.facts, s.lowered, SP_COUNT(s.lowered), &s.count),
                         GRADE(CRASH));
        assert_int_equal(s.count, 1);
        assert_string_equal(s.lowered[0].mount_point, "/dev/mapper/db");
        s.facts.captured = raw_is_not_captured; /* on a disk that is in no point */
        assert_int_equal(end_scene(&s), GRADE(FILESYSTEM));
    }
    /* Somebody else resumed it: the resume failed with EINVAL. */
    struct scene s = a_scene(OUTCOME(FROZEN));
    ADD(s.freeze, results, a_raw_result(OUTCOME(FROZEN)));
    Sp__FreezeResult *resumed = a_raw_result(OUTCOME(FROZEN));
    resumed->thaw_error = 22;
    ADD(s.thaw, results, resumed);
    s.facts.held_by_source = true;
    assert_int_equal(end_scene(&s), GRADE(CRASH));
}

static void no_agent_is_crash_or_nothing(void **state)
{
    (void)state;
    struct grade_facts facts = {.running = true, .held_by_source = true, .disks = 5};
    size_t count = 0;
    assert_int_equal(grade_of(&facts, NULL, 0, &count), GRADE(CRASH));
    facts.held_by_source = false;
    assert_int_equal(grade_of(&facts, NULL, 0, &count), GRADE(NONE));
    facts.running = false;
    assert_int_equal(grade_of(&facts, NULL, 0, &count), GRADE(OFFLINE));
}

static void hooks_make_it_application(void **state)
{
    (void)state;
    for (int fails = 0; fails < 2; fails++) {
        struct scene s = a_scene(OUTCOME(FROZEN));
        Sp__HookResult *hook = message_new(&sp__hook_result__descriptor);
        hook->exit_status = fails;
        ADD(s.freeze, hooks, hook);
        assert_int_equal(end_scene(&s), fails ? GRADE(FILESYSTEM) : GRADE(APPLICATION));
        assert_int_equal(s.count, fails);
    }
}

static void grades_are_ordered_as_designed(void **state)
{
    (void)state;
    assert_true(grade_reaches(GRADE(OFFLINE), GRADE(FILESYSTEM)));
    assert_true(grade_reaches(GRADE(FILESYSTEM), GRADE(OFFLINE)));
    assert_true(grade_reaches(GRADE(APPLICATION), GRADE(OFFLINE)));
    assert_false(grade_reaches(GRADE(OFFLINE), GRADE(APPLICATION)));
    assert_false(grade_reaches(GRADE(CRASH), GRADE(FILESYSTEM)));
    assert_true(grade_reaches(GRADE(CRASH), GRADE(UNSPECIFIED)));
    assert_false(grade_reaches(GRADE(APPLICATION), (Sp__Grade)99));
    assert_false(grade_reaches((Sp__Grade)99, GRADE(CRASH)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frozen_everywhere_is_filesystem),
        cmocka_unit_test(outcomes_decide),
        cmocka_unit_test(the_thaw_knows_better_than_the_freeze),
        cmocka_unit_test(a_thaw_that_was_not_on_command_is_no_filesystem_grade),
        cmocka_unit_test(a_snapshot_outside_the_freeze_gains_nothing_from_it),
        cmocka_unit_test(a_file_system_that_was_forgotten_is_not_frozen),
        cmocka_unit_test(file_systems_elsewhere_do_not_count),
        cmocka_unit_test(a_raw_device_that_was_held_lowers_nothing),
        cmocka_unit_test(a_raw_device_that_was_to_be_held_and_was_not_is_crash),
        cmocka_unit_test(no_agent_is_crash_or_nothing),
        cmocka_unit_test(hooks_make_it_application),
        cmocka_unit_test(grades_are_ordered_as_designed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
