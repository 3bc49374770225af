/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * kill -9 while keys are imported, declared compromised, asked to be destroyed, and wrapped for a
 * new recovery kit: what was acknowledged is there, nothing is there by half, and the keystore
 * holds. 10 rounds, 200 with SEALPOINT_LONG=1. */
#include "process.h"

#include "base/sealed_box.h"
#include "base/signed_request.h"
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

enum { ROUNDS = 10, ROUNDS_LONG = 200, KEYS_MOST = 20000 };

/* What was acknowledged: every key, and what became of some of them. */
static char (*acknowledged)[37];
static size_t count;
static char compromised[37], asked[37]; /* of this round; "": none */
static unsigned changes;                /* of all rounds */

/* One import; true when it was acknowledged. */
static bool import_one(struct rig *r, unsigned number)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ImportKeysRequest ask = SP__IMPORT_KEYS_REQUEST__INIT;
    Sp__ImportKey key = SP__IMPORT_KEY__INIT, *keys[] = {&key};
    Sp__KeeperResponse *answer = NULL;
    char volume[60], secret[40];
    snprintf(volume, sizeof(volume), "luks:%u", number % 50);
    snprintf(secret, sizeof(secret), "secret number %u", number);
    key.machine = (char[]){MACHINE};
    key.volume_id = volume;
    key.material =
        seal_key(r, MACHINE, volume, "", SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE, secret, NULL);
    ask.keys = keys;
    ask.n_keys = 1;
    request.kind_case = SP__KEEPER_REQUEST__KIND_IMPORT;
    request.import = &ask;
    int e = keeper_call(r->client, &request, -1, 0, &answer, NULL);
    sp__sealed_box__free_unpacked(key.material, NULL);
    if (e < 0)
        return false;
    assert_string_equal(answer->import->results[0]->error, "");
    assert_true(count < KEYS_MOST);
    snprintf(acknowledged[count++], 37, "%s", answer->import->results[0]->record->record_id);
    answer_free(answer);
    return true;
}

/* Signs and executes; true when it was acknowledged. */
static bool order(struct rig *r, const char *method, const ProtobufCMessage *arguments)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__NonceRequest nonce = SP__NONCE_REQUEST__INIT;
    Sp__SignedCall call = SP__SIGNED_CALL__INIT;
    Sp__KeeperResponse *answer = NULL;
    SP_FREE uint8_t *packed = NULL;
    size_t size = 0;
    request.kind_case = SP__KEEPER_REQUEST__KIND_NONCE;
    request.nonce = &nonce;
    if (keeper_call(r->client, &request, -1, 0, &answer, NULL) < 0)
        return false;
    assert_int_equal(sp_pack(arguments, &packed, &size), 0);
    assert_int_equal(sp_request_sign(method, packed, size, answer->nonce->nonce.data, 32,
                                     sp_clock_system.wall_ms(NULL) + 60000, r->admin.key,
                                     r->admin.certificate, &call.request),
                     0);
    answer_free(answer);
    request.kind_case = SP__KEEPER_REQUEST__KIND_EXECUTE;
    request.execute = &call;
    int e = keeper_call(r->client, &request, -1, 0, &answer, NULL);
    sp__signed_request__free_unpacked(call.request, NULL);
    if (e == 0)
        answer_free(answer);
    changes += e == 0;
    return e == 0;
}

static bool compromise_last(struct rig *r)
{
    Sp__CompromiseKeyRequest ask = SP__COMPROMISE_KEY_REQUEST__INIT;
    ask.record_id = acknowledged[count - 1];
    ask.why = (char[]){"x"};
    if (!order(r, "/sealpoint.v1.Keys/Compromise", &ask.base))
        return false;
    strcpy(compromised, acknowledged[count - 1]);
    return true;
}

static bool ask_to_destroy_last(struct rig *r)
{
    Sp__DestroyKeyRequest ask = SP__DESTROY_KEY_REQUEST__INIT;
    ask.record_id = acknowledged[count - 1];
    ask.why = (char[]){"x"};
    if (!order(r, "/sealpoint.v1.Keys/Destroy", &ask.base))
        return false;
    strcpy(asked, acknowledged[count - 1]);
    return true;
}

/* Wraps every DEK anew, and drops what was wrapped for the old kit. */
static bool change_kit(struct rig *r)
{
    Sp__AddKekRequest ask = SP__ADD_KEK_REQUEST__INIT;
    SP_SECRET struct sp_secret *reply = NULL;
    uint8_t reply_public[32];
    assert_int_equal(sp_box_keypair(&reply, reply_public), 0);
    ask.kind = (char[]){KEK_KIT};
    ask.reply_key = (ProtobufCBinaryData){32, reply_public};
    return order(r, "/sealpoint.v1.Keys/AddKek", &ask.base);
}

/* One thing after the other until the keeper is gone. */
static bool work(struct rig *r, unsigned number)
{
    if (!import_one(r, number))
        return false;
    switch (number % 8) {
    case 1:
        return compromise_last(r);
    case 3:
        return ask_to_destroy_last(r);
    case 5:
        return change_kit(r);
    default:
        return true;
    }
}

static void *kill_later(void *self)
{
    const struct timespec *after = self;
    nanosleep(after, NULL);
    return NULL;
}

static const Sp__EscrowRecord *find(const Sp__ListKeysResponse *list, const char *record_id)
{
    for (size_t i = 0; i < list->n_records; i++)
        if (strcmp(list->records[i]->record_id, record_id) == 0)
            return list->records[i];
    return NULL;
}

static void check_asked(struct rig *r)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ShowKeyRequest ask = SP__SHOW_KEY_REQUEST__INIT;
    ask.record_id = asked;
    request.kind_case = SP__KEEPER_REQUEST__KIND_SHOW_KEY;
    request.show_key = &ask;
    ANSWER a = rig_call(r, &request);
    assert_non_null(a->show_key->destruction);
}

static void check_all(struct rig *r)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ListKeysRequest list = SP__LIST_KEYS_REQUEST__INIT;
    Sp__CheckKeystoreRequest check = SP__CHECK_KEYSTORE_REQUEST__INIT;
    list.all_generations = true;
    request.kind_case = SP__KEEPER_REQUEST__KIND_LIST_KEYS;
    request.list_keys = &list;
    ANSWER a = rig_call(r, &request);
    for (size_t i = 0; i < count; i++)
        if (!find(a->list_keys, acknowledged[i]))
            fail_msg("the acknowledged key %s is lost", acknowledged[i]);
    if (compromised[0])
        assert_int_equal(find(a->list_keys, compromised)->state,
                         SP__RECORD_STATE__RECORD_STATE_COMPROMISED);
    if (asked[0])
        check_asked(r);
    request.kind_case = SP__KEEPER_REQUEST__KIND_CHECK;
    request.check = &check;
    ANSWER c = rig_call(r, &request);
    if (c->check->n_problems > 0)
        fail_msg("%s", c->check->problems[0]);
    assert_int_equal(c->check->records, a->list_keys->n_records);
}

static void test_no_acknowledged_key_is_lost(void **state)
{
    (void)state;
    struct process process;
    struct rig *r = process_rig(&process);
    const char *wanted = getenv("SEALPOINT_LONG");
    int rounds = wanted && strcmp(wanted, "1") == 0 ? ROUNDS_LONG : ROUNDS;
    unsigned number = 0;
    acknowledged = calloc(KEYS_MOST, sizeof(*acknowledged));
    for (int round = 0; round < rounds; round++) {
        compromised[0] = asked[0] = 0;
        /* The kill falls at another place of an import each time. */
        struct timespec after = {.tv_nsec = 20000000 + round * 7919 % 60 * 1000000L};
        pthread_t timer;
        void *over = NULL;
        assert_int_equal(pthread_create(&timer, NULL, kill_later, &after), 0);
        while (pthread_tryjoin_np(timer, &over) != 0)
            work(r, number++);
        /* One more is under way when the signal comes. */
        pid_t killer = fork();
        if (killer == 0) {
            const struct timespec pause = {.tv_nsec = round * 104729 % 5000 * 1000L};
            nanosleep(&pause, NULL);
            kill(process.pid, SIGKILL);
            _exit(0);
        }
        while (work(r, number++))
            ;
        int status = 0;
        assert_int_equal(waitpid(killer, &status, 0), killer);
        assert_int_equal(waitpid(process.pid, &status, 0), process.pid);
        assert_true(WIFSIGNALED(status));
        process_start(r, &process);
        check_all(r);
    }
    assert_true(count > (size_t)rounds);
    assert_true(changes > (unsigned)rounds / 2);
    free(acknowledged);
    process_rig_free(r, &process);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_acknowledged_key_is_lost)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
