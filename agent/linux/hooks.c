/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/hooks.h"
#include "agent/linux/hook_process.h"
#include "agent/message.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>

/* ---- which hooks there are ---- */

static bool is_hook_name(const char *name)
{
    for (const char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '_' && *c != '-')
            return false;
    return *name != 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void free_strings(char **strings, size_t count)
{
    for (size_t i = 0; strings && i < count; i++)
        free(strings[i]);
    free(strings);
}

/* The names in the folder, sorted. -E2BIG: more than HOOKS_MOST. */
static int list(const struct hooks_options *options, char ***ret, size_t *ret_count,
                struct sp_why *why)
{
    DIR *dir = opendir(options->folder);
    if (!dir)
        return errno == ENOENT
                   ? 0
                   : sp_why_set(why, -errno, "cannot open the hooks' folder '%s'", options->folder);
    int r = 0;
    for (struct dirent *entry; r == 0 && (entry = readdir(dir));) {
        if (!is_hook_name(entry->d_name))
            continue;
        r = *ret_count == HOOKS_MOST ? sp_why_set(why, -E2BIG, "'%s' has more than %d hooks",
                                                  options->folder, HOOKS_MOST)
                                     : message_append_text(ret, ret_count, entry->d_name);
    }
    closedir(dir);
    if (r == 0 && *ret_count)
        qsort(*ret, *ret_count, sizeof(**ret), by_name);
    return r;
}

/* ---- whether they may be run ---- */

/* Nobody but root may change what is run as root. A sticky folder (/tmp) lets nobody else rename
 * what is root's. */
static int check_one(const char *path, bool last, struct sp_why *why)
{
    struct stat info;
    if (lstat(path, &info) < 0)
        return sp_why_set(why, -errno, "cannot look at '%s': %s", path, strerror(errno));
    bool folder = S_ISDIR(info.st_mode);
    if (last && !S_ISREG(info.st_mode))
        return sp_why_set(why, -EPERM, "'%s' is no file", path);
    if (last && !(info.st_mode & 0111))
        return sp_why_set(why, -EPERM, "'%s' is not executable", path);
    if (info.st_uid != 0)
        return sp_why_set(why, -EPERM, "'%s' does not belong to root", path);
    if ((info.st_mode & 022) && !(folder && (info.st_mode & S_ISVTX)))
        return sp_why_set(why, -EPERM, "'%s' can be written by others than root", path);
    return 0;
}

/* `path` and every folder above it, without symlinks. */
static int check_whole(const char *path, bool file, struct sp_why *why)
{
    SP_FREE char *real = realpath(path, NULL);
    if (!real)
        return sp_why_set(why, -errno, "cannot find '%s': %s", path, strerror(errno));
    int r = check_one(real, file, why);
    while (r == 0 && real[0] == '/' && real[1]) {
        char *slash = strrchr(real, '/');
        slash[slash == real] = 0;
        r = check_one(real, false, why);
    }
    return r;
}

static int check_hook(const struct hooks_options *options, const char *path, struct sp_why *why)
{
    int r = check_whole(options->folder, false, why); /* where the name, maybe a symlink, lies */
    return r == 0 ? check_whole(path, true, why) : r;
}

/* The user of "NAME:USER,…", a copy; NULL if the hook is not named. */
static int user_of(const char *run_as, const char *name, char **ret)
{
    size_t length = strlen(name);
    for (const char *at = run_as; at && *at;) {
        while (*at == ' ' || *at == ',')
            at++;
        const char *end = strchrnul(at, ',');
        if (strncmp(at, name, length) == 0 && at[length] == ':') {
            *ret = strndup(at + length + 1, (size_t)(end - at) - length - 1);
            return *ret ? 0 : -ENOMEM;
        }
        at = end;
    }
    *ret = NULL;
    return 0;
}

int hooks_names(const struct hooks_options *options, struct hooks_names *ret, struct sp_why *why)
{
    *ret = (struct hooks_names){0};
    size_t faults = 0;
    int r = list(options, &ret->names, &ret->count, why);
    for (size_t i = 0; r == 0 && i < ret->count; i++) {
        SP_FREE char *path = sp_format("%s/%s", options->folder, ret->names[i]);
        SP_FREE char *user = NULL;
        struct sp_why fault = {0};
        struct hook_user found;
        r = path ? user_of(options->run_as, ret->names[i], &user) : -ENOMEM;
        if (r == 0 && check_hook(options, path, &fault) == 0)
            hook_user_find(user, &found, &fault);
        if (r == 0)
            r = message_append_text(&ret->faults, &faults, fault.text);
    }
    if (r < 0)
        hooks_names_free(ret);
    return r;
}

void hooks_names_free(struct hooks_names *names)
{
    free_strings(names->names, names->count);
    free_strings(names->faults, names->count);
    *names = (struct hooks_names){0};
}

/* ---- the mark ---- */

struct mark {
    char *path, *operation_id;
    unsigned hold_seconds;
    char **names;
    size_t count;
};

static void mark_done(struct mark *mark)
{
    free(mark->path);
    free(mark->operation_id);
    free_strings(mark->names, mark->count);
}

/* Writes it, or removes it when no hook is left on it. */
static int mark_write(const struct mark *mark)
{
    if (mark->count == 0)
        return unlink(mark->path) < 0 && errno != ENOENT ? -errno : 0;
    SP_BUFFER struct sp_buffer text = {0};
    int r = sp_buffer_printf(&text, "%s\n%u\n", mark->operation_id, mark->hold_seconds);
    for (size_t i = 0; r == 0 && i < mark->count; i++)
        r = sp_buffer_printf(&text, "%s\n", mark->names[i]);
    return r == 0 ? sp_file_replace(mark->path, text.data, text.size, 0600) : r;
}

/* -ENOENT: there is none. */
static int mark_read(struct mark *mark)
{
    SP_FREE char *text = NULL;
    int r = sp_file_read(mark->path, 65536, &text, NULL);
    if (r < 0)
        return r;
    char *save = NULL;
    const char *id = strtok_r(text, "\n", &save), *hold = strtok_r(NULL, "\n", &save);
    mark->operation_id = strdup(id ? id : "");
    if (!mark->operation_id)
        return -ENOMEM;
    mark->hold_seconds = hold ? (unsigned)strtoul(hold, NULL, 10) : 0;
    for (const char *name; r == 0 && (name = strtok_r(NULL, "\n", &save));)
        if (is_hook_name(name) && mark->count < HOOKS_MOST)
            r = message_append_text(&mark->names, &mark->count, name);
    return r;
}

/* ---- one call ---- */

void hooks_results_free(struct hooks_results *results)
{
    for (size_t i = 0; i < results->count; i++)
        sp__hook_result__free_unpacked(results->at[i], NULL);
    free(results->at);
    *results = (struct hooks_results){0};
}

static char *own_folder(const struct hooks_options *options, const char *name)
{
    return sp_format("%s/hook-%s", options->runtime, name);
}

/* What a hook may leave there: files, fifos, sockets; no folders. */
static void remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(path);
}

/* The folder stays the agent's, so that it can empty it, and its user comes in by group: under the
 * unit there is no capability to override permissions, and none to give files away. Nobody else of
 * that group comes as far as the folder, for the one above is the agent's alone. */
static int make_folder(const char *path, const struct hook_user *user)
{
    remove_folder(path);
    int own = setfsgid(user->gid); /* of this thread */
    int r = mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
    setfsgid((gid_t)own);
    if (r == 0 && user->other && chmod(path, 0770) < 0)
        r = -errno;
    return r;
}

/* Runs one phase; what goes wrong is in the result. -ENOMEM only. */
static int call(const struct hooks_options *options, const struct mark *mark, const char *name,
                const char *phase, struct hooks_results *results)
{
    Sp__HookResult *result = malloc(sizeof(*result));
    if (!result)
        return -ENOMEM;
    sp__hook_result__init(result);
    if (message_append(&results->at, &results->count, result) < 0) {
        free(result);
        return -ENOMEM;
    }
    SP_FREE char *path = sp_format("%s/%s", options->folder, name);
    SP_FREE char *folder = own_folder(options, name);
    SP_FREE char *user_name = NULL;
    int r = message_text(&result->name, name);
    if (r < 0 || !path || !folder || user_of(options->run_as, name, &user_name) < 0)
        return -ENOMEM;
    struct sp_why why = {0};
    struct hook_user user = {0};
    struct hook_outcome outcome = {.exit_status = HOOK_CANNOT_RUN};
    r = check_hook(options, path, &why);
    if (r == 0)
        r = hook_user_find(user_name, &user, &why);
    if (r == 0 && strcmp(phase, HOOK_PRE_FREEZE) == 0 && (r = make_folder(folder, &user)) < 0)
        sp_why_set(&why, r, "cannot make its folder '%s': %s", folder, strerror(-r));
    if (r == 0) {
        struct hook_process process = {.path = path,
                                       .phase = phase,
                                       .folder = folder,
                                       .operation_id = mark->operation_id,
                                       .hold_seconds = mark->hold_seconds,
                                       .timeout_ms = options->timeout_ms,
                                       .user = &user};
        r = hook_run(&process, &outcome, &why);
    }
    result->exit_status = outcome.exit_status;
    result->timed_out = outcome.timed_out;
    r = message_text(&result->output, r < 0 ? why.text : outcome.output);
    return r;
}

/* ---- both phases ---- */

static int mark_open(const struct hooks_options *options, struct mark *mark)
{
    *mark = (struct mark){.path = sp_format("%s/hooks", options->runtime)};
    return mark->path ? 0 : -ENOMEM;
}

int hooks_before(const struct hooks_options *options, const char *operation_id,
                 unsigned hold_seconds, struct hooks_results *results, struct sp_why *why)
{
    char **names = NULL;
    size_t count = 0;
    struct mark mark;
    int r = mark_open(options, &mark);
    if (r == 0)
        r = list(options, &names, &count, why);
    mark.hold_seconds = hold_seconds;
    if (r == 0 && !(mark.operation_id = strdup(operation_id)))
        r = -ENOMEM;
    for (size_t i = 0; r == 0 && i < count; i++) {
        r = message_append_text(&mark.names, &mark.count, names[i]);
        if (r == 0 && (r = mark_write(&mark)) < 0)
            sp_why_set(why, r, "cannot write '%s'", mark.path);
        if (r == 0)
            r = call(options, &mark, names[i], HOOK_PRE_FREEZE, results);
    }
    free_strings(names, count);
    mark_done(&mark);
    return r;
}

int hooks_after(const struct hooks_options *options, struct hooks_results *results,
                struct sp_why *why)
{
    struct mark mark;
    int r = mark_open(options, &mark);
    if (r == 0)
        r = mark_read(&mark);
    while (r == 0 && mark.count) {
        char *name = mark.names[mark.count - 1];
        r = call(options, &mark, name, HOOK_POST_THAW, results);
        SP_FREE char *folder = own_folder(options, name);
        if (folder)
            remove_folder(folder);
        if (r < 0)
            break;
        /* Off the mark only when it has run: killed before, it runs again. */
        free(name);
        mark.count--;
        if ((r = mark_write(&mark)) < 0)
            sp_why_set(why, r, "cannot write '%s'", mark.path);
    }
    mark_done(&mark);
    return r == -ENOENT ? 0 : r;
}
