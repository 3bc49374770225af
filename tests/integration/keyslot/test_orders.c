/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Orders for escrow keyslots, between a real keeper and the helper's own code, on a LUKS2 image:
 * what a controller that lies gets (nothing), and what is left when the helper is killed at each
 * step (the old key, and nothing half done). */
#include "rig.h"

#include "agent/config.h"
#include "agent/enrol_volume/header.h"
#include "agent/enrol_volume/keyslot.h"
#include "base/file.h"
#include "base/sealed_box.h"
#include "base/signed_request.h"
#include <errno.h>
#include <sealpoint/v1/keyslot.pb-c.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define OLD_KEY "what the guest opens it with"

struct guest_side {
    struct rig *rig;
    struct agent_config config;
    struct keyslot_options options;
    char machine[37], volume[64], *image, *clean;
    size_t size;
    uint8_t box[32];
};

/* ---- making both sides ---- */

static char *at_path(const struct guest_side *g, const char *name)
{
    char *path = sp_format("%s/%s", g->rig->folder, name);
    assert_non_null(path);
    return path;
}

static void put(const struct guest_side *g, const char *name, const void *data, size_t size)
{
    SP_FREE char *path = at_path(g, name);
    assert_int_equal(sp_file_replace(path, data, size, 0600), 0);
}

static void enrol_agent(struct guest_side *g)
{
    SP_SECRET struct sp_secret *box = NULL;
    struct test_token token = make_token(g->rig, token_spec(g->rig));
    EVP_PKEY *key = sp_key_new();
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    assert_int_equal(sp_box_keypair(&box, g->box), 0);
    request.kind_case = SP__KEEPER_REQUEST__KIND_ENROL;
    request.enrol = enrol_request(&token, key, g->box, "web1");
    ANSWER a = rig_call(g->rig, &request);
    enrol_free(request.enrol);
    sp_secret_free(token.secret);
    snprintf(g->machine, sizeof(g->machine), "%s", a->enrol->machine_id);
    SP_FREE char *key_path = at_path(g, "as/agent.key");
    SP_FREE char *folder = at_path(g, "as");
    SP_FREE char *identity = sp_format(
        "[identity]\nmachine = %s\ndomain = " DOMAIN "\ncontroller = localhost:1\n", g->machine);
    assert_int_equal(sp_make_directories(folder, 0700), 0);
    assert_int_equal(sp_key_save(key_path, key), 0);
    put(g, "as/agent.pem", a->enrol->certificate_chain.data, a->enrol->certificate_chain.len);
    put(g, "as/trust.pem", g->rig->bundle, strlen(g->rig->bundle));
    put(g, "as/keeper-ca.pem", g->rig->bundle, strlen(g->rig->bundle));
    put(g, "as/box.key", sp_secret_data(box), sp_secret_size(box));
    put(g, "as/identity", identity, strlen(identity));
    EVP_PKEY_free(key);
}

static void make_volume(struct guest_side *g)
{
    struct crypt_device *cd = NULL;
    const struct crypt_pbkdf_type pbkdf = {.type = CRYPT_KDF_PBKDF2,
                                           .hash = "sha256",
                                           .iterations = 1000,
                                           .flags = CRYPT_PBKDF_NO_BENCHMARK};
    struct crypt_params_luks2 luks2 = {.pbkdf = &pbkdf, .sector_size = 512};
    g->image = at_path(g, "image");
    SP_FREE char *empty = calloc(1, 3 << 20);
    put(g, "image", empty, 3 << 20);
    assert_int_equal(crypt_init(&cd, g->image), 0);
    assert_int_equal(crypt_set_metadata_size(cd, 16384, 1 << 20), 0);
    assert_int_equal(crypt_format(cd, CRYPT_LUKS2, "aes", "xts-plain64", NULL, NULL, 64, &luks2),
                     0);
    assert_int_equal(crypt_keyslot_add_by_volume_key(cd, 0, NULL, 0, OLD_KEY, strlen(OLD_KEY)), 0);
    snprintf(g->volume, sizeof(g->volume), "luks:%s", crypt_get_uuid(cd));
    crypt_free(cd);
    assert_int_equal(sp_file_read(g->image, 8 << 20, &g->clean, &g->size), 0);
    SP_FREE char *line = sp_format("data %s %s/key luks\n", g->image, g->rig->folder);
    put(g, "key", OLD_KEY, strlen(OLD_KEY));
    put(g, "crypttab", line, strlen(line));
}

static int setup(void **state)
{
    struct guest_side *g = calloc(1, sizeof(*g));
    void *rig = NULL;
    struct sp_why why = {""};
    assert_int_equal(rig_setup(&rig), 0);
    g->rig = rig;
    SP_FREE char *as = sp_format("agent.state=%s/as", g->rig->folder);
    SP_FREE char *crypttab = sp_format("escrow.crypttab=%s/crypttab", g->rig->folder);
    char *set[] = {as, crypttab, (char *)(uintptr_t) "escrow.enrol=on"};
    assert_int_equal(agent_config_load("/dev/null", set, SP_COUNT(set), &g->config, &why), 0);
    g->options.config = &g->config;
    /* The agent checks certificates by the real clock. */
    g->rig->wall_ms = sp_clock_system.wall_ms(sp_clock_system.self);
    enrol_agent(g);
    make_volume(g);
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    struct guest_side *g = *state;
    void *rig = g->rig;
    agent_config_free(&g->config);
    free(g->image);
    free(g->clean);
    free(g);
    return rig_teardown(&rig);
}

/* ---- asking and ordering ---- */

static Sp__Answer *serve(struct guest_side *g, const Sp__Signed *order, const Sp__Signed *keys)
{
    Sp__KeyslotRequest request = SP__KEYSLOT_REQUEST__INIT;
    Sp__Answer *answer = NULL;
    request.volume_id = g->volume;
    request.device = g->image;
    request.order = (Sp__Signed *)(uintptr_t)order;
    request.keeper_keys = (Sp__Signed *)(uintptr_t)keys;
    assert_int_equal(keyslot_serve(&g->options, &request, &answer), 0);
    return answer;
}

static void sp_cleanup_served(Sp__Answer **a)
{
    if (*a)
        sp__answer__free_unpacked(*a, NULL);
}
#define SERVED SP_CLEANUP(served) Sp__Answer *

static Sp__KeeperResponse *order_for(struct guest_side *g, const Sp__KeyslotAnswer *said)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__OrderKeyslotRequest ask = SP__ORDER_KEYSLOT_REQUEST__INIT;
    ask.machine_id = g->machine;
    ask.volume_id = g->volume;
    ask.keyslot = said->keyslot;
    ask.header_sha256 = said->header_sha256;
    ask.nonce = said->nonce;
    ask.why = (char *)(uintptr_t) "a test";
    request.kind_case = SP__KEEPER_REQUEST__KIND_ORDER_KEYSLOT;
    request.order_keyslot = &ask;
    return rig_call(g->rig, &request);
}

/* What the controller has in its hands after asking both. */
static Sp__KeeperResponse *fresh_order(struct guest_side *g)
{
    SERVED said = serve(g, NULL, NULL);
    assert_int_equal(said->error, 0);
    return order_for(g, said->keyslot);
}

static void end_record(struct guest_side *g, const char *record_id)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__EndKeyslotRequest end = SP__END_KEYSLOT_REQUEST__INIT;
    end.record_id = (char *)(uintptr_t)record_id;
    request.kind_case = SP__KEEPER_REQUEST__KIND_END_KEYSLOT;
    request.end_keyslot = &end;
    answer_free(rig_call(g->rig, &request));
}

static bool untouched(struct guest_side *g)
{
    SP_FREE char *now = NULL;
    size_t size = 0;
    assert_int_equal(sp_file_read(g->image, 8 << 20, &now, &size), 0);
    return size == g->size && memcmp(now, g->clean, size) == 0;
}

static bool opens(struct guest_side *g, const char *key)
{
    struct header h;
    struct sp_why why = {""};
    assert_int_equal(header_open(g->image, g->volume, &h, &why), 0);
    int r = crypt_activate_by_passphrase(h.cd, NULL, CRYPT_ANY_SLOT, key, strlen(key), 0);
    header_close(&h);
    return r >= 0;
}

static bool refused(struct guest_side *g, const Sp__Signed *order, const Sp__Signed *keys,
                    int error, const char *text)
{
    SERVED a = serve(g, order, keys);
    if (a->error == error && strstr(a->text, text) && untouched(g))
        return true;
    print_error("%d %s\n", a->error, a->text);
    return false;
}

/* ---- tests ---- */

static void test_an_order_is_obeyed_once(void **state)
{
    struct guest_side *g = *state;
    ANSWER o = fresh_order(g);
    SERVED done = serve(g, o->order_keyslot->order, o->order_keyslot->keeper_keys);
    assert_int_equal(done->error, 0);
    assert_int_equal(done->keyslot->n_records, 1);
    assert_string_equal(done->keyslot->records[0]->record_id, o->order_keyslot->record->record_id);
    assert_int_equal(done->keyslot->records[0]->state, SP__KEYSLOT_STATE__KEYSLOT_STATE_ENROLLED);
    assert_true(opens(g, OLD_KEY));
    /* A header put back as it was does not bring the order back. */
    put(g, "image", g->clean, g->size);
    assert_true(
        refused(g, o->order_keyslot->order, o->order_keyslot->keeper_keys, ESTALE, "used before"));
    sp__answer__free_unpacked(serve(g, NULL, NULL), NULL); /* a new nonce */
    assert_true(
        refused(g, o->order_keyslot->order, o->order_keyslot->keeper_keys, ESTALE, "used before"));
    end_record(g, o->order_keyslot->record->record_id);
    assert_true(audit_has(g->rig, "keyslot.end", g->machine));
}

static void test_only_what_the_keeper_signed_is_obeyed(void **state)
{
    struct guest_side *g = *state;
    ANSWER o = fresh_order(g);
    const Sp__OrderKeyslotResponse *in = o->order_keyslot;
    EVP_PKEY *mine = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    Sp__Signed *forged = NULL;
    /* Its own signature, under the keeper's true keys. */
    assert_int_equal(sp_signed_make(mine, SP_SIGN_KEYSLOT, in->order->payload.data,
                                    in->order->payload.len, &forged),
                     0);
    assert_true(refused(g, forged, in->keeper_keys, EKEYREJECTED, "not signed by the keeper"));
    /* Keys that the CA did not sign. */
    Sp__Signed *keys = NULL;
    assert_int_equal(sp_signed_make(mine, SP_SIGN_KEEPER_KEYS, in->keeper_keys->payload.data,
                                    in->keeper_keys->payload.len, &keys),
                     0);
    assert_true(refused(g, in->order, keys, EKEYREJECTED, "pinned"));
    /* A byte of the order: another box, keyslot, record, … */
    Sp__Signed *changed = (Sp__Signed *)sp_message_copy(&in->order->base);
    changed->payload.data[changed->payload.len / 2] ^= 1;
    assert_true(refused(g, changed, in->keeper_keys, EKEYREJECTED, "not signed by the keeper"));
    sp__signed__free_unpacked(changed, NULL);
    sp__signed__free_unpacked(keys, NULL);
    sp__signed__free_unpacked(forged, NULL);
    EVP_PKEY_free(mine);
    end_record(g, in->record->record_id);
}

/* Signed by the keeper, but for somebody else. */
static void test_an_order_is_for_one_machine_volume_and_header(void **state)
{
    struct guest_side *g = *state;
    char machine[37], volume[64];
    struct sp_why why = {""};
    struct header h;

    ANSWER o = fresh_order(g);
    memcpy(volume, g->volume, sizeof(volume));
    snprintf(g->volume, sizeof(g->volume), "luks:%s", OTHER);
    assert_true(refused(g, o->order_keyslot->order, o->order_keyslot->keeper_keys, ESTALE,
                        "another volume"));
    memcpy(g->volume, volume, sizeof(volume));
    end_record(g, o->order_keyslot->record->record_id);

    memcpy(machine, g->machine, sizeof(machine));
    struct test_token token = make_token(g->rig, token_spec(g->rig));
    struct guest other = enrol_guest(g->rig, &token, "web2");
    sp_secret_free(token.secret);
    memcpy(g->machine, other.machine_id, sizeof(machine));
    ANSWER theirs = fresh_order(g);
    assert_true(refused(g, theirs->order_keyslot->order, theirs->order_keyslot->keeper_keys,
                        EKEYREJECTED, "is for the machine"));
    memcpy(g->machine, machine, sizeof(machine));
    guest_free(&other);

    ANSWER late = fresh_order(g);
    assert_int_equal(header_open(g->image, g->volume, &h, &why), 0);
    assert_int_equal(crypt_set_label(h.cd, "changed", NULL), 0);
    header_close(&h);
    SERVED a = serve(g, late->order_keyslot->order, late->order_keyslot->keeper_keys);
    assert_int_equal(a->error, ESTALE);
    assert_non_null(strstr(a->text, "has changed"));
    put(g, "image", g->clean, g->size);
    end_record(g, late->order_keyslot->record->record_id);

    g->config.escrow_enrol = false;
    ANSWER off = fresh_order(g);
    assert_true(refused(g, off->order_keyslot->order, off->order_keyslot->keeper_keys, EPERM,
                        "does not allow"));
    g->config.escrow_enrol = true;
    end_record(g, off->order_keyslot->record->record_id);
}

static void test_the_keeper_ends_only_pending_keys_of_orders(void **state)
{
    struct guest_side *g = *state;
    char imported[37];
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__EndKeyslotRequest end = SP__END_KEYSLOT_REQUEST__INIT;
    import_key(g->rig, g->machine, g->volume, "0", OLD_KEY, imported);
    end.record_id = imported;
    request.kind_case = SP__KEEPER_REQUEST__KIND_END_KEYSLOT;
    request.end_keyslot = &end;
    rig_refused(g->rig, &request, ESTALE, "no pending key");
    /* One that a point under way has pinned stays. */
    ANSWER o = fresh_order(g);
    end.record_id = o->order_keyslot->record->record_id;
    pin_point(g->rig, POINT, g->machine, g->volume);
    rig_refused(g->rig, &request, EBUSY, "rest on");
}

/* ---- kills ---- */

static void die_at(void *self, enum keyslot_step step)
{
    if (step == *(const enum keyslot_step *)self)
        raise(SIGKILL);
}

static void obey_and_die(struct guest_side *g, const Sp__OrderKeyslotResponse *o,
                         enum keyslot_step step)
{
    pid_t child = fork();
    int status = 0;
    assert_true(child >= 0);
    if (child == 0) {
        g->options.at = die_at;
        g->options.self = &step;
        serve(g, o->order, o->keeper_keys);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_true(opens(g, OLD_KEY));
}

/* Nothing of an order that is not whole; the number of keyslots that the tokens name. */
static int whole_keyslots(struct guest_side *g)
{
    struct header h;
    struct header_token t;
    struct sp_why why = {""};
    int whole = 0, all = 0;
    assert_int_equal(header_open(g->image, g->volume, &h, &why), 0);
    for (int i = 0; i < HEADER_TOKENS; i++)
        if (header_token(&h, i, &t)) {
            assert_true(t.assigned && header_has_keyslot(&h, t.keyslot));
            whole++;
        }
    for (int i = 0; i < HEADER_KEYSLOTS; i++)
        all += header_has_keyslot(&h, i);
    assert_int_equal(all, 1 + whole);
    header_close(&h);
    return whole;
}

static void test_killed_at_each_step(void **state)
{
    struct guest_side *g = *state;
    for (int step = KEYSLOT_BEGUN; step < KEYSLOT_STEPS; step++) {
        ANSWER o = fresh_order(g);
        const char *record_id = o->order_keyslot->record->record_id;
        SP_FREE char *left = sp_format("%s/as/keyslots/%s.order", g->rig->folder, record_id);
        obey_and_die(g, o->order_keyslot, (enum keyslot_step)step);
        assert_int_equal(access(left, F_OK) == 0, step >= KEYSLOT_KEPT && step < KEYSLOT_DONE);
        SERVED after = serve(g, NULL, NULL);
        assert_int_equal(after->error, 0);
        assert_int_equal(after->keyslot->n_records, step >= KEYSLOT_ADDED);
        assert_int_equal(whole_keyslots(g), step >= KEYSLOT_ADDED);
        assert_true(opens(g, OLD_KEY));
        assert_int_equal(access(left, F_OK), -1);
        put(g, "image", g->clean, g->size);
        end_record(g, record_id);
    }
}

/* Another program took the number meanwhile: its keyslot is not ours to remove. */
static void test_the_keyslot_of_another_stays(void **state)
{
    struct guest_side *g = *state;
    const char *theirs = "a passphrase of somebody else";
    struct header h;
    struct sp_why why = {""};
    ANSWER o = fresh_order(g);
    obey_and_die(g, o->order_keyslot, KEYSLOT_TOKEN);
    assert_int_equal(header_open(g->image, g->volume, &h, &why), 0);
    assert_int_equal(
        crypt_keyslot_add_by_passphrase(h.cd, 1, OLD_KEY, strlen(OLD_KEY), theirs, strlen(theirs)),
        1);
    header_close(&h);
    SERVED after = serve(g, NULL, NULL);
    assert_int_equal(after->error, 0);
    assert_int_equal(after->keyslot->n_records, 0);
    assert_true(opens(g, theirs) && opens(g, OLD_KEY));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_an_order_is_obeyed_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_only_what_the_keeper_signed_is_obeyed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_an_order_is_for_one_machine_volume_and_header, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_keeper_ends_only_pending_keys_of_orders, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_killed_at_each_step, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_keyslot_of_another_stays, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
