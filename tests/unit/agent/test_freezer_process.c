/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The freezer's side of the protocol, with FIFREEZE, FITHAW and suspensions replaced: order,
 * deadlines, calls that hang. */
#include "agent/linux/freeze_list.h"
#include "agent/linux/freezer_process.h"
#include "base/cleanup.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cmocka.h>

/* ---- file systems that are memfds; the size of each says which one it is ---- */

enum { SYSTEMS = 4 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char history[128];    /* "f0 f1 t1 t0 " */
static int refuses[SYSTEMS]; /* errno of FIFREEZE */
static sem_t hangs[SYSTEMS]; /* FIFREEZE waits for it, if it hangs */
static bool freeze_hangs[SYSTEMS], thaw_hangs[SYSTEMS];
static sem_t entered; /* a FIFREEZE hangs now */

static int index_of(int fd)
{
    return (int)lseek(fd, 0, SEEK_END);
}

static void note(char what, int i)
{
    pthread_mutex_lock(&lock);
    size_t n = strlen(history);
    snprintf(history + n, sizeof(history) - n, "%c%d ", what, i);
    pthread_mutex_unlock(&lock);
}

static int fake_freeze(int fd)
{
    int i = index_of(fd);
    if (freeze_hangs[i]) {
        sem_post(&entered);
        sem_wait(&hangs[i]);
    }
    if (refuses[i]) {
        errno = refuses[i];
        return -1;
    }
    note('f', i);
    return 0;
}

static int fake_thaw(int fd)
{
    int i = index_of(fd);
    if (thaw_hangs[i])
        sem_wait(&hangs[i]);
    note('t', i);
    return 0;
}

/* Devices: the control descriptor says which one, too. One that hangs can be interrupted, as the
 * kernel's, unless it is deaf. */
static bool deaf;

static int fake_suspend(int control, const char *devno)
{
    int i = index_of(control);
    assert_int_equal(devno[0] - '0', i);
    if (freeze_hangs[i])
        sem_post(&entered);
    while (freeze_hangs[i] && sem_wait(&hangs[i]) < 0)
        if (!deaf)
            return -1; /* EINTR */
    if (refuses[i]) {
        errno = refuses[i];
        return -1;
    }
    note('s', i);
    return 0;
}

static int fake_resume(int control, const char *devno)
{
    int i = index_of(control);
    assert_int_equal(devno[0] - '0', i);
    note('r', i);
    return 0;
}

static const struct freezer_calls fake_calls = {fake_freeze, fake_thaw, fake_suspend, fake_resume};

/* ---- a freezer on a thread ---- */

struct rig {
    int ends[2], list_fd, fds[SYSTEMS];
    struct freeze_list *list;
    pthread_t thread;
    int result;
};

static void *serve(void *arg)
{
    struct rig *rig = arg;
    rig->result = freezer_serve(rig->ends[1], rig->list, &fake_calls, 0);
    return NULL;
}

static void expect(struct rig *rig, uint32_t kind, uint32_t value)
{
    struct freezer_message m;
    assert_int_equal(recv(rig->ends[0], &m, sizeof(m), 0), sizeof(m));
    assert_int_equal(m.kind, kind);
    assert_int_equal(m.value, value);
}

static void tell(struct rig *rig, uint32_t kind, uint32_t value, int fd)
{
    struct freezer_message m = {.kind = kind, .value = value};
    char room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {&m, sizeof(m)};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = room;
        message.msg_controllen = sizeof(room);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    assert_int_equal(sendmsg(rig->ends[0], &message, 0), sizeof(m));
}

static int begin(void **state)
{
    static struct rig rig;
    memset(&rig, 0, sizeof(rig));
    memset(history, 0, sizeof(history));
    sem_init(&entered, 0, 0);
    deaf = false;
    for (int i = 0; i < SYSTEMS; i++) {
        refuses[i] = 0;
        freeze_hangs[i] = thaw_hangs[i] = false;
        sem_init(&hangs[i], 0, 0);
        rig.fds[i] = memfd_create("fs", MFD_CLOEXEC);
        if (ftruncate(rig.fds[i], i) < 0)
            return -1;
    }
    rig.list_fd = memfd_create("list", MFD_CLOEXEC);
    struct freeze_list head = {.version = FREEZE_LIST_VERSION, .size = sizeof(head)};
    memcpy(head.magic, FREEZE_LIST_MAGIC, 8);
    if (ftruncate(rig.list_fd, sizeof(head)) < 0 ||
        pwrite(rig.list_fd, &head, offsetof(struct freeze_list, entries), 0) < 0 ||
        freeze_list_map(rig.list_fd, &rig.list) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, rig.ends) < 0 ||
        pthread_create(&rig.thread, NULL, serve, &rig) != 0)
        return -1;
    expect(&rig, FREEZER_READY, 0);
    *state = &rig;
    return 0;
}

static int end(void **state)
{
    struct rig *rig = *state;
    close(rig->ends[0]);
    pthread_join(rig->thread, NULL);
    close(rig->ends[1]);
    for (int i = 0; i < SYSTEMS; i++)
        close(rig->fds[i]);
    freeze_list_unmap(rig->list);
    close(rig->list_fd);
    return 0;
}

/* Adds `count` file systems with these levels. */
static void add_kinds(struct rig *rig, const uint32_t *levels, const uint32_t *kinds,
                      uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        memset(&rig->list->entries[i], 0, sizeof(rig->list->entries[i]));
        rig->list->entries[i].level = levels[i];
        rig->list->entries[i].kind = kinds[i];
        rig->list->entries[i].devno[0] = (char)('0' + i);
    }
    atomic_store(&rig->list->count, count);
    for (uint32_t i = 0; i < count; i++)
        tell(rig, FREEZER_ADD, i, rig->fds[i]);
}

static void add(struct rig *rig, const uint32_t *levels, uint32_t count)
{
    add_kinds(rig, levels, (const uint32_t[SYSTEMS]){0}, count);
}

static uint32_t entry_state(struct rig *rig, int i)
{
    return atomic_load(&rig->list->entries[i].state);
}

/* ---- tests ---- */

static void higher_levels_freeze_first_and_thaw_last(void **state)
{
    struct rig *rig = *state;
    add(rig, (const uint32_t[]){0, 2, 1}, 3);
    tell(rig, FREEZER_FREEZE, 60000, -1);
    expect(rig, FREEZER_FROZEN, 0);
    assert_string_equal(history, "f1 f2 f0 ");
    tell(rig, FREEZER_THAW, 0, -1);
    expect(rig, FREEZER_ENDED, FREEZE_END_COMMAND);
    assert_string_equal(history, "f1 f2 f0 t0 t2 t1 ");
    /* And again, with what stays of the first one forgotten. */
    add(rig, (const uint32_t[]){0}, 1);
    tell(rig, FREEZER_FREEZE, 60000, -1);
    expect(rig, FREEZER_FROZEN, 0);
    tell(rig, FREEZER_THAW, 0, -1);
    expect(rig, FREEZER_ENDED, FREEZE_END_COMMAND);
    assert_string_equal(history, "f1 f2 f0 t0 t2 t1 f0 t0 ");
}

static void the_deadline_thaws(void **state)
{
    struct rig *rig = *state;
    add(rig, (const uint32_t[]){0, 0}, 2);
    tell(rig, FREEZER_FREEZE, 50, -1);
    expect(rig, FREEZER_FROZEN, 0);
    expect(rig, FREEZER_ENDED, FREEZE_END_DEADLINE);
    assert_int_equal(entry_state(rig, 0), FREEZE_ENTRY_THAWED);
    assert_int_equal(entry_state(rig, 1), FREEZE_ENTRY_THAWED);
    tell(rig, FREEZER_THAW, 0, -1); /* too late, and harmless */
    add(rig, (const uint32_t[]){0}, 1);
    tell(rig, FREEZER_FREEZE, 60000, -1);
    expect(rig, FREEZER_FROZEN, 0);
}

static void the_end_of_the_agent_thaws(void **state)
{
    struct rig *rig = *state;
    add(rig, (const uint32_t[]){0, 1}, 2);
    tell(rig, FREEZER_FREEZE, 60000, -1);
    expect(rig, FREEZER_FROZEN, 0);
    shutdown(rig->ends[0], SHUT_RDWR);
    pthread_join(rig->thread, NULL);
    assert_int_equal(rig->result, 0);
    assert_string_equal(history, "f1 f0 t0 t1 ");
    assert_int_equal(atomic_load(&rig->list->ended_by), FREEZE_END_AGENT_LOST);
    pthread_create(&rig->thread, NULL, serve, rig); /* for end() to join */
}

static void nonsense_from_the_agent_thaws(void **state)
{
    struct rig *rig = *state;
    add(rig, (const uint32_t[]){0}, 1);
    tell(rig, FREEZER_FREEZE, 60000, -1);
    expect(rig, FREEZER_FROZEN, 0);
    tell(rig, 77, 0, -1);
    expect(rig, FREEZER_ENDED, FREEZE_END_AGENT_LOST);
    assert_string_equal(history, "f0 t0 ");
}

static void a_refusal_does_not_fail_the_others(void **state)
{
    struct rig *rig = *state;
    refuses[0] = EOPNOTSUPP;
    refuses[2] = EBUSY;
    add(rig, (const uint32_t[]){0, 0, 0}, 3);
    tell(rig, FREEZER_FREEZE, 60000, -1);
    expect(rig, FREEZER_FROZEN, 0);
    assert_int_equal(entry_state(rig, 0), FREEZE_ENTRY_REFUSED);
    assert_int_equal(rig->list->entries[0].freeze_error, EOPNOTSUPP);
    assert_int_equal(rig->list->entries[2].freeze_error, EBUSY);
    tell(rig, FREEZER_THAW, 0, -1);
    expect(rig, FREEZER_ENDED, FREEZE_END_COMMAND);
    assert_string_equal(history, "f1 t1 "); /* what it did not freeze it does not thaw */
}

static void a_late_freeze_thaws_itself(void **state)
{
    struct rig *rig = *state;
    freeze_hangs[1] = true;
    add(rig, (const uint32_t[]){1, 0, 0}, 3);
    tell(rig, FREEZER_FREEZE, 100, -1);
    expect(rig, FREEZER_ENDED, FREEZE_END_DEADLINE); /* no FROZEN: it was never complete */
    assert_int_equal(entry_state(rig, 0), FREEZE_ENTRY_THAWED);
    assert_int_equal(entry_state(rig, 1), FREEZE_ENTRY_ABANDONED);
    assert_int_equal(entry_state(rig, 2), FREEZE_ENTRY_THAWED);
    sem_post(&hangs[1]);
    /* The freezer takes the next freeze when the thread is through. */
    freeze_hangs[1] = false;
    tell(rig, FREEZER_FREEZE, 60000, -1);
    expect(rig, FREEZER_FROZEN, 0);
    assert_int_equal(entry_state(rig, 1), FREEZE_ENTRY_THAWED);
    assert_non_null(strstr(history, "f1 t1 "));
}

static void a_thaw_command_ends_a_freeze_that_hangs(void **state)
{
    struct rig *rig = *state;
    freeze_hangs[0] = true;
    add(rig, (const uint32_t[]){0, 1}, 2);
    tell(rig, FREEZER_FREEZE, 60000, -1);
    sem_wait(&entered);
    tell(rig, FREEZER_THAW, 0, -1);
    expect(rig, FREEZER_ENDED, FREEZE_END_COMMAND);
    assert_int_equal(entry_state(rig, 0), FREEZE_ENTRY_ABANDONED);
    assert_int_equal(entry_state(rig, 1), FREEZE_ENTRY_THAWED);
    sem_post(&hangs[0]);
}

static void it_stays_until_a_late_freeze_is_thawed(void **state)
{
    struct rig *rig = *state;
    freeze_hangs[0] = true;
    add(rig, (const uint32_t[]){0}, 1);
    tell(rig, FREEZER_FREEZE, 60000, -1);
    sem_wait(&entered);
    shutdown(rig->ends[0], SHUT_RDWR);
    while (entry_state(rig, 0) != FREEZE_ENTRY_ABANDONED)
        ;
    assert_int_equal(pthread_tryjoin_np(rig->thread, NULL), EBUSY);
    sem_post(&hangs[0]);
    pthread_join(rig->thread, NULL);
    assert_string_equal(history, "f0 t0 ");
    assert_int_equal(entry_state(rig, 0), FREEZE_ENTRY_THAWED);
    pthread_create(&rig->thread, NULL, serve, rig);
}

static void a_hanging_thaw_does_not_keep_the_others(void **state)
{
    struct rig *rig = *state;
    thaw_hangs[0] = true;
    add(rig, (const uint32_t[]){0, 1}, 2);
    tell(rig, FREEZER_FREEZE, 60000, -1);
    expect(rig, FREEZER_FROZEN, 0);
    tell(rig, FREEZER_THAW, 0, -1);
    expect(rig, FREEZER_ENDED, FREEZE_END_COMMAND);
    assert_int_equal(entry_state(rig, 0), FREEZE_ENTRY_THAWING); /* and so it is not all thawed */
    assert_int_equal(entry_state(rig, 1), FREEZE_ENTRY_THAWED);
    sem_post(&hangs[0]);
}

static void what_was_added_and_never_frozen_is_dropped(void **state)
{
    struct rig *rig = *state;
    add(rig, (const uint32_t[]){0, 0}, 2);
    shutdown(rig->ends[0], SHUT_RDWR);
    pthread_join(rig->thread, NULL);
    assert_string_equal(history, "");
    pthread_create(&rig->thread, NULL, serve, rig);
}

static void an_index_out_of_order_ends_it(void **state)
{
    struct rig *rig = *state;
    atomic_store(&rig->list->count, 4);
    tell(rig, FREEZER_ADD, 3, rig->fds[0]);
    pthread_join(rig->thread, NULL);
    assert_int_equal(rig->result, -EPROTO);
    shutdown(rig->ends[0], SHUT_RDWR);
    pthread_create(&rig->thread, NULL, serve, rig);
}

/* ---- devices ---- */

enum { FS = FREEZE_KIND_FILE_SYSTEM, DEV = FREEZE_KIND_DEVICE };

static void devices_are_suspended_and_resumed_in_their_turn(void **state)
{
    struct rig *rig = *state;
    add_kinds(rig, (const uint32_t[]){0, 1, 2}, (const uint32_t[]){DEV, FS, DEV}, 3);
    tell(rig, FREEZER_FREEZE, 60000, -1);
    expect(rig, FREEZER_FROZEN, 0);
    assert_string_equal(history, "s2 f1 s0 ");
    tell(rig, FREEZER_THAW, 0, -1);
    expect(rig, FREEZER_ENDED, FREEZE_END_COMMAND);
    assert_string_equal(history, "s2 f1 s0 r0 t1 r2 ");
    assert_int_equal(entry_state(rig, 0), FREEZE_ENTRY_THAWED);
}

static void a_device_that_somebody_else_suspended_is_not_resumed(void **state)
{
    struct rig *rig = *state;
    refuses[0] = EBUSY;
    add_kinds(rig, (const uint32_t[]){0, 1}, (const uint32_t[]){DEV, FS}, 2);
    tell(rig, FREEZER_FREEZE, 60000, -1);
    expect(rig, FREEZER_FROZEN, 0);
    assert_int_equal(entry_state(rig, 0), FREEZE_ENTRY_REFUSED);
    assert_int_equal(rig->list->entries[0].freeze_error, EBUSY);
    shutdown(rig->ends[0], SHUT_RDWR);
    pthread_join(rig->thread, NULL);
    assert_string_equal(history, "f1 t1 ");
    pthread_create(&rig->thread, NULL, serve, rig);
}

static void a_suspension_that_blocks_is_interrupted_at_the_deadline(void **state)
{
    struct rig *rig = *state;
    freeze_hangs[0] = true;
    add_kinds(rig, (const uint32_t[]){0, 1}, (const uint32_t[]){DEV, FS}, 2);
    tell(rig, FREEZER_FREEZE, 100, -1);
    expect(rig, FREEZER_ENDED, FREEZE_END_DEADLINE);
    freeze_hangs[0] = false; /* nobody posts its semaphore: only a signal ends the wait */
    add(rig, (const uint32_t[]){0, 1}, 2);
    tell(rig, FREEZER_FREEZE, 60000, -1);
    expect(rig, FREEZER_FROZEN, 0);
    assert_string_equal(history, "f1 t1 f1 f0 ");
}

static void a_suspension_that_succeeds_late_is_resumed_at_once(void **state)
{
    struct rig *rig = *state;
    freeze_hangs[0] = deaf = true;
    add_kinds(rig, (const uint32_t[]){0}, (const uint32_t[]){DEV}, 1);
    tell(rig, FREEZER_FREEZE, 60000, -1);
    sem_wait(&entered);
    shutdown(rig->ends[0], SHUT_RDWR);
    while (entry_state(rig, 0) != FREEZE_ENTRY_ABANDONED)
        ;
    sem_post(&hangs[0]);
    pthread_join(rig->thread, NULL);
    assert_string_equal(history, "s0 r0 ");
    assert_int_equal(entry_state(rig, 0), FREEZE_ENTRY_THAWED);
    pthread_create(&rig->thread, NULL, serve, rig);
}

#define T(test) cmocka_unit_test_setup_teardown(test, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(higher_levels_freeze_first_and_thaw_last),
        T(the_deadline_thaws),
        T(the_end_of_the_agent_thaws),
        T(nonsense_from_the_agent_thaws),
        T(a_refusal_does_not_fail_the_others),
        T(a_late_freeze_thaws_itself),
        T(a_thaw_command_ends_a_freeze_that_hangs),
        T(it_stays_until_a_late_freeze_is_thawed),
        T(a_hanging_thaw_does_not_keep_the_others),
        T(what_was_added_and_never_frozen_is_dropped),
        T(an_index_out_of_order_ends_it),
        T(devices_are_suspended_and_resumed_in_their_turn),
        T(a_device_that_somebody_else_suspended_is_not_resumed),
        T(a_suspension_that_blocks_is_interrupted_at_the_deadline),
        T(a_suspension_that_succeeds_late_is_resumed_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
