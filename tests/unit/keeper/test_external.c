/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Providers made up here: when they are asked, what stands when they disagree, what is kept of what
 * they gave. */
#include "point.h"

#include <string.h>

#define V(x) SP__PROOF_VERDICT__PROOF_VERDICT_##x
#define H(x) SP__RECORD_HOLDING__RECORD_HOLDING_##x

static void free_statement(Sp__ProofStatement **s)
{
    sp__proof_statement__free_unpacked(*s, NULL);
}
#define STATEMENT __attribute__((cleanup(free_statement))) Sp__ProofStatement *

/* ---- a provider that says what it is told to ---- */

struct made_up {
    int lookup, fetch, canary; /* errno */
    const char *secrets[3];    /* NULL: no more */
    const char *versions;      /* first letter of their versions; NULL: "v" */
    bool bare[3];
    const char *protector, *warning;
    provider_stage stage;
    struct rig *calls; /* asks the keeper while it is asked */
};
static unsigned lookups, fetches;
static char seen_name[64];

static bool serves(const struct provider *p, const Sp__Volume *v)
{
    (void)p, (void)v;
    return true;
}

static int answer(int error, struct sp_why *why)
{
    return error ? sp_why_set(why, error, "made-up answer %d", -error) : 0;
}

static int lookup(const struct provider *p, const struct provider_query *q,
                  struct provider_items *out, provider_stage *stage, struct sp_why *why)
{
    const struct made_up *m = p->settings;
    char locator[16], version[16];
    (void)stage;
    lookups++;
    snprintf(seen_name, sizeof(seen_name), "%s", q->machine_name);
    assert_string_equal(q->machine_id, MACHINE);
    if (m->calls) {
        Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
        Sp__KeeperStatusRequest ask = SP__KEEPER_STATUS_REQUEST__INIT;
        request.kind_case = SP__KEEPER_REQUEST__KIND_STATUS;
        request.status = &ask;
        ANSWER a = rig_call(m->calls, &request);
        assert_true(a->status->initialised);
    }
    for (int i = 0; !m->lookup && i < 3 && m->secrets[i]; i++) {
        snprintf(locator, sizeof(locator), "%d", i);
        snprintf(version, sizeof(version), "%.1s%d", m->versions ? m->versions : "v", i);
        assert_int_equal(provider_items_add(out, locator, version, m->protector ? m->protector : "",
                                            SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE),
                         0);
        out->items[out->count - 1].unwrapped = m->bare[i];
        if (m->warning)
            out->items[out->count - 1].warning = strdup(m->warning);
    }
    return answer(m->lookup, why);
}

static int fetch(const struct provider *p, const struct provider_item *item, struct sp_secret **ret,
                 provider_stage *stage, struct sp_why *why)
{
    const struct made_up *m = p->settings;
    const char *secret = m->secrets[item->locator[0] - '0'];
    (void)stage;
    fetches++;
    if (!m->fetch)
        *ret = sp_secret_copy(secret, strlen(secret));
    return answer(m->fetch, why);
}

static void describe(const struct provider *p, const struct provider_item *item, char *out,
                     size_t size)
{
    (void)p;
    snprintf(out, size, "object %s", item->locator);
}

static int canary(const struct provider *p, provider_stage *stage, struct sp_why *why)
{
    const struct made_up *m = p->settings;
    *stage = m->stage;
    return answer(m->canary, why);
}

static const struct provider_type type = {.name = "made-up",
                                          .settings_bytes = sizeof(struct made_up),
                                          .serves = serves,
                                          .lookup = lookup,
                                          .fetch = fetch,
                                          .describe = describe,
                                          .canary = canary};

static struct providers *all;

static struct made_up *add(struct rig *r, const char *name, bool mirror)
{
    struct provider *p = NULL;
    assert_int_equal(providers_add(all, &type, name, &p), 0);
    p->mirror = mirror;
    r->k->options.providers = r->options.providers = all; /* no reopening: that costs a scrypt */
    return p->settings;
}

static int setup(void **state)
{
    lookups = fetches = 0;
    assert_int_equal(providers_new(&all), 0);
    return rig_setup(state);
}

static int setup_configuration(void **state)
{
    (void)state;
    return providers_new(&all);
}

static int teardown_configuration(void **state)
{
    (void)state;
    providers_free(all);
    return 0;
}

static int teardown(void **state)
{
    int r = rig_teardown(state);
    providers_free(all);
    return r;
}

static Sp__ListKeysResponse *list(struct rig *r)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ListKeysRequest ask = SP__LIST_KEYS_REQUEST__INIT;
    ask.all_generations = true;
    request.kind_case = SP__KEEPER_REQUEST__KIND_LIST_KEYS;
    request.list_keys = &ask;
    ANSWER a = rig_call(r, &request);
    return (Sp__ListKeysResponse *)sp_message_copy(&a->list_keys->base);
}
static void free_list(Sp__ListKeysResponse **l)
{
    sp__list_keys_response__free_unpacked(*l, NULL);
}
#define LIST __attribute__((cleanup(free_list))) Sp__ListKeysResponse *

static void check_keystore(struct rig *r)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__CheckKeystoreRequest ask = SP__CHECK_KEYSTORE_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_CHECK;
    request.check = &ask;
    ANSWER a = rig_call(r, &request);
    for (size_t i = 0; i < a->check->n_problems; i++)
        fail_msg("%s", a->check->problems[i]);
}

static const struct proof_options plainly = {.root = 1};
static const struct proof_options carry = {.root = 1, .carry = true};

/* ---- what is kept ---- */

static void test_nobody_is_asked_when_the_keystore_opens(void **state)
{
    struct rig *r = *state;
    add(r, "corp", true);
    fake.opens = "right";
    import_key(r, MACHINE, VOLUME, "", "right", NULL);
    STATEMENT s = prove(r, plainly, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    assert_int_equal(lookups, 0);
}

static void test_what_opened_is_mirrored_and_pinned(void **state)
{
    struct rig *r = *state;
    struct made_up *corp = add(r, "corp", true);
    corp->secrets[0] = fake.opens = "right";
    corp->protector = "p1";
    fake.volume_key = "the volume key";
    STATEMENT s = prove(r, carry, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    assert_string_equal(s->record->provider, "corp");
    assert_string_equal(s->record->version, "v0");
    assert_string_equal(s->record->protector_id, "p1");
    assert_string_equal(s->record->note, "object 0");
    assert_int_equal(s->record->generation, 1);
    assert_int_equal(s->record->holding, H(MIRRORED));
    assert_int_equal(s->record->pins, 1);
    assert_int_equal(s->n_attempts, 1);
    assert_string_equal(s->attempts[0]->provider, "corp");
    assert_string_equal(s->attempts[0]->record_id, s->record->record_id);
    assert_true(audit_has(r, "key.mirror", s->record->record_id));
    assert_false(folder_has(r, "right", 5));
    check_keystore(r);

    /* The provider loses it: the copy stays, and carry-over works with it. */
    corp->lookup = -ENOENT;
    rig_reopen(r);
    STATEMENT again = prove(r, carry, NULL);
    assert_int_equal(again->verdict, V(OPENS));
    assert_int_equal(fake.carried_jobs, 1);
    STATEMENT anew = prove(r, (struct proof_options){.root = 1, .reproof = true}, NULL);
    assert_int_equal(anew->verdict, V(OPENS));
    assert_string_equal(anew->record->record_id, s->record->record_id);
    assert_int_equal(lookups, 1);
    LIST l = list(r);
    assert_int_equal(l->n_records, 1);
}

static void test_next_value_is_the_next_generation(void **state)
{
    struct rig *r = *state;
    struct made_up *corp = add(r, "corp", true);
    corp->secrets[0] = fake.opens = "first";
    STATEMENT s = prove(r, plainly, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    corp->secrets[0] = fake.opens = "second";
    STATEMENT t = prove(r, plainly, NULL);
    assert_int_equal(t->verdict, V(OPENS));
    assert_int_equal(t->record->generation, 2);
    LIST l = list(r);
    assert_int_equal(l->n_records, 2);
    assert_int_equal(l->records[0]->state, SP__RECORD_STATE__RECORD_STATE_SUPERSEDED);
    check_keystore(r);
}

static void test_without_mirror_only_a_reference_is_kept(void **state)
{
    struct rig *r = *state;
    struct made_up *corp = add(r, "corp", false);
    corp->secrets[0] = fake.opens = "right";
    fake.volume_key = "the volume key";
    STATEMENT s = prove(r, carry, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    assert_int_equal(s->record->holding, H(AT_PROVIDER));
    /* It is fetched every time, and one record stands for it. */
    STATEMENT again = prove(r, carry, NULL);
    assert_int_equal(again->verdict, V(OPENS));
    assert_string_equal(again->record->record_id, s->record->record_id);
    assert_int_equal(fetches, 2);
    assert_int_equal(fake.carried_jobs, 0);
    check_keystore(r);
    /* What the provider no longer has is gone. */
    corp->lookup = -ENOENT;
    STATEMENT gone = prove(r, carry, NULL);
    assert_int_equal(gone->verdict, V(NO_RECORD));
    check_keystore(r);
}

static void test_reference_becomes_a_copy_when_mirroring_begins(void **state)
{
    struct rig *r = *state;
    struct provider *p = NULL;
    add(r, "corp", false)->secrets[0] = fake.opens = "right";
    STATEMENT s = prove(r, plainly, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    p = (struct provider *)(uintptr_t)providers_find(all, "corp");
    p->mirror = true;
    STATEMENT t = prove(r, plainly, NULL);
    assert_int_equal(t->record->holding, H(MIRRORED));
    assert_int_equal(t->record->generation, 2);
}

static void test_reference_to_a_provider_that_is_no_longer_configured(void **state)
{
    struct rig *r = *state;
    add(r, "corp", false)->secrets[0] = fake.opens = "right";
    STATEMENT s = prove(r, plainly, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    r->k->options.providers = r->options.providers = NULL;
    STATEMENT t = prove(r, plainly, NULL);
    assert_int_equal(t->verdict, V(UNREACHABLE));
    assert_non_null(strstr(t->explanation, "corp"));
}

static void test_a_reference_is_to_one_version(void **state)
{
    struct rig *r = *state;
    struct made_up *corp = add(r, "corp", false);
    corp->secrets[0] = fake.opens = "right";
    STATEMENT s = prove(r, plainly, NULL);
    corp->versions = "w"; /* the same secret, written anew */
    STATEMENT t = prove(r, plainly, NULL);
    assert_int_equal(t->verdict, V(OPENS));
    assert_string_equal(t->record->version, "w0");
    assert_int_equal(t->record->generation, 2);
    corp->versions = "v"; /* the older point finds its own again */
    STATEMENT u = prove(r, plainly, NULL);
    assert_string_equal(u->record->record_id, s->record->record_id);
    check_keystore(r);
}

/* ---- bare at its provider ---- */

static void test_a_bare_key_stays_known_as_one(void **state)
{
    struct rig *r = *state;
    struct made_up *corp = add(r, "corp", true);
    corp->secrets[0] = fake.opens = "right";
    corp->bare[0] = true;
    STATEMENT s = prove(r, plainly, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    assert_true(s->record->unwrapped);
    check_keystore(r);
    /* The copy says so too, also when its provider is gone or down. */
    corp->lookup = -ETIMEDOUT;
    STATEMENT copy = prove(r, plainly, NULL);
    assert_int_equal(copy->verdict, V(OPENS));
    assert_true(copy->record->unwrapped);
    assert_string_equal(copy->record->record_id, s->record->record_id);
    assert_int_equal(copy->n_attempts, 1);
    /* Forgetting it in the keystore does not help. */
    rig_close(r);
    sql(r, "DELETE FROM unwrapped");
    struct sp_why why = {""};
    int opened = rig_open(r, &why);
    assert_true(opened < 0 || r->k->damage.text[0]);
}

static void test_a_bare_key_that_was_wrapped_since(void **state)
{
    struct rig *r = *state;
    struct made_up *corp = add(r, "corp", true);
    corp->secrets[0] = fake.opens = "right";
    corp->bare[0] = true;
    fake.volume_key = "the volume key";
    STATEMENT s = prove(r, carry, NULL);
    assert_true(s->record->unwrapped);
    corp->secrets[1] = "another";
    STATEMENT still = prove(r, carry, NULL);
    assert_true(still->record->unwrapped);
    assert_int_equal(fake.carried_jobs, 1);
    corp->secrets[2] = "right";
    STATEMENT t = prove(r, carry, NULL);
    assert_int_equal(t->verdict, V(OPENS));
    assert_false(t->record->unwrapped);
    assert_string_equal(t->record->version, "v2");
    assert_int_equal(t->record->generation, 2);
    assert_int_equal(t->record->holding, H(MIRRORED));
    /* From then on nobody is asked any more. */
    unsigned asked = lookups;
    STATEMENT u = prove(r, carry, NULL);
    assert_string_equal(u->record->record_id, t->record->record_id);
    assert_int_equal(lookups, asked);
    check_keystore(r);
}

/* Warnings of the status that say this. */
static size_t warned_of(struct rig *r, const char *text)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperStatusRequest ask = SP__KEEPER_STATUS_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_STATUS;
    request.status = &ask;
    ANSWER a = rig_call(r, &request);
    size_t found = 0;
    for (size_t i = 0; i < a->status->n_warnings; i++)
        found += strstr(a->status->warnings[i], text) != NULL;
    return found;
}

static size_t warnings(struct rig *r)
{
    return warned_of(r, "which kept points rest on: 1;");
}

static void test_status_warns_of_keys_at_a_providers_mercy(void **state)
{
    struct rig *r = *state;
    struct made_up *corp = add(r, "corp", true);
    corp->secrets[0] = fake.opens = "right";
    STATEMENT s = prove(r, plainly, NULL);
    assert_int_equal(s->record->holding, H(MIRRORED));
    assert_int_equal(warnings(r), 0);
    struct provider *p = (struct provider *)(uintptr_t)providers_find(all, "corp");
    p->mirror = false;
    corp->secrets[0] = fake.opens = "another";
    STATEMENT t = prove(r, plainly, NULL);
    assert_int_equal(t->record->holding, H(AT_PROVIDER));
    assert_int_equal(warnings(r), 1);
}

static void test_what_will_be_taken_away_is_said(void **state)
{
    struct rig *r = *state;
    struct made_up *corp = add(r, "corp", false);
    corp->secrets[0] = fake.opens = "right";
    corp->warning = "it removes version 0 with the next write";
    STATEMENT s = prove(r, plainly, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    assert_string_equal(s->explanation, corp->warning);
    assert_true(audit_has(r, "key.warning", corp->warning));
    assert_string_equal(s->record->warning, corp->warning);
    assert_int_equal(warned_of(r, corp->warning), 1);
    check_keystore(r);
    rig_reopen(r); /* it outlives the keeper's process */
    assert_int_equal(warned_of(r, corp->warning), 1);
    /* What was put right at the provider is not warned of any more. */
    const char *text = corp->warning;
    corp->warning = NULL;
    STATEMENT right = prove(r, plainly, NULL);
    assert_string_equal(right->record->record_id, s->record->record_id);
    assert_string_equal(right->record->warning, "");
    assert_int_equal(warned_of(r, text), 0);
    corp->warning = text;
    STATEMENT again = prove(r, plainly, NULL);
    assert_string_equal(again->record->warning, text);
    /* A copy needs no warning. */
    struct provider *p = (struct provider *)(uintptr_t)providers_find(all, "corp");
    p->mirror = true;
    STATEMENT t = prove(r, plainly, NULL);
    assert_int_equal(t->record->holding, H(MIRRORED));
    assert_null(strstr(t->explanation, "removes"));
    assert_string_equal(t->record->warning, "");
}

/* ---- which answer stands ---- */

static void test_answers_are_kept_apart(void **state)
{
    struct rig *r = *state;
    static const struct {
        int lookup, fetch;
        Sp__ProofVerdict verdict;
    } cases[] = {
        {-ENOENT, 0, V(NO_RECORD)},    {-EACCES, 0, V(DENIED)},
        {-EKEYEXPIRED, 0, V(EXPIRED)}, {-ETIMEDOUT, 0, V(UNREACHABLE)},
        {-EPROTO, 0, V(UNREACHABLE)},  {0, -EACCES, V(DENIED)},
        {0, -EKEYEXPIRED, V(EXPIRED)}, {0, -EPROTO, V(UNREACHABLE)},
        {0, 0, V(WRONG_KEY)},
    };
    struct made_up *corp = add(r, "corp", true);
    fake.opens = "right";
    corp->secrets[0] = "wrong";
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        corp->lookup = cases[i].lookup;
        corp->fetch = cases[i].fetch;
        STATEMENT s = prove(r, plainly, NULL);
        assert_int_equal(s->verdict, cases[i].verdict);
        assert_int_equal(s->n_attempts, 1);
        assert_int_equal(s->attempts[0]->verdict, cases[i].verdict);
        assert_string_equal(s->attempts[0]->provider, "corp");
        if (cases[i].lookup || cases[i].fetch)
            assert_non_null(strstr(s->explanation, "corp: made-up answer"));
    }
    LIST l = list(r);
    assert_int_equal(l->n_records, 0);
}

static void test_absent_only_when_every_provider_says_so(void **state)
{
    struct rig *r = *state;
    struct made_up *a = add(r, "a", true), *b = add(r, "b", true);
    a->lookup = b->lookup = -ENOENT;
    STATEMENT none = prove(r, plainly, NULL);
    assert_int_equal(none->verdict, V(NO_RECORD));
    assert_int_equal(none->n_attempts, 2);
    b->lookup = -ETIMEDOUT;
    STATEMENT one = prove(r, plainly, NULL);
    assert_int_equal(one->verdict, V(UNREACHABLE));
    a->lookup = -EACCES;
    STATEMENT denied = prove(r, plainly, NULL);
    assert_int_equal(denied->verdict, V(DENIED));
    /* A wrong key is no answer while another provider gave none. */
    a->lookup = 0;
    a->secrets[0] = "wrong";
    STATEMENT wrong = prove(r, plainly, NULL);
    assert_int_equal(wrong->verdict, V(UNREACHABLE));
    assert_null(wrong->record);
    b->lookup = -ENOENT;
    STATEMENT really = prove(r, plainly, NULL);
    assert_int_equal(really->verdict, V(WRONG_KEY));
    /* And one that opens ends it. */
    b->lookup = 0;
    b->secrets[0] = fake.opens = "right";
    a->lookup = -ETIMEDOUT;
    STATEMENT good = prove(r, plainly, NULL);
    assert_int_equal(good->verdict, V(OPENS));
    assert_string_equal(good->record->provider, "b");
}

static void test_wrong_in_the_keystore_does_not_hide_the_provider(void **state)
{
    struct rig *r = *state;
    struct made_up *corp = add(r, "corp", true);
    import_key(r, MACHINE, VOLUME, "", "wrong", NULL);
    corp->lookup = -EACCES;
    STATEMENT denied = prove(r, plainly, NULL);
    assert_int_equal(denied->verdict, V(DENIED));
    corp->lookup = 0;
    /* The same secret is not tried twice. */
    corp->secrets[0] = "wrong";
    corp->secrets[1] = fake.opens = "right";
    fake.jobs = 0;
    STATEMENT s = prove(r, plainly, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    assert_string_equal(s->record->version, "v1");
    assert_int_equal(fake.jobs, 2);
}

static void test_damaged_header_asks_nobody(void **state)
{
    struct rig *r = *state;
    add(r, "corp", true);
    import_key(r, MACHINE, VOLUME, "", "any", NULL);
    fake.otherwise = V(HEADER_DAMAGED);
    STATEMENT s = prove(r, plainly, NULL);
    assert_int_equal(s->verdict, V(HEADER_DAMAGED));
    assert_int_equal(lookups, 0);
}

static void test_keeper_answers_others_meanwhile(void **state)
{
    struct rig *r = *state;
    struct made_up *corp = add(r, "corp", true);
    corp->lookup = -ENOENT;
    corp->calls = r;
    STATEMENT s = prove(r, (struct proof_options){.root = 1, .machine_name = "web1"}, NULL);
    assert_int_equal(s->verdict, V(NO_RECORD));
    assert_string_equal(seen_name, "web1");
}

/* ---- the seal ---- */

static struct point point_with_external(struct rig *r)
{
    struct point p = point_make(r);
    point_add_volume(r, &p, "luks:second");
    return p;
}

static void test_point_rests_on_the_mirrored_copy(void **state)
{
    struct rig *r = *state;
    add(r, "corp", true)->secrets[0] = "open sesame";
    struct point p = point_with_external(r);
    Sp__Signed *sealed = seal_point(r, &p);
    sp__signed__free_unpacked(sealed, NULL);
    point_free(&p);
}

static void allow(struct rig *r, struct point *p, Sp__Reason reason)
{
    Sp__Exception *e = malloc(sizeof(*e));
    sp__exception__init(e);
    e->reason = reason;
    set_text(&e->volume_id, "luks:second");
    set_text(&e->allowed_by, r->admin.name);
    p->manifest->policy = malloc(sizeof(*p->manifest->policy));
    sp__policy__init(p->manifest->policy);
    p->manifest->policy->exceptions = malloc(sizeof(e));
    p->manifest->policy->exceptions[0] = e;
    p->manifest->policy->n_exceptions = 1;
}

static void test_point_on_a_reference_needs_an_exception(void **state)
{
    struct rig *r = *state;
    add(r, "corp", false)->secrets[0] = "open sesame";
    struct point p = point_with_external(r);
    seal_refused(r, &p, ESTALE, "at the provider corp only");
    allow(r, &p, SP__REASON__REASON_ESCROW_NOT_PINNABLE);
    Sp__Signed *sealed = seal_point(r, &p);
    sp__signed__free_unpacked(sealed, NULL);
    point_free(&p);
}

static void test_point_on_a_bare_key_needs_an_exception(void **state)
{
    struct rig *r = *state;
    struct made_up *corp = add(r, "corp", true);
    corp->secrets[0] = "open sesame";
    corp->bare[0] = true;
    struct point p = point_with_external(r);
    seal_refused(r, &p, ESTALE, "without a KEK around it");
    allow(r, &p, SP__REASON__REASON_ESCROW_UNWRAPPED);
    Sp__Signed *sealed = seal_point(r, &p);
    sp__signed__free_unpacked(sealed, NULL);
    point_free(&p);
}

/* ---- test and list ---- */

static Sp__KeeperResponse *test_provider(struct rig *r, const char *name)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__TestProviderRequest ask = SP__TEST_PROVIDER_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_TEST_PROVIDER;
    request.test_provider = &ask;
    ask.name = (char *)(uintptr_t)name;
    return rig_call(r, &request);
}

static void test_walk_ends_at_what_fails(void **state)
{
    struct rig *r = *state;
    struct made_up *corp = add(r, "corp", true);
    ANSWER good = test_provider(r, "corp");
    assert_true(good->test_provider->good);
    assert_int_equal(good->test_provider->n_steps, 5);
    corp->canary = -EACCES;
    corp->stage = SP__PROVIDER_STAGE__PROVIDER_STAGE_AUTHENTICATION;
    ANSWER bad = test_provider(r, "corp");
    const Sp__TestProviderResponse *t = bad->test_provider;
    assert_false(t->good);
    assert_int_equal(t->n_steps, 3);
    assert_true(t->steps[0]->good && t->steps[1]->good);
    assert_false(t->steps[2]->good);
    assert_int_equal(t->steps[2]->stage, SP__PROVIDER_STAGE__PROVIDER_STAGE_AUTHENTICATION);
    assert_non_null(strstr(t->steps[2]->text, "made-up answer"));
    assert_true(audit_has(r, "provider.test", "corp"));

    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__TestProviderRequest ask = SP__TEST_PROVIDER_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_TEST_PROVIDER;
    request.test_provider = &ask;
    ask.name = (char[]){"other"};
    rig_refused(r, &request, ENOENT, "no provider 'other'");
    ask.name = (char[]){"corp"};
    ask.make_canary = true; /* its type cannot */
    rig_refused(r, &request, EOPNOTSUPP, "is made there");
}

static void test_list_says_what_is_configured(void **state)
{
    struct rig *r = *state;
    add(r, "corp", true)->secrets[0] = fake.opens = "right";
    add(r, "spare", false);
    STATEMENT s = prove(r, plainly, NULL);
    assert_int_equal(s->verdict, V(OPENS));
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ListProvidersRequest ask = SP__LIST_PROVIDERS_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_LIST_PROVIDERS;
    request.list_providers = &ask;
    ANSWER a = rig_call(r, &request);
    assert_int_equal(a->list_providers->n_providers, 2);
    assert_string_equal(a->list_providers->providers[0]->name, "corp");
    assert_true(a->list_providers->providers[0]->mirror);
    assert_int_equal(a->list_providers->providers[0]->records, 1);
    assert_false(a->list_providers->providers[1]->mirror);
}

/* ---- configuration ---- */

static int set(const char *assignment, struct sp_why *why)
{
    static const struct sp_config_option none[] = {{NULL, NULL, SP_CONFIG_TEXT, 0, 0, 0}};
    const struct sp_config_more more = {providers_set, all};
    return sp_config_set_more(none, NULL, &more, assignment, why);
}

static void test_sections_become_instances(void **state)
{
    struct sp_why why = {""};
    (void)state;
    assert_int_equal(set("active-directory corp.mirror=no", &why), 0);
    assert_int_equal(set("active-directory corp.timeout=3s", &why), 0);
    assert_int_equal(set("active-directory lab.url=ldaps://dc1", &why), 0);
    assert_int_equal(providers_count(all), 2);
    const struct provider *p = providers_find(all, "corp");
    assert_non_null(p);
    assert_false(p->mirror);
    assert_int_equal(p->timeout_ms, 3000);
    assert_true(providers_find(all, "lab")->mirror);
    assert_int_equal(set("active-directory corp.timeout=5min", &why), -ERANGE);
    assert_int_equal(set("active-directory corp.speed=9", &why), -EINVAL);
    assert_non_null(strstr(why.text, "no option 'speed'"));
    assert_int_equal(set("active-directory.url=x", &why), -EINVAL);
    assert_int_equal(set("active-directory Corp.url=x", &why), -EINVAL);
    assert_int_equal(set("active-directory keystore.url=x", &why), -EINVAL);
    assert_int_equal(set("active-lasagne corp.url=x", &why), -EINVAL);
    assert_non_null(strstr(why.text, "no section"));
}

static void test_half_a_section_is_refused(void **state)
{
    struct sp_why why = {""};
    static const struct {
        const char *assignment, *missing;
    } steps[] = {
        {"active-directory corp.url=http://dc1", "url is ldaps://"},
        {"active-directory corp.url=ldaps://dc1.corp.example", "base is needed"},
        {"active-directory corp.base=DC=corp,DC=example", "bind_dn is needed"},
        {"active-directory corp.bind_dn=keeper@corp.example", "password_file"},
        {"active-directory corp.password_file=/nowhere", ""},
        {"active-directory corp.canary=abc", "canary is the GUID"},
        {"active-directory corp.canary={01234567-89AB-cdef-0123-456789abcdef}", ""},
        {"active-directory corp.computer_attribute=cn=*)(x", "name of an LDAP attribute"},
    };
    (void)state;
    for (size_t i = 0; i < SP_COUNT(steps); i++) {
        assert_int_equal(set(steps[i].assignment, &why), 0);
        int r = providers_check(all, &why);
        assert_int_equal(r, *steps[i].missing ? -EINVAL : 0);
        if (r < 0) {
            assert_non_null(strstr(why.text, steps[i].missing));
            assert_non_null(strstr(why.text, "[active-directory corp]"));
        }
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nobody_is_asked_when_the_keystore_opens),
        TEST(test_what_opened_is_mirrored_and_pinned),
        TEST(test_next_value_is_the_next_generation),
        TEST(test_without_mirror_only_a_reference_is_kept),
        TEST(test_reference_becomes_a_copy_when_mirroring_begins),
        TEST(test_reference_to_a_provider_that_is_no_longer_configured),
        TEST(test_a_reference_is_to_one_version),
        TEST(test_a_bare_key_stays_known_as_one),
        TEST(test_a_bare_key_that_was_wrapped_since),
        TEST(test_status_warns_of_keys_at_a_providers_mercy),
        TEST(test_what_will_be_taken_away_is_said),
        TEST(test_answers_are_kept_apart),
        TEST(test_absent_only_when_every_provider_says_so),
        TEST(test_wrong_in_the_keystore_does_not_hide_the_provider),
        TEST(test_damaged_header_asks_nobody),
        TEST(test_keeper_answers_others_meanwhile),
        TEST(test_point_rests_on_the_mirrored_copy),
        TEST(test_point_on_a_reference_needs_an_exception),
        TEST(test_point_on_a_bare_key_needs_an_exception),
        TEST(test_walk_ends_at_what_fails),
        TEST(test_list_says_what_is_configured),
        cmocka_unit_test_setup_teardown(test_sections_become_instances, setup_configuration,
                                        teardown_configuration),
        cmocka_unit_test_setup_teardown(test_half_a_section_is_refused, setup_configuration,
                                        teardown_configuration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
