/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What an LDAP server answers to a search of ad.c, as bytes on the connection: the first one says
 * which search, the rest comes from the server. Both files are part of this program, since the
 * connection under them is a pair of sockets without TLS. */
#define open_link open_link_of_ad /* both have one */
#include "controller/keeper/providers/ad.c"
#undef open_link
#include "controller/keeper/providers/ldap_link.c"

#include <signal.h>

/* libldap 2.5 forgets its request, 4 KB, when the connection ends within an answer: nearly every
 * input would be searched for leaks, and a long run ends before it has used up its memory. The unit
 * tests look for ours. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MOST = 64 * 1024, PATIENCE_MS = 5000, RUNS_MOST = 1000 * 1000 };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    signal(SIGPIPE, SIG_IGN); /* as the keeper */
    return setenv("LDAPNOINIT", "1", 1);
}

/* All of the answer is there before it is asked for, and its end. */
static int answering(const uint8_t *data, size_t size, int *ret_peer)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        abort();
    if (send(pair[1], data, size, MSG_DONTWAIT) != (ssize_t)size)
        abort();
    shutdown(pair[1], SHUT_WR);
    *ret_peer = pair[1];
    return pair[0];
}

static struct ldap_link *link_to(int fd)
{
    struct ldap_link *l = calloc(1, sizeof(*l));
    if (!l || ldap_init_fd(fd, LDAP_PROTO_TCP, "ldap://fuzz", &l->ld) != LDAP_SUCCESS ||
        !set_bounds(l->ld))
        abort();
    pthread_mutex_init(&l->watch.lock, NULL);
    pthread_cond_init(&l->watch.stopped, NULL);
    l->watch.fd = fd;
    l->watch.deadline_ms = sp_clock_monotonic_ms(&sp_clock_system) + PATIENCE_MS;
    return l;
}

static void search(struct ldap_link *l, int which)
{
    PROVIDER_ITEMS struct provider_items items = {0};
    COMPUTERS struct computers computers = {0};
    SP_SECRET struct sp_secret *secret = NULL;
    const struct ad ad = {.base = (char *)(uintptr_t) "DC=lab,DC=example"};
    struct sp_why why = {""};
    switch (which) {
    case '0':
        if (find_computers(l, &ad, "web1.lab.example", &computers, &why) == 0 &&
            computers.count > COMPUTERS_MOST)
            abort();
        break;
    case '1':
        find_recovery(l, ad.base, "01234567-89ab-cdef-0123-456789abcdef", &items, &why);
        for (size_t i = 0; i < items.count; i++)
            if (strlen(items.items[i].version) != 36)
                abort();
        break;
    default:
        if (read_password(l, "CN=x", &secret, &why) == 0 && !is_recovery_password(secret))
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned runs;
    int peer;
    if (++runs > RUNS_MOST)
        exit(0);
    if (size == 0 || size > INPUT_MOST)
        return 0;
    struct ldap_link *l = link_to(answering(data + 1, size - 1, &peer));
    search(l, data[0]);
    ldap_link_close(l);
    close(peer);
    return 0;
}
