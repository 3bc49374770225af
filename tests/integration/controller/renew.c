/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * init and renewal against a real keeper: same name, same key, same hosts, a new certificate. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/frame.h"
#include "base/identity.h"
#include "controller/init.h"
#include "controller/renew.h"
#include <fcntl.h>
#include <ftw.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

struct scene {
    char *folder, *socket, *state, *profile;
    pid_t keeper;
    struct controller_config config;
};

static char *in(const struct scene *s, const char *name)
{
    char *path = sp_format("%s/%s", s->folder, name);
    assert_non_null(path);
    return path;
}

static pid_t start_keeper(const struct scene *s)
{
    char *state SP_FREE = sp_format("keeper.state=%s/ks", s->folder);
    char *socket SP_FREE = sp_format("keeper.socket=%s", s->socket);
    char *user SP_FREE = sp_format("keeper.controller_user=%u", (unsigned)getuid());
    char *kek SP_FREE = sp_format("kek.passphrase_file=%s/kek", s->folder);
    char *config SP_FREE = in(s, "keeper.conf");
    assert_int_equal(sp_file_replace(config, "", 0, 0600), 0);
    pid_t child = fork();
    if (child == 0) {
        execl(KEEPER, KEEPER, "--config", config, "-o", state, "-o", socket, "-o", user, "-o", kek,
              "-o", "keeper.prover=" PROVER, (char *)NULL);
        _exit(127);
    }
    return child;
}

static int set_up(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    struct sp_why why = {0};
    s->folder = strdup("/tmp/spXXXXXX");
    assert_non_null(mkdtemp(s->folder));
    s->socket = in(s, "k.sock");
    s->state = in(s, "cs");
    s->profile = in(s, "profile");
    char *kek SP_FREE = in(s, "kek");
    assert_int_equal(sp_file_replace(kek, "passphrase\n", 11, 0600), 0);
    s->keeper = start_keeper(s);
    assert_true(s->keeper > 0);
    int fd;
    while ((fd = sp_unix_connect(s->socket)) < 0) {
        assert_int_equal(waitpid(s->keeper, NULL, WNOHANG), 0); /* it has not given up */
        nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
    }
    close(fd);
    char *set_state = sp_format("controller.state=%s", s->state);
    char *set_socket = sp_format("controller.keeper_socket=%s", s->socket);
    char *assignments[] = {set_state, set_socket};
    char *empty SP_FREE = in(s, "controller.conf");
    assert_int_equal(sp_file_replace(empty, "", 0, 0600), 0);
    if (controller_config_load(empty, assignments, 2, &s->config, &why) < 0)
        fail_msg("%s", why.text);
    free(set_state);
    free(set_socket);
    *state = s;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static int tear_down(void **state)
{
    struct scene *s = *state;
    kill(s->keeper, SIGTERM);
    waitpid(s->keeper, NULL, 0);
    nftw(s->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    controller_config_free(&s->config);
    free(s->folder);
    free(s->socket);
    free(s->state);
    free(s->profile);
    free(s);
    return 0;
}

static X509 *certificate(const struct scene *s)
{
    char *path SP_FREE = sp_format("%s/controller.pem", s->state);
    char *pem SP_FREE = NULL;
    size_t size = 0;
    X509 *c = NULL;
    assert_int_equal(sp_file_read(path, 1 << 20, &pem, &size), 0);
    assert_int_equal(sp_certificate_from_pem(pem, size, &c), 0);
    return c;
}

static void init_then_renew(void **state)
{
    struct scene *s = *state;
    struct sp_why why = {0};
    char *hosts[] = {(char *)(uintptr_t) "backup.example", (char *)(uintptr_t) "192.0.2.7"};
    struct init_options o = {.domain = "d.test",
                             .name = "main",
                             .user = "anna",
                             .profile = s->profile,
                             .hosts = hosts,
                             .host_count = 2};
    if (init_run(&s->config, &o, &why) < 0)
        fail_msg("%s", why.text);
    /* Once only. */
    assert_int_equal(init_run(&s->config, &o, &why), -EEXIST);

    struct keeper_client *keeper = NULL;
    uint64_t now = sp_clock_system.wall_ms(sp_clock_system.self);
    bool renewed = true;
    X509 *first = certificate(s);
    assert_int_equal(keeper_client_new(s->socket, &keeper), 0);
    assert_int_equal(renew_if_due(s->state, keeper, now, &renewed, &why), 0);
    assert_false(renewed);
    if (renew_if_due(s->state, keeper, now + 25ull * 24 * 3600 * 1000, &renewed, &why) < 0)
        fail_msg("%s", why.text);
    assert_true(renewed);
    X509 *second = certificate(s);
    struct sp_identity id;
    assert_int_equal(sp_identity_of_certificate(second, &id), 0);
    assert_int_equal(id.kind, SP_IDENTITY_CONTROLLER);
    assert_string_equal(id.name, "main");
    assert_int_not_equal(X509_cmp(first, second), 0);
    assert_int_equal(EVP_PKEY_eq(X509_get0_pubkey(first), X509_get0_pubkey(second)), 1);
    assert_int_equal(X509_check_host(second, "backup.example", 0, 0, NULL), 1);
    assert_int_equal(X509_check_ip_asc(second, "192.0.2.7", 0), 1);
    assert_int_equal(X509_check_host(second, SP_CONTROLLER_DNS, 0, 0, NULL), 1);
    X509_free(first);
    X509_free(second);
    keeper_client_free(keeper);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(init_then_renew, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
