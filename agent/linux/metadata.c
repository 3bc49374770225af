/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/metadata.h"
#include "agent/linux/scan.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include <ctype.h>
#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CONNECT_MS = 1500, ANSWER_MS = 4000, WAIT_MS = 5000, BODY_MOST = 65536 };

/* ---- which cloud ---- */

const char *metadata_cloud(const struct agent_config *config)
{
    static const char dmi[] = "/sys/class/dmi/id";
    char text[256];
    if (strcmp(config->metadata, "azure") == 0)
        return "azure";
    if (strcmp(config->metadata, "openstack") == 0)
        return "openstack";
    if (strcmp(config->metadata, "auto") != 0)
        return NULL;
    /* The asset tag of every Azure guest, as cloud-init and Azure's own agent tell it. */
    if (strcmp(scan_attribute(dmi, "chassis_asset_tag", text, sizeof(text)),
               "7783-7084-3265-9085-8269-3286-77") == 0)
        return "azure";
    if (strncmp(scan_attribute(dmi, "product_name", text, sizeof(text)), "OpenStack", 9) == 0)
        return "openstack";
    return NULL;
}

/* ---- the process that asks ---- */

struct body {
    char text[BODY_MOST + 1];
    size_t size;
};

static size_t take(char *data, size_t one, size_t count, void *arg)
{
    struct body *b = arg;
    if (count > BODY_MOST - b->size)
        return 0; /* ends the transfer */
    memcpy(b->text + b->size, data, count * one);
    b->size += count;
    return count;
}

/* Loads libcurl and gets the page. The text of what went wrong, or NULL. */
static const char *get(const char *url, bool azure, struct body *body)
{
    void *library = dlopen("libcurl.so.4", RTLD_NOW);
    if (!library)
        return "libcurl is not installed";
    CURL *(*init)(void) = (CURL * (*)(void))(uintptr_t)dlsym(library, "curl_easy_init");
    CURLcode (*set)(CURL *, CURLoption, ...) =
        (CURLcode(*)(CURL *, CURLoption, ...))(uintptr_t)dlsym(library, "curl_easy_setopt");
    CURLcode (*perform)(CURL *) =
        (CURLcode(*)(CURL *))(uintptr_t)dlsym(library, "curl_easy_perform");
    const char *(*words)(CURLcode) =
        (const char *(*)(CURLcode))(uintptr_t)dlsym(library, "curl_easy_strerror");
    struct curl_slist *(*append)(struct curl_slist *, const char *) =
        (struct curl_slist *
         (*)(struct curl_slist *, const char *))(uintptr_t)dlsym(library, "curl_slist_append");
    void (*release)(struct curl_slist *) =
        (void (*)(struct curl_slist *))(uintptr_t)dlsym(library, "curl_slist_free_all");
    void (*cleanup)(CURL *) = (void (*)(CURL *))(uintptr_t)dlsym(library, "curl_easy_cleanup");
    CURL *curl = init && set && perform && words && append && release && cleanup ? init() : NULL;
    if (!curl)
        return "libcurl cannot be used";
    struct curl_slist *header = azure ? append(NULL, "Metadata: true") : NULL;
    set(curl, CURLOPT_URL, url);
    set(curl, CURLOPT_PROTOCOLS_STR, "http");
    set(curl, CURLOPT_PROXY, ""); /* the address is the guest's own link's */
    set(curl, CURLOPT_NOSIGNAL, 1L);
    set(curl, CURLOPT_FAILONERROR, 1L);
    set(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    set(curl, CURLOPT_TIMEOUT_MS, (long)ANSWER_MS);
    set(curl, CURLOPT_HTTPHEADER, header);
    set(curl, CURLOPT_WRITEFUNCTION, take);
    set(curl, CURLOPT_WRITEDATA, body);
    CURLcode code = perform(curl);
    cleanup(curl);
    release(header);
    return code == CURLE_OK            ? NULL
           : code == CURLE_WRITE_ERROR ? "the answer is too long"
                                       : words(code);
}

/* A UUID in lower case; anything else is refused. */
static bool take_uuid(const char *text, char ret[37])
{
    size_t size = strcspn(text, "\r\n");
    if (size != 36)
        return false;
    for (size_t i = 0; i < size; i++)
        ret[i] = (char)tolower((unsigned char)text[i]);
    ret[36] = 0;
    return sp_uuid_valid(ret);
}

static bool take_openstack(const struct body *body, char ret[37])
{
    json_object *root = json_tokener_parse(body->text), *uuid = NULL;
    bool good = root && json_object_is_type(root, json_type_object) &&
                json_object_object_get_ex(root, "uuid", &uuid) &&
                json_object_is_type(uuid, json_type_string) &&
                take_uuid(json_object_get_string(uuid), ret);
    json_object_put(root);
    return good;
}

int metadata_main(const char *cloud, const char *url)
{
    static struct body body;
    bool azure = strcmp(cloud, "azure") == 0;
    SP_FREE char *page = NULL;
    if (asprintf(&page, "%s%s", url,
                 azure ? "/metadata/instance/compute/vmId?api-version=2021-02-01&format=text"
                       : "/openstack/latest/meta_data.json") < 0)
        return EXIT_FAILURE;
    const char *problem = get(page, azure, &body);
    char id[37];
    if (!problem && !(azure ? take_uuid(body.text, id) : take_openstack(&body, id)))
        problem = "the answer holds no id";
    if (problem) {
        fprintf(stderr, "%s\n", problem);
        return EXIT_FAILURE;
    }
    puts(id);
    return EXIT_SUCCESS;
}

/* ---- the agent's side ---- */

static int spawn(const char *cloud, const char *url, int out, pid_t *ret)
{
    const char *argv[] = {"sealpoint-agent", "metadata", cloud, url, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    int error = posix_spawn_file_actions_init(&actions);
    if (error)
        return -error;
    error = posix_spawnattr_init(&attributes);
    if (error == 0) {
        posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
        posix_spawn_file_actions_adddup2(&actions, out, STDERR_FILENO);
        posix_spawnattr_setsigmask(&attributes, &none);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
        error = posix_spawn(ret, "/proc/self/exe", &actions, &attributes,
                            (char *const *)(uintptr_t)argv, environ);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    return -error;
}

/* Reads to the end of the pipe, at most size-1 bytes and for WAIT_MS; the rest is not wanted. */
static void read_line(int fd, char *line, size_t size)
{
    uint64_t end = sp_clock_monotonic_ms(&sp_clock_system) + WAIT_MS;
    size_t have = 0;
    for (;;) {
        uint64_t now = sp_clock_monotonic_ms(&sp_clock_system);
        struct pollfd polled = {.fd = fd, .events = POLLIN};
        if (now >= end || have == size - 1 || poll(&polled, 1, (int)(end - now)) <= 0)
            break;
        ssize_t got = read(fd, line + have, size - 1 - have);
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    line[have] = 0;
    line[strcspn(line, "\n")] = 0;
}

int metadata_vm_id(const struct agent_config *config, const char *cloud, char ret[37],
                   struct sp_why *why)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    SP_FD int in = ends[0];
    pid_t pid = -1;
    int r = spawn(cloud, config->metadata_url, ends[1], &pid);
    close(ends[1]);
    if (r < 0)
        return sp_why_set(why, r, "cannot start the process that asks for instance metadata");
    char line[256];
    int status = -1;
    read_line(in, line, sizeof(line));
    kill(pid, SIGKILL); /* it has answered, or had time enough */
    waitpid(pid, &status, 0);
    if (take_uuid(line, ret))
        return 0;
    return sp_why_set(why, line[0] ? -EPROTO : -ETIMEDOUT, "no id from the %s metadata at %s: %s",
                      cloud, config->metadata_url, line[0] ? line : "no answer in time");
}
