/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which file systems are frozen, and what is said of those that are not. Everything runs with
 * freeze.only = mounts of this test's own. */
#include "agent/linux/quiesce.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "mounts.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#define OUTCOME(name) SP__FREEZE_RESULT__OUTCOME__OUTCOME_##name

static char real[512], refusing[512], runtime[128], only[1024], hooks[128], journal[128];
static const char *const real_argv[] = {real, "freezer", NULL};
static const char *const refusing_argv[] = {refusing, NULL};
static const char *const hanging_argv[] = {refusing, "hang", NULL};
static const char *ext4, *xfs, *inner;
static struct agent_config config;

static struct quiesce *new_quiesce(const char *const *argv)
{
    struct quiesce_options options = {
        .config = &config, .roots = &inventory_roots_system, .freezer_argv = argv};
    struct quiesce *q = NULL;
    struct sp_why why = {0};
    assert_string_not_equal(config.only, ""); /* never anything else of this host */
    if (quiesce_new(&options, &q, &why) < 0)
        fail_msg("%s", why.text);
    return q;
}

static const Sp__FreezeResult *result_of(Sp__FreezeResult *const *results, size_t count,
                                         const char *point)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(results[i]->mount_point, point) == 0)
            return results[i];
    fail_msg("no result for '%s'", point);
    return NULL;
}

static Sp__FreezeAnswer *freeze(struct quiesce *q, const char *id, Sp__FreezeCommand *command)
{
    Sp__FreezeAnswer *answer = NULL;
    struct sp_why why = {0};
    if (quiesce_freeze(q, id, command, &answer, &why) < 0)
        fail_msg("%s", why.text);
    return answer;
}

static Sp__ThawAnswer *thaw(struct quiesce *q, const char *id)
{
    Sp__ThawAnswer *answer = NULL;
    assert_int_equal(quiesce_thaw(q, id, &answer, NULL), 0);
    return answer;
}

static void loops_freeze_from_the_top(void **state)
{
    (void)state;
    struct quiesce *q = new_quiesce(real_argv);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    mounts_write(inner, 4096, false);
    Sp__FreezeAnswer *f = freeze(q, "one", &command);
    const char *const all[] = {ext4, xfs, inner};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(result_of(f->results, f->n_results, all[i])->outcome, OUTCOME(FROZEN));
        assert_true(mounts_frozen(all[i]));
    }
    assert_int_equal(f->lease_ms, config.default_lease_ms);
    sp__freeze_answer__free_unpacked(f, NULL);
    Sp__ThawAnswer *t = thaw(q, "one");
    assert_true(t->all_thawed_on_command);
    sp__thaw_answer__free_unpacked(t, NULL);
    for (size_t i = 0; i < 3; i++)
        assert_false(mounts_frozen(all[i]));
    quiesce_free(q);
}

static void excluded_ones_are_named_as_such(void **state)
{
    (void)state;
    struct quiesce *q = new_quiesce(real_argv);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    char *excluded[] = {(char *)(uintptr_t)ext4};
    command.exclude_mount_points = excluded;
    command.n_exclude_mount_points = 1;
    Sp__FreezeAnswer *f = freeze(q, "two", &command);
    const Sp__FreezeResult *r = result_of(f->results, f->n_results, ext4);
    assert_int_equal(r->outcome, OUTCOME(FAILED));
    assert_int_equal(r->error, ECANCELED);
    assert_false(mounts_frozen(ext4));
    assert_true(mounts_frozen(xfs));
    sp__freeze_answer__free_unpacked(f, NULL);
    sp__thaw_answer__free_unpacked(thaw(q, "two"), NULL);
    quiesce_free(q);
}

static void what_does_not_sync_in_time_is_left_out(void **state)
{
    (void)state;
    struct quiesce *q = new_quiesce(real_argv);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    command.sync_budget_ms = 300;
    mounts_write(inner, 8192, false);
    assert_int_equal(mounts_freeze(xfs), 0); /* so that it cannot */
    Sp__FreezeAnswer *f = freeze(q, "three", &command);
    const Sp__FreezeResult *r = result_of(f->results, f->n_results, inner);
    assert_int_equal(r->outcome, OUTCOME(BLOCKED));
    assert_int_equal(r->error, ETIMEDOUT);
    assert_int_equal(result_of(f->results, f->n_results, xfs)->outcome, OUTCOME(BUSY));
    assert_int_equal(result_of(f->results, f->n_results, ext4)->outcome, OUTCOME(FROZEN));
    sp__freeze_answer__free_unpacked(f, NULL);
    sp__thaw_answer__free_unpacked(thaw(q, "three"), NULL);
    assert_true(mounts_frozen(xfs)); /* somebody else's */
    assert_int_equal(mounts_thaw(xfs), 0);
    mounts_wait_thawed(inner);
    quiesce_free(q);
}

static void one_that_cannot_freeze_and_is_idle_counts_as_synced(void **state)
{
    (void)state;
    struct quiesce *q = new_quiesce(refusing_argv);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    Sp__FreezeAnswer *f = freeze(q, "idle", &command);
    assert_int_equal(result_of(f->results, f->n_results, xfs)->outcome, OUTCOME(UNSUPPORTED));
    sp__freeze_answer__free_unpacked(f, NULL);
    mounts_write(ext4, 64, true);
    Sp__ThawAnswer *t = thaw(q, "idle");
    const Sp__FreezeResult *r = result_of(t->results, t->n_results, xfs);
    assert_int_equal(r->outcome, OUTCOME(SYNCED));
    assert_false(r->wrote_while_held);
    r = result_of(t->results, t->n_results, ext4);
    assert_int_equal(r->outcome, OUTCOME(UNSUPPORTED));
    assert_true(r->wrote_while_held);
    sp__thaw_answer__free_unpacked(t, NULL);
    quiesce_free(q);
}

static void freezes_are_rationed(void **state)
{
    (void)state;
    config.most_per_hour = 2;
    struct quiesce *q = new_quiesce(refusing_argv);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    for (const char **id = (const char *[]){"a", "b", NULL}; *id; id++) {
        sp__freeze_answer__free_unpacked(freeze(q, *id, &command), NULL);
        sp__thaw_answer__free_unpacked(thaw(q, *id), NULL);
    }
    Sp__FreezeAnswer *answer = NULL;
    struct sp_why why = {0};
    assert_int_equal(quiesce_freeze(q, "c", &command, &answer, &why), -EDQUOT);
    assert_non_null(strstr(why.text, "most_per_hour"));
    assert_null(answer);
    config.most_per_hour = 120;
    quiesce_free(q);
}

__attribute__((format(printf, 1, 2))) static void run(const char *format, ...)
{
    char command_line[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command_line, sizeof(command_line), format, arguments);
    va_end(arguments);
    if (system(command_line) != 0)
        fail_msg("failed: %s", command_line);
}

static size_t results_on(const Sp__FreezeAnswer *f, const char *device)
{
    size_t n = 0;
    for (size_t i = 0; i < f->n_results; i++)
        n += strcmp(f->results[i]->device, device) == 0;
    return n;
}

static void a_file_system_with_many_mounts_is_frozen_once(void **state)
{
    (void)state;
    char hidden[160];
    /* Mounted a second time, bound in part, bound read-only as a sandbox does it, and its first
     * mount point hidden below another file system. */
    run("mkdir %s/part %s/again %s/bound %s/ro && mount $(findmnt -no SOURCE %s) %s/again && "
        "mount --bind %s/part %s/bound && mount --bind %s %s/ro && "
        "mount -o remount,bind,ro %s/ro && mount -t tmpfs hides %s",
        ext4, mounts_folder, mounts_folder, mounts_folder, ext4, mounts_folder, ext4, mounts_folder,
        ext4, mounts_folder, mounts_folder, ext4);
    snprintf(hidden, sizeof(hidden), "%s/again", mounts_folder);
    struct quiesce *q = new_quiesce(real_argv);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    /* The shortest of the mount points that show its root speaks for it. */
    char all[1200];
    snprintf(all, sizeof(all), "%s,%s/again,%s/ro", only, mounts_folder, mounts_folder);
    config.only = all;
    Sp__FreezeAnswer *f = freeze(q, "many", &command);
    config.only = only;
    const Sp__FreezeResult *found = NULL;
    for (size_t i = 0; i < f->n_results; i++)
        if (strncmp(f->results[i]->mount_point, mounts_folder, strlen(mounts_folder)) == 0 &&
            strcmp(f->results[i]->mount_point, xfs) != 0 &&
            strcmp(f->results[i]->mount_point, inner) != 0)
            found = f->results[i];
    assert_non_null(found);
    assert_int_equal(found->outcome, OUTCOME(FROZEN));
    assert_int_equal(results_on(f, found->device), 1);
    assert_true(mounts_frozen(hidden));
    Sp__ThawAnswer *t = thaw(q, "many");
    assert_true(t->all_thawed_on_command);
    assert_false(mounts_frozen(hidden));
    sp__thaw_answer__free_unpacked(t, NULL);
    sp__freeze_answer__free_unpacked(f, NULL);
    quiesce_free(q);
    run("umount %s && umount %s/ro %s/bound %s/again", ext4, mounts_folder, mounts_folder,
        mounts_folder);
}

/* Its mount names one device, and lies on two, of which the other is in a file on what is frozen
 * with it: frozen after that it would wait for it for good. */
static void a_btrfs_on_several_devices_comes_before_what_holds_any_of_them(void **state)
{
    (void)state;
    char point[160], all[1200];
    snprintf(point, sizeof(point), "%s/wide", mounts_folder);
    run("truncate -s 128M %s/wide0 %s/wide1 && mkdir %s && a=$(losetup -f --show %s/wide0) && "
        "b=$(losetup -f --show %s/wide1) && mkfs.btrfs -q -d raid0 -m raid1 $a $b && "
        "mount $a %s && losetup -d $a $b",
        mounts_folder, xfs, point, mounts_folder, xfs, point);
    snprintf(all, sizeof(all), "%s,%s", only, point);
    config.only = all;
    struct quiesce *q = new_quiesce(real_argv);
    for (int round = 0; round < 3; round++) {
        Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
        mounts_write(point, 4096, false);
        Sp__FreezeAnswer *f = freeze(q, "wide", &command);
        assert_int_equal(result_of(f->results, f->n_results, point)->outcome, OUTCOME(FROZEN));
        assert_int_equal(result_of(f->results, f->n_results, xfs)->outcome, OUTCOME(FROZEN));
        const Sp__FileSystem *wide = NULL;
        for (size_t i = 0; i < f->inventory->n_file_systems; i++)
            if (strcmp(f->inventory->file_systems[i]->mount_point, point) == 0)
                wide = f->inventory->file_systems[i];
        assert_non_null(wide);
        assert_int_equal(wide->n_devices, 2);
        const unsigned depths[] = {inventory_loop_depth(f->inventory, wide->devices[0]),
                                   inventory_loop_depth(f->inventory, wide->devices[1])};
        assert_int_equal(depths[0] + depths[1], 3);
        sp__freeze_answer__free_unpacked(f, NULL);
        Sp__ThawAnswer *t = thaw(q, "wide");
        assert_true(t->all_thawed_on_command);
        sp__thaw_answer__free_unpacked(t, NULL);
    }
    quiesce_free(q);
    config.only = only;
    run("umount %s && rm %s/wide0 %s/wide1", point, mounts_folder, xfs);
}

/* A container's: it is on a disk, so it is said, but it is not frozen. */
static void what_only_another_namespace_mounts_is_said(void **state)
{
    (void)state;
    char all[1400], name[300];
    run("truncate -s 8M %s/far.img && mkfs.ext4 -q -F %s/far.img && mkdir %s/far && "
        "losetup -f --show %s/far.img > %s/far.loop && "
        "{ unshare -m --propagation slave sh -c 'mount $(cat %s/far.loop) %s/far && "
        "touch %s/far.up && exec timeout 60 tail -f /dev/null' >/dev/null & echo $! > %s/far.pid; "
        "} && "
        "until [ -e %s/far.up ]; do sleep 0.05; done",
        mounts_folder, mounts_folder, mounts_folder, mounts_folder, mounts_folder, mounts_folder,
        mounts_folder, mounts_folder, mounts_folder, mounts_folder);
    SP_FREE char *path = sp_format("%s/far.loop", mounts_folder), *text = NULL;
    assert_int_equal(sp_file_read(path, 64, &text, NULL), 0);
    text[strcspn(text, "\n")] = 0;
    const char *device = text + strlen("/dev/");
    snprintf(name, sizeof(name), "%s/far in another mount namespace on %s", mounts_folder, device);
    snprintf(all, sizeof(all), "%s,%s", only, name);
    config.only = all;
    struct quiesce *q = new_quiesce(real_argv);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    Sp__FreezeAnswer *f = freeze(q, "far", &command);
    const Sp__FreezeResult *r = result_of(f->results, f->n_results, name);
    assert_int_equal(r->outcome, OUTCOME(FAILED));
    assert_int_equal(r->error, EXDEV);
    /* The inventory of the frozen moment has it, too: by that the grade is lowered. */
    const Sp__FileSystem *far = NULL;
    for (size_t i = 0; i < f->inventory->n_file_systems; i++)
        if (strcmp(f->inventory->file_systems[i]->mount_point, name) == 0)
            far = f->inventory->file_systems[i];
    assert_non_null(far);
    assert_true(far->elsewhere && far->has_block_device && !far->read_only);
    assert_string_equal(far->device, device);
    sp__freeze_answer__free_unpacked(f, NULL);
    Sp__ThawAnswer *t = thaw(q, "far");
    assert_true(t->all_thawed_on_command);
    sp__thaw_answer__free_unpacked(t, NULL);
    quiesce_free(q);
    config.only = only;
    run("kill $(cat %s/far.pid); losetup -d $(cat %s/far.loop)", mounts_folder, mounts_folder);
}

static void read_only_and_network_are_named_as_such(void **state)
{
    (void)state;
    struct inventory_roots roots = inventory_roots_system;
    char proc[160];
    snprintf(proc, sizeof(proc), "%s/proc", mounts_folder);
    run("mount -o remount,ro %s && mkdir -p %s/self && "
        "(cat /proc/self/mountinfo; echo '9000 1 0:900 / /net rw - nfs4 server:/x rw') "
        "> %s/self/mountinfo",
        ext4, proc, proc);
    roots.proc = proc;
    struct quiesce_options options = {
        .config = &config, .roots = &roots, .freezer_argv = real_argv};
    struct quiesce *q = NULL;
    assert_int_equal(quiesce_new(&options, &q, NULL), 0);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    Sp__FreezeAnswer *f = freeze(q, "ro", &command);
    assert_int_equal(result_of(f->results, f->n_results, ext4)->outcome, OUTCOME(READ_ONLY));
    assert_int_equal(result_of(f->results, f->n_results, "/net")->outcome, OUTCOME(NETWORK));
    assert_false(mounts_frozen(ext4));
    sp__freeze_answer__free_unpacked(f, NULL);
    sp__thaw_answer__free_unpacked(thaw(q, "ro"), NULL);
    quiesce_free(q);
    run("mount -o remount,rw %s", ext4);
}

static void the_one_that_blocked_is_named(void **state)
{
    (void)state;
    struct quiesce *q = new_quiesce(hanging_argv);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    command.lease_ms = 500;
    run("touch %s/hang", xfs);
    Sp__FreezeAnswer *f = NULL;
    struct sp_why why = {0};
    assert_int_equal(quiesce_freeze(q, "hangs", &command, &f, &why), -ETIME);
    assert_non_null(strstr(why.text, xfs));
    assert_int_equal(result_of(f->results, f->n_results, xfs)->outcome, OUTCOME(BLOCKED));
    assert_false(mounts_frozen(ext4));
    assert_false(mounts_frozen(inner)); /* frozen before, thawed again */
    sp__freeze_answer__free_unpacked(f, NULL);
    /* Now it freezes, late; the mark of those that were thawed in time is not its own. */
    run("rm %s/thawed %s/hang", mounts_folder, xfs);
    run("until [ -e %s/thawed ]; do sleep 0.05; done", mounts_folder);
    assert_false(mounts_frozen(xfs));
    quiesce_free(q);
}

static void lines_are(const char *expected)
{
    SP_FREE char *text = NULL;
    assert_int_equal(sp_file_read(journal, 4096, &text, NULL), 0);
    assert_string_equal(text, expected);
    unlink(journal);
}

static void hooks_run_around_the_freeze_however_it_ends(void **state)
{
    (void)state;
    struct quiesce *q = new_quiesce(real_argv);
    Sp__FreezeCommand command = SP__FREEZE_COMMAND__INIT;
    command.run_hooks = true;
    /* It writes to what is frozen: were it run meanwhile, it would hang. */
    run("printf '#!/bin/sh\\ndate > %s/at && echo $1 >> %s\\n' > %s/10-a && chmod 755 %s/10-a",
        ext4, journal, hooks, hooks);
    Sp__FreezeAnswer *f = freeze(q, "hooked", &command);
    assert_int_equal(f->n_hooks, 1);
    assert_int_equal(f->hooks[0]->exit_status, 0);
    assert_true(mounts_frozen(ext4));
    lines_are("pre-freeze\n");
    Sp__ThawAnswer *t = thaw(q, "hooked");
    assert_true(t->all_thawed_on_command);
    assert_int_equal(t->n_hooks, 1);
    assert_int_equal(t->hooks[0]->exit_status, 0);
    lines_are("post-thaw\n");
    sp__thaw_answer__free_unpacked(t, NULL);
    sp__freeze_answer__free_unpacked(f, NULL);

    command.lease_ms = 300; /* nobody thaws */
    sp__freeze_answer__free_unpacked(freeze(q, "deadline", &command), NULL);
    mounts_wait_thawed(ext4);
    run("until grep -q post-thaw %s; do sleep 0.05; done", journal);
    lines_are("pre-freeze\npost-thaw\n");
    command.lease_ms = 3600000; /* more than is allowed, and the agent ends */
    f = freeze(q, "ends", &command);
    assert_int_equal(f->lease_ms, config.max_lease_ms);
    sp__freeze_answer__free_unpacked(f, NULL);
    quiesce_free(q);
    lines_are("pre-freeze\npost-thaw\n");
    run("rm %s/10-a", hooks);
}

/* Whether both say the same of the volume on a device, or (NULL) of what lies on the mount of this
 * test. Other tests may change the rest of this host meanwhile. */
static bool same_volume(const Sp__Inventory *a, const Sp__Inventory *b, const char *device)
{
    const Sp__Inventory *both[] = {a, b};
    uint8_t *packed[2] = {NULL, NULL};
    size_t sizes[2] = {0, 0};
    for (int n = 0; n < 2; n++) {
        const ProtobufCMessage *found = NULL;
        for (size_t i = 0; device && i < both[n]->n_volumes; i++)
            if (strcmp(both[n]->volumes[i]->device, device) == 0)
                found = &both[n]->volumes[i]->base;
        for (size_t i = 0; !device && i < both[n]->n_file_systems; i++)
            if (strcmp(both[n]->file_systems[i]->mount_point, xfs) == 0)
                found = &both[n]->file_systems[i]->base;
        assert_non_null(found);
        assert_int_equal(sp_pack(found, &packed[n], &sizes[n]), 0);
    }
    bool same = sizes[0] == sizes[1] && memcmp(packed[0], packed[1], sizes[0]) == 0;
    free(packed[0]);
    free(packed[1]);
    return same;
}

static void the_inventory_is_read_again_as_if_for_the_first_time(void **state)
{
    (void)state;
    char loop[64];
    run("truncate -s 32M %s/luks && echo secret > %s/key && "
        "cryptsetup -q luksFormat --pbkdf pbkdf2 --pbkdf-force-iterations 1000 %s/luks %s/key && "
        "losetup -f --show %s/luks > %s/loop",
        mounts_folder, mounts_folder, mounts_folder, mounts_folder, mounts_folder, mounts_folder);
    SP_FREE char *path = sp_format("%s/loop", mounts_folder), *text = NULL;
    assert_int_equal(sp_file_read(path, 64, &text, NULL), 0);
    snprintf(loop, sizeof(loop), "%.*s", (int)strcspn(text, "\n"), text);
    Sp__Inventory *before = NULL, *again = NULL, *anew = NULL;
    assert_int_equal(inventory_read(&inventory_roots_system, &before, NULL), 0);
    assert_int_equal(inventory_read_again(&inventory_roots_system, before, &again, NULL), 0);
    assert_true(same_volume(before, again, loop));
    assert_true(same_volume(before, again, NULL));
    sp__inventory__free_unpacked(again, NULL);
    /* A header that changed in the meantime is read as it is now. */
    run("echo other > %s/key2 && cryptsetup -q luksAddKey --pbkdf pbkdf2 --pbkdf-force-iterations "
        "1000 --key-file %s/key %s %s/key2",
        mounts_folder, mounts_folder, loop, mounts_folder);
    assert_int_equal(inventory_read_again(&inventory_roots_system, before, &again, NULL), 0);
    assert_int_equal(inventory_read(&inventory_roots_system, &anew, NULL), 0);
    run("losetup -d %s", loop);
    assert_true(same_volume(again, anew, loop));
    assert_false(same_volume(again, before, loop));
    sp__inventory__free_unpacked(again, NULL);
    sp__inventory__free_unpacked(anew, NULL);
    sp__inventory__free_unpacked(before, NULL);
}

static int begin(void **state)
{
    (void)state;
    ext4 = mounts_make("ext4", "ext4", 32, NULL);
    xfs = mounts_make("xfs", "xfs", 320, NULL);
    inner = mounts_make("inner", "ext4", 64, xfs);
    snprintf(only, sizeof(only), "%s,%s,%s", ext4, xfs, inner);
    config = (struct agent_config){.runtime = runtime,
                                   .max_lease_ms = 60000,
                                   .default_lease_ms = 30000,
                                   .most_per_hour = 120,
                                   .exclude = (char *)(uintptr_t) "",
                                   .only = only,
                                   .suspend = (char *)(uintptr_t) "",
                                   .hooks_folder = hooks,
                                   .hooks_run_as = (char *)(uintptr_t) "",
                                   .hooks_timeout_ms = 10000};
    assert_int_equal(mkdir(hooks, 0755), 0);
    return 0;
}

int main(void)
{
    int r = mounts_begin();
    if (r != 0)
        return r;
    const char *build = getenv("SEALPOINT_BUILD");
    snprintf(real, sizeof(real), "%s/agent/sealpoint-agent", build);
    snprintf(refusing, sizeof(refusing), "%s/tests/integration/agent/agent-refusing-freezer",
             build);
    snprintf(runtime, sizeof(runtime), "%s/run", mounts_folder);
    snprintf(hooks, sizeof(hooks), "%s/hooks.d", mounts_folder);
    snprintf(journal, sizeof(journal), "%s/journal", mounts_folder);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loops_freeze_from_the_top),
        cmocka_unit_test(excluded_ones_are_named_as_such),
        cmocka_unit_test(what_does_not_sync_in_time_is_left_out),
        cmocka_unit_test(one_that_cannot_freeze_and_is_idle_counts_as_synced),
        cmocka_unit_test(freezes_are_rationed),
        cmocka_unit_test(a_file_system_with_many_mounts_is_frozen_once),
        cmocka_unit_test(a_btrfs_on_several_devices_comes_before_what_holds_any_of_them),
        cmocka_unit_test(what_only_another_namespace_mounts_is_said),
        cmocka_unit_test(read_only_and_network_are_named_as_such),
        cmocka_unit_test(the_one_that_blocked_is_named),
        cmocka_unit_test(hooks_run_around_the_freeze_however_it_ends),
        cmocka_unit_test(the_inventory_is_read_again_as_if_for_the_first_time),
    };
    r = cmocka_run_group_tests(tests, begin, NULL);
    mounts_end();
    return r;
}
