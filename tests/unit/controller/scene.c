/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "scene.h"

struct scene *here;

static void on_job(void *self, const Sp__Job *job)
{
    struct scene *s = self;
    if (!job->ended)
        return;
    pthread_mutex_lock(&s->lock);
    message_free(s->last);
    s->last = message_copy(job);
    pthread_cond_broadcast(&s->ended);
    pthread_mutex_unlock(&s->lock);
}

static const struct engine_events events = {on_job, NULL};

void start_engine(struct scene *s)
{
    struct engine_options o = {.catalog = s->catalog,
                               .keeper = &fake_keeper_calls,
                               .agents = &fake_agent_calls,
                               .events = &events,
                               .events_self = s,
                               .source_for = fake_source_for,
                               .parallel = 1,
                               .agent_wait_ms = 1,
                               .keeper_wait_ms = s->keeper_wait_ms ? s->keeper_wait_ms : 1,
                               .reproof_after_ms = s->reproof_after_ms,
                               .reproofs_per_hour = 3600 * 1000,
                               .unreachable_most_ms = s->unreachable_most_ms};
    assert_int_equal(engine_new(&o, &s->engine), 0);
}

void open_catalog(struct scene *s)
{
    assert_int_equal(catalog_open(s->path, &s->catalog, NULL), 0);
}

int set_up(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    fakes_reset();
    s->folder = make_folder();
    s->path = sp_format("%s/catalog.db", s->folder);
    s->vault_path = sp_format("%s/vault", s->folder);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->ended, NULL);
    open_catalog(s);
    start_engine(s);

    Sp__DirectoryVault directory = SP__DIRECTORY_VAULT__INIT;
    Sp__VaultConfig config = SP__VAULT_CONFIG__INIT;
    Sp__Vault *vault = NULL;
    struct sp_why why = {0};
    directory.path = s->vault_path;
    config.kind_case = SP__VAULT_CONFIG__KIND_DIRECTORY;
    config.directory = &directory;
    if (engine_add_vault(s->engine, "main", &config, &vault, &why) < 0)
        fail_msg("%s", why.text);
    message_free(vault);

    Sp__Machine m = SP__MACHINE__INIT;
    Sp__QemuSource qemu = SP__QEMU_SOURCE__INIT;
    Sp__SourceConfig source = SP__SOURCE_CONFIG__INIT;
    source.kind_case = SP__SOURCE_CONFIG__KIND_QEMU;
    source.qemu = &qemu;
    m.machine_id = (char *)(uintptr_t) "aaaaaaaa-1111-4111-8111-111111111111";
    m.name = (char *)(uintptr_t) "web1";
    m.source = &source;
    assert_int_equal(catalog_machine_add(s->catalog, &m), 0);
    for (unsigned d = 0; d < 2; d++) {
        for (unsigned i = 0; i < 200000; i++)
            fake_source.bytes[d][i] = (uint8_t)(i * 7 + d);
    }
    here = s;
    *state = s;
    return 0;
}

int tear_down(void **state)
{
    struct scene *s = *state;
    engine_free(s->engine);
    catalog_close(s->catalog);
    message_free(s->last);
    pthread_cond_destroy(&s->ended);
    pthread_mutex_destroy(&s->lock);
    remove_folder(s->folder);
    free(s->path);
    free(s->vault_path);
    free(s);
    fakes_reset();
    return 0;
}

Sp__Job *wait_end(struct scene *s)
{
    pthread_mutex_lock(&s->lock);
    while (!s->last)
        pthread_cond_wait(&s->ended, &s->lock);
    Sp__Job *job = s->last;
    s->last = NULL;
    pthread_mutex_unlock(&s->lock);
    return job;
}

Sp__Job *back_up(struct scene *s)
{
    Sp__Job *job = NULL;
    struct sp_why why = {0};
    if (engine_start_backup(s->engine, "web1", true, &job, &why) < 0)
        fail_msg("%s", why.text);
    message_free(job);
    return wait_end(s);
}

Sp__Job *verify(struct scene *s, const char *point)
{
    Sp__Job *job = NULL;
    struct sp_why why = {0};
    if (engine_start_verify(s->engine, point, &job, &why) < 0)
        fail_msg("%s", why.text);
    message_free(job);
    return wait_end(s);
}

bool has(const Sp__Job *job, Sp__Reason reason)
{
    return finding_has((const Sp__Finding *const *)job->findings, job->n_findings, reason, NULL);
}

void nothing_left(void)
{
    assert_int_equal(fake_source.open, 0);
    assert_int_equal(fake_source.held, 0);
    assert_false(fake_agent.frozen);
}

struct catalog_point *point_of(struct scene *s, const Sp__Job *job)
{
    struct catalog_point *cp = NULL;
    assert_int_equal(catalog_point_get(s->catalog, job->point_id, &cp), 0);
    return cp;
}

void a_luks_volume(void)
{
    fake_keeper.volume = a_volume(SP__VOLUME_KIND__VOLUME_KIND_LUKS2, "luks:a", "disk0", 0, 65536);
    with_header(fake_keeper.volume, "a", 1);
}

int check_progress(void *arg, const Sp__CheckProgress *p)
{
    *(unsigned *)arg += (unsigned)p->n_problems;
    for (size_t i = 0; i < p->n_problems; i++)
        print_message("problem: %s\n", p->problems[i]->what);
    return 0;
}
