/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "world.h"

#include "base/file.h"
#include "controller/keeper/copy.h"
#include "controller/keeper/prover/nursery.h"
#include "controller/keeper/server.h"
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

/* ---- time ---- */

/* 2026-01-15 12:00 UTC: whatever day the test runs on, each month gets one point. */
static const time_t first_day = 1768478400;
static _Atomic int64_t passed_s;

int __real_clock_gettime(clockid_t, struct timespec *);
int __wrap_clock_gettime(clockid_t, struct timespec *);

int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
    static _Atomic int64_t wall_offset_s;
    int r = __real_clock_gettime(clock, t);
    if (r < 0)
        return r;
    t->tv_sec += atomic_load(&passed_s);
    if (clock == CLOCK_REALTIME) {
        int64_t none = 0;
        atomic_compare_exchange_strong(&wall_offset_s, &none, first_day - t->tv_sec);
        t->tv_sec += atomic_load(&wall_offset_s);
    }
    return 0;
}

void world_pass_seconds(unsigned seconds)
{
    atomic_fetch_add(&passed_s, seconds);
}

/* A certificate lasts 30 days. */
static void renew_admin(struct rig *r)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__RenewForRequest renew = SP__RENEW_FOR_REQUEST__INIT;
    Sp__RenewRequest inner = SP__RENEW_REQUEST__INIT;
    renew.spiffe_id = (char[]){"spiffe://" DOMAIN "/user/root"};
    renew.certificate.len = (size_t)i2d_X509(r->admin.certificate, &renew.certificate.data);
    inner.csr = csr_of(r->admin.key);
    renew.request = &inner;
    request.kind_case = SP__KEEPER_REQUEST__KIND_RENEW;
    request.renew = &renew;
    ANSWER a = rig_call(r, &request);
    X509_free(r->admin.certificate);
    r->admin.certificate = first_certificate(a->renew->certificate_chain);
    OPENSSL_free(renew.certificate.data);
    free(inner.csr.data);
}

void world_live(struct world *w, unsigned days)
{
    while (days > 0) {
        unsigned step = days < 20 ? days : 20;
        world_pass_seconds(step * 24 * 3600);
        renew_admin(w->rig);
        days -= step;
    }
}

/* ---- the keeper ---- */

static void *serve(void *arg)
{
    struct world *w = arg;
    const struct server_options o = {w->listener, w->stop, geteuid()};
    assert_int_equal(server_run(w->rig->k, &o), 0);
    return NULL;
}

static void start_server(struct world *w)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%.100s", w->socket);
    unlink(w->socket);
    w->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    w->stop = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(bind(w->listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(w->listener, 16), 0);
    assert_int_equal(pthread_create(&w->server, NULL, serve, w), 0);
}

static void stop_server(struct world *w)
{
    assert_int_equal(eventfd_write(w->stop, 1), 0);
    pthread_join(w->server, NULL);
    close(w->listener);
    close(w->stop);
}

void world_restart_keeper(struct world *w)
{
    stop_server(w);
    rig_reopen(w->rig);
    assert_false(w->rig->k->locked);
    assert_string_equal(w->rig->k->damage.text, "");
    start_server(w);
}

static struct escrow *add_provider(struct world *w, const char *name, int volume, bool mirror,
                                   unsigned most)
{
    struct provider *p = NULL;
    assert_int_equal(providers_add(w->providers, &escrow_type, name, &p), 0);
    p->mirror = mirror;
    struct escrow *e = p->settings;
    e->volume = volume;
    e->most = most;
    guest_volumes[volume].escrow = e;
    return e;
}

static void start_keeper(struct world *w)
{
    static char prover[400];
    const char *build = getenv("SEALPOINT_RELEASE"); /* its provers cost a tenth */
    struct sp_why why = {""};
    build = build ? build : getenv("SEALPOINT_BUILD");
    snprintf(prover, sizeof(prover), "%s/controller/keeper/prover/sealpoint-prover",
             build ? build : ".");
    assert_int_equal(prover_nursery_open(prover, &w->nursery), 0);
    assert_int_equal(providers_new(&w->providers), 0);
    add_provider(w, "pruning", DATA, true, PRUNED_TO);
    add_provider(w, "strict", DB, false, 0);
    w->rig = rig_new();
    w->rig->options.clock = NULL;
    w->rig->options.run = prover_run;
    w->rig->options.prover = prover;
    w->rig->options.nursery = w->nursery;
    w->rig->options.providers = w->providers;
    if (rig_open(w->rig, &why) < 0)
        fail_msg("%s", why.text);
    snprintf(w->socket, sizeof(w->socket), "%s/keeper.sock", w->rig->folder);
    start_server(w);
    assert_int_equal(keeper_client_new(w->socket, &w->rig->client), 0);
    answer_free(rig_init(w->rig));
    rig_read_keys(w->rig);
}

Sp__ListKeysResponse *world_records(struct world *w)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ListKeysRequest ask = SP__LIST_KEYS_REQUEST__INIT;
    ask.all_generations = true;
    request.kind_case = SP__KEEPER_REQUEST__KIND_LIST_KEYS;
    request.list_keys = &ask;
    ANSWER a = rig_call(w->rig, &request);
    return (Sp__ListKeysResponse *)sp_message_copy(&a->list_keys->base);
}

/* ---- KEKs ---- */

static void kek_id_of(struct rig *r, const char *kind, char out[37])
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ListKeksRequest ask = SP__LIST_KEKS_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_LIST_KEKS;
    request.list_keks = &ask;
    ANSWER a = rig_call(r, &request);
    out[0] = 0;
    for (size_t i = 0; i < a->list_keks->n_keks; i++)
        if (strcmp(a->list_keks->keks[i]->kind, kind) == 0)
            snprintf(out, 37, "%s", a->list_keks->keks[i]->kek_id);
    assert_true(out[0] != 0);
}

void world_change_kek(struct world *w)
{
    static char paths[2][100];
    static unsigned turn;
    struct rig *r = w->rig;
    const char **options[] = {&r->options.keks.passphrase_file, &r->options.keks.key_file};
    const char *const kinds[] = {KEK_SCRYPT, KEK_KEY_FILE};
    const unsigned old = *options[0] ? 0 : 1, next = !old;
    Sp__AddKekRequest add = SP__ADD_KEK_REQUEST__INIT;
    Sp__RemoveKekRequest remove = SP__REMOVE_KEK_REQUEST__INIT;
    char old_id[37];
    uint8_t bytes[64];

    turn++;
    memset(bytes, 'a' + (int)turn % 26, sizeof(bytes));
    snprintf(paths[next], sizeof(paths[next]), "%s/kek-%u", r->folder, turn);
    assert_int_equal(sp_file_replace(paths[next], bytes, sizeof(bytes), 0600), 0);
    *options[next] = paths[next];
    world_restart_keeper(w);
    add.kind = (char *)(uintptr_t)kinds[next];
    answer_free(execute(r, &r->admin, "/sealpoint.v1.Keys/AddKek", &add.base));
    kek_id_of(r, kinds[old], old_id);
    *options[old] = NULL;
    world_restart_keeper(w);
    remove.kek_id = old_id;
    answer_free(execute(r, &r->admin, "/sealpoint.v1.Keys/RemoveKek", &remove.base));
    world_restart_keeper(w);
}

/* ---- another machine ---- */

static Sp__KeystoreExport *export_keystore(struct rig *r)
{
    Sp__ExportKeystoreRequest ask = SP__EXPORT_KEYSTORE_REQUEST__INIT;
    ANSWER a = execute(r, &r->admin, "/sealpoint.v1.Keys/ExportKeystore", &ask.base);
    Sp__KeystoreExport *out =
        sp__keystore_export__unpack(NULL, a->execute->result.len, a->execute->result.data);
    assert_non_null(out);
    return out;
}

static void reconcile(struct world *w)
{
    Sp__ReconcileRequest ask = SP__RECONCILE_REQUEST__INIT;
    Sp__ReconcileResponse shown = SP__RECONCILE_RESPONSE__INIT;
    struct sp_why why = {""};
    if (engine_show_manifests(w->engine, &shown, &why) < 0)
        fail_msg("%s", why.text);
    assert_int_equal(shown.n_unread, 0);
    ANSWER a = execute(w->rig, &w->rig->admin, "/sealpoint.v1.Keys/Reconcile", &ask.base);
    Sp__ReconcileResponse *done =
        sp__reconcile_response__unpack(NULL, a->execute->result.len, a->execute->result.data);
    assert_true(done->was_needed);
    assert_int_equal(done->n_missing_records, 0);
    sp__reconcile_response__free_unpacked(done, NULL);
}

void world_move_keystore(struct world *w)
{
    struct rig *r = w->rig;
    static char passphrase[100];
    struct sp_why why = {""};
    Sp__ListKeysResponse *before = world_records(w);
    Sp__KeystoreExport *file = export_keystore(r);
    stop_server(w);
    rig_close(r);

    snprintf(r->state, sizeof(r->state), "%s/moved", r->folder);
    snprintf(passphrase, sizeof(passphrase), "%s/passphrase-there", r->folder);
    assert_int_equal(sp_file_replace(passphrase, "of another machine", 18, 0600), 0);
    r->options.keks.passphrase_file = passphrase;
    r->options.keks.key_file = NULL;
    const struct sp_bytes bytes = {file->file.data, file->file.len};
    if (copy_restore(&r->options, r->kit, bytes, &why) < 0 || rig_open(r, &why) < 0)
        fail_msg("%s", why.text);
    start_server(w);
    reconcile(w);

    /* Every generation, and every pin. */
    Sp__ListKeysResponse *after = world_records(w);
    assert_int_equal(after->n_records, before->n_records);
    for (size_t i = 0; i < before->n_records; i++) {
        assert_string_equal(after->records[i]->record_id, before->records[i]->record_id);
        assert_int_equal(after->records[i]->generation, before->records[i]->generation);
        assert_int_equal(after->records[i]->pins, before->records[i]->pins);
    }
    sp__list_keys_response__free_unpacked(before, NULL);
    sp__list_keys_response__free_unpacked(after, NULL);
    sp__keystore_export__free_unpacked(file, NULL);
}

/* ---- the controller ---- */

static int call(void *self, Sp__KeeperRequest *request, int timeout_ms, Sp__KeeperResponse **ret,
                struct sp_why *why)
{
    struct world *w = self;
    return keeper_call(w->rig->client, request, -1, timeout_ms, ret, why);
}

static int call_reading(void *self, Sp__KeeperRequest *request,
                        int (*read_disk)(void *, uint32_t, uint64_t, void *, uint32_t),
                        void *read_self, int timeout_ms, Sp__KeeperResponse **ret,
                        struct sp_why *why)
{
    struct world *w = self;
    return keeper_call_reading(w->rig->client, request, read_disk, read_self, timeout_ms, ret, why);
}

static enum engine_agent_state no_agent(void *self, const char *machine_id, unsigned timeout_ms,
                                        const atomic_bool *cancel)
{
    (void)self, (void)machine_id, (void)timeout_ms, (void)cancel;
    return ENGINE_AGENT_ABSENT;
}

static void on_job(void *self, const Sp__Job *job)
{
    struct world *w = self;
    if (!job->ended)
        return;
    pthread_mutex_lock(&w->lock);
    message_free(w->last);
    w->last = message_copy(job);
    pthread_cond_broadcast(&w->ended);
    pthread_mutex_unlock(&w->lock);
}

static void on_point(void *self, const char *machine_id, const char *point_id, Sp__PointState state)
{
    struct world *w = self;
    (void)machine_id;
    pthread_mutex_lock(&w->lock);
    assert_true(w->event_count < EVENTS_MOST);
    snprintf(w->events[w->event_count].point_id, 37, "%s", point_id);
    w->events[w->event_count++].state = state;
    pthread_mutex_unlock(&w->lock);
}

static void add_vault(struct world *w)
{
    Sp__DirectoryVault directory = SP__DIRECTORY_VAULT__INIT;
    Sp__VaultConfig config = SP__VAULT_CONFIG__INIT;
    Sp__Vault *vault = NULL;
    struct sp_why why = {""};
    directory.path = sp_format("%s/vault", w->folder);
    config.kind_case = SP__VAULT_CONFIG__KIND_DIRECTORY;
    config.directory = &directory;
    if (engine_add_vault(w->engine, "main", &config, &vault, &why) < 0)
        fail_msg("%s", why.text);
    message_free(vault);
    free(directory.path);
}

/* The key of db1 may not be copied: an admin lives with that. */
static void add_machine(struct world *w, const struct guest_volume *v, unsigned months)
{
    Sp__Machine m = SP__MACHINE__INIT;
    Sp__QemuSource qemu = SP__QEMU_SOURCE__INIT;
    Sp__SourceConfig source = SP__SOURCE_CONFIG__INIT;
    Sp__Policy policy = SP__POLICY__INIT;
    Sp__Retention retention = SP__RETENTION__INIT;
    Sp__Exception mercy = SP__EXCEPTION__INIT, *exceptions[] = {&mercy};
    source.kind_case = SP__SOURCE_CONFIG__KIND_QEMU;
    source.qemu = &qemu;
    qemu.qmp_socket = (char *)(uintptr_t)v->machine;
    mercy.reason = REASON(ESCROW_NOT_PINNABLE);
    mercy.volume_id = (char *)(uintptr_t)v->volume_id;
    mercy.allowed_by = (char[]){"root"};
    mercy.why = (char[]){"no copies of this key"};
    retention.keep_monthly = months;
    policy.retention = &retention;
    policy.exceptions = exceptions;
    policy.n_exceptions = v == &guest_volumes[DB];
    m.machine_id = (char *)(uintptr_t)v->machine_id;
    m.name = (char *)(uintptr_t)v->machine;
    m.source = &source;
    m.policy = &policy;
    assert_int_equal(catalog_machine_add(w->catalog, &m), 0);
}

static void start_controller(struct world *w, unsigned months)
{
    static const struct engine_keeper keeper = {call, call_reading};
    static const struct engine_agents agents = {.wait = no_agent};
    static const struct engine_events events = {on_job, on_point};
    SP_FREE char *catalog = sp_format("%s/catalog.db", w->folder);
    SP_FREE char *trust = sp_format("%s/trust.pem", w->folder);
    assert_int_equal(sp_file_replace(trust, w->rig->bundle, strlen(w->rig->bundle), 0600), 0);
    assert_int_equal(catalog_open(catalog, &w->catalog, NULL), 0);
    const struct engine_options o = {.catalog = w->catalog,
                                     .keeper = &keeper,
                                     .keeper_self = w,
                                     .agents = &agents,
                                     .events = &events,
                                     .events_self = w,
                                     .source_for = guests_source,
                                     .trust_path = trust,
                                     .parallel = 1,
                                     .agent_wait_ms = 1,
                                     .reproof_after_ms = REPROOF_AFTER_DAYS * 24ull * 3600 * 1000,
                                     .reproofs_per_hour = REPROOFS_PER_HOUR,
                                     .unreachable_most_ms = 3ull * 24 * 3600 * 1000};
    assert_int_equal(engine_new(&o, &w->engine), 0);
    add_vault(w);
    add_machine(w, &guest_volumes[SYSTEM], months);
    add_machine(w, &guest_volumes[DB], months);
}

struct world *world_new(unsigned months)
{
    struct world *w = calloc(1, sizeof(*w));
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->ended, NULL);
    w->folder = make_folder();
    guests_make(w->folder);
    start_keeper(w);
    start_controller(w, months);
    return w;
}

void world_free(struct world *w)
{
    void *rig = w->rig;
    engine_free(w->engine);
    catalog_close(w->catalog);
    stop_server(w);
    rig_teardown(&rig);
    for (int i = 0; i < VOLUMES; i++)
        if (guest_volumes[i].escrow)
            escrow_free(guest_volumes[i].escrow);
    providers_free(w->providers);
    prover_nursery_close(w->nursery);
    guests_free();
    message_free(w->last);
    remove_folder(w->folder);
    pthread_cond_destroy(&w->ended);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static Sp__Job *wait_end(struct world *w)
{
    pthread_mutex_lock(&w->lock);
    while (!w->last)
        pthread_cond_wait(&w->ended, &w->lock);
    Sp__Job *job = w->last;
    w->last = NULL;
    pthread_mutex_unlock(&w->lock);
    return job;
}

Sp__Job *world_back_up(struct world *w, const char *machine)
{
    Sp__Job *job = NULL;
    struct sp_why why = {""};
    if (engine_start_backup(w->engine, machine, true, &job, &why) < 0)
        fail_msg("%s", why.text);
    message_free(job);
    return wait_end(w);
}

Sp__Job *world_reproof(struct world *w)
{
    pthread_mutex_lock(&w->lock);
    bool earlier = w->last != NULL;
    pthread_mutex_unlock(&w->lock);
    assert_false(earlier);
    engine_reproof(w->engine);
    pthread_mutex_lock(&w->lock);
    bool over = w->last != NULL;
    pthread_mutex_unlock(&w->lock);
    return over || engine_running(w->engine) > 0 ? wait_end(w) : NULL;
}

uint64_t world_collect(struct world *w)
{
    Sp__CollectProgress *done = NULL;
    struct sp_why why = {""};
    if (engine_collect(w->engine, "main", false, &done, &why) < 0)
        fail_msg("%s", why.text);
    uint64_t removed = done->points_removed;
    message_free(done);
    return removed;
}
