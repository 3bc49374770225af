/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "process.h"

#include "base/file.h"
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static const char *built(const char *path)
{
    static char out[2][400];
    static int turn;
    const char *build = getenv("SEALPOINT_BUILD");
    turn ^= 1;
    snprintf(out[turn], sizeof(out[turn]), "%s/%s", build ? build : ".", path);
    return out[turn];
}

static pid_t spawn(struct rig *r, const struct process *p, const char *const *arguments)
{
    char options[6][500];
    const char *argv[32] = {built("controller/keeper/sealpoint-keeper"), "--config", "/dev/null"};
    size_t n = 3;
    snprintf(options[0], 500, "keeper.socket=%s", p->socket);
    snprintf(options[1], 500, "keeper.state=%s", r->state);
    snprintf(options[2], 500, "keeper.prover=%s",
             built("controller/keeper/prover/sealpoint-prover"));
    snprintf(options[3], 500, "keeper.controller_user=%u", (unsigned)geteuid());
    snprintf(options[4], 500, "kek.passphrase_file=%s", r->passphrase);
    for (size_t i = 0; i < 5; i++) {
        argv[n++] = "-o";
        argv[n++] = options[i];
    }
    for (size_t i = 0; arguments && arguments[i]; i++)
        argv[n++] = arguments[i];

    posix_spawn_file_actions_t actions;
    pid_t pid = -1;
    assert_int_equal(posix_spawn_file_actions_init(&actions), 0);
    assert_int_equal(
        posix_spawn_file_actions_addopen(&actions, 2, p->log, O_WRONLY | O_CREAT | O_APPEND, 0600),
        0);
    assert_int_equal(posix_spawn(&pid, argv[0], &actions, NULL, (char **)(uintptr_t)argv, environ),
                     0);
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}

static void wait_for_socket(struct process *p, struct keeper_client *c)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperStatusRequest ask = SP__KEEPER_STATUS_REQUEST__INIT;
    const struct timespec pause = {.tv_nsec = 5000000};
    request.kind_case = SP__KEEPER_REQUEST__KIND_STATUS;
    request.status = &ask;
    for (;;) {
        Sp__KeeperResponse *answer = NULL;
        int status;
        if (keeper_call(c, &request, -1, 60000, &answer, NULL) == 0) {
            sp__keeper_response__free_unpacked(answer, NULL);
            return;
        }
        if (waitpid(p->pid, &status, WNOHANG) == p->pid)
            fail_msg("the keeper ended with status %x; see %s", status, p->log);
        nanosleep(&pause, NULL);
    }
}

void process_start(struct rig *r, struct process *p)
{
    snprintf(p->socket, sizeof(p->socket), "%s/keeper.sock", r->folder);
    snprintf(p->log, sizeof(p->log), "%s/log", r->folder);
    if (!r->client)
        assert_int_equal(keeper_client_new(p->socket, &r->client), 0);
    p->pid = spawn(r, p, NULL);
    wait_for_socket(p, r->client);
}

int process_end(struct process *p, int signal)
{
    int status = 0;
    assert_int_equal(kill(p->pid, signal), 0);
    assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
    return status;
}

int process_run(struct rig *r, const struct process *p, const char *const *arguments)
{
    int status = 0;
    pid_t pid = spawn(r, p, arguments);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

struct rig *process_rig(struct process *p)
{
    struct rig *r = rig_new();
    process_start(r, p);
    answer_free(rig_init(r));
    rig_read_keys(r);
    return r;
}

void process_rig_free(struct rig *r, struct process *p)
{
    void *state = r;
    if (p->pid > 0)
        process_end(p, SIGTERM);
    rig_teardown(&state);
}

static bool folder_holds(const char *folder, const char *bytes)
{
    DIR *dir = opendir(folder);
    bool found = false;
    for (struct dirent *e; dir && !found && (e = readdir(dir));) {
        char path[500];
        struct stat st;
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
        if (lstat(path, &st) < 0)
            continue;
        if (S_ISDIR(st.st_mode)) {
            found = folder_holds(path, bytes);
        } else if (S_ISREG(st.st_mode)) {
            SP_FREE char *data = NULL;
            size_t size = 0;
            found = sp_file_read(path, 512 << 20, &data, &size) == 0 &&
                    memmem(data, size, bytes, strlen(bytes));
        }
    }
    if (dir)
        closedir(dir);
    return found;
}

bool process_left(struct rig *r, const char *bytes)
{
    return folder_holds(r->folder, bytes);
}

void shell(const char *format, ...)
{
    char command[1000];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof(command), format, ap);
    va_end(ap);
    int status = system(command);
    if (status != 0)
        fail_msg("status %x: %s", status, command);
}
