/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * bench-keystore FOLDER RECORDS LOOKUPS: a keystore of RECORDS records, 2,000 of them real ones
 * over 500 machines, and LOOKUPS random look-ups of those, as a proof makes them. Prints, in
 * microseconds: "find MEDIAN P99" (the records of a volume) and "open MEDIAN P99" (the same, and
 * the key decrypted). */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/identity.h"
#include "base/sealed_box.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/records.h"
#include "controller/keeper/wrap.h"
#include <stdlib.h>
#include <string.h>

enum { REAL = 2000, VOLUMES = 4 };

static void check(int r, const char *what)
{
    if (r < 0) {
        fprintf(stderr, "bench-keystore: %s: %s\n", what, strerror(-r));
        exit(1);
    }
}

static void ids_of(unsigned number, char machine[37], char volume[48])
{
    snprintf(machine, 37, "%08x-0000-4000-8000-%012x", number / VOLUMES * 2654435761u,
             number / VOLUMES);
    snprintf(volume, 48, "luks:%08x-0000-4000-8000-%012x", number * 2246822519u, number);
}

static int add_record(struct keeper *k, unsigned number)
{
    SP_BUFFER struct sp_buffer aad = {0};
    WRAPPED struct wrapped w = {0};
    char machine[37], volume[48], id[37], secret[32];
    uint8_t hmac[32];
    snprintf(secret, sizeof(secret), "secret number %u", number);
    SP_SECRET struct sp_secret *s = sp_secret_copy(secret, strlen(secret));
    ids_of(number, machine, volume);
    int r = s ? sp_uuid_make(id) : -ENOMEM;
    if (r == 0)
        r = sp_sha256_of(secret, strlen(secret), hmac);
    if (r == 0)
        r = aead_bind(&aad, "sealpoint record 1", KEYSTORE_PROVIDER, machine, volume, "", "1", id,
                      NULL);
    if (r == 0)
        r = wrap_seal(k, sp_bytes_of(&aad), s, &w);
    if (r == 0)
        r = store_run(k->store,
                      "INSERT INTO records VALUES(?,?,?,?,'',1,1,2,1,'','',x'',?,'',1,?,?,?)",
                      "ssssbsbb", id, KEYSTORE_PROVIDER, machine, volume, hmac, sizeof(hmac),
                      w.dek_id, w.nonce, sizeof(w.nonce), w.ciphertext.data, w.ciphertext.size);
    return r < 0 ? r : journal_note(k, "records", id);
}

/* What lies between the records that are looked up: rows of the same size, which nobody decrypts.
 */
static void fill_between(struct keeper *k, unsigned count)
{
    static const char *const rows[] = {
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<?1) INSERT INTO "
        "records SELECT lower(hex(randomblob(18))), 'keystore', lower(hex(randomblob(18))), "
        "'luks:'||lower(hex(randomblob(18))), '', 1, 1, 2, 1, 'spiffe://bench/user/root', '', x'', "
        "randomblob(32), '', n, lower(hex(randomblob(18))), randomblob(12), randomblob(40) FROM c",
        "INSERT INTO wraps SELECT dek_id, kek_id, randomblob(150) FROM records, keks WHERE "
        "created_by='spiffe://bench/user/root'",
    };
    check(store_begin(k->store), "begin");
    int r = store_run(k->store, rows[0], "i", (int64_t)count);
    if (r == 0)
        r = store_run(k->store, rows[1], "");
    check(store_end(k->store, r), "fill");
}

static void fill(struct keeper *k, unsigned count)
{
    check(store_begin(k->store), "begin");
    int r = 0;
    for (unsigned i = 0; i < REAL && r == 0; i++)
        r = add_record(k, i);
    check(store_end(k->store, r), "fill");
    fill_between(k, count - REAL);
}

static uint64_t now_ns(void)
{
    return sp_clock_system.monotonic_ns(NULL);
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void look_up(struct keeper *k, unsigned number, bool open)
{
    char machine[37], volume[48];
    Sp__EscrowRecord **records = NULL, *e = NULL;
    struct sp_secret *secret = NULL;
    size_t count = 0;
    ids_of(number, machine, volume);
    check(records_of(k, machine, volume, &records, &count), "look-up");
    if (count != 1)
        check(-ENOENT, machine);
    if (open) {
        check(record_load(k, records[0]->record_id, &e, &secret, NULL), "open");
        sp__escrow_record__free_unpacked(e, NULL);
        sp_secret_free(secret);
    }
    records_free(records, count);
}

static void measure(struct keeper *k, unsigned lookups, bool open)
{
    uint64_t *took = calloc(lookups, sizeof(*took));
    if (!took)
        check(-ENOMEM, "times");
    for (unsigned i = 0; i < lookups; i++) {
        unsigned number = (unsigned)(((uint64_t)i * 2654435761u + 12345) % REAL);
        uint64_t start = now_ns();
        look_up(k, number, open);
        took[i] = now_ns() - start;
    }
    qsort(took, lookups, sizeof(*took), by_size);
    printf("%s %.1f %.1f\n", open ? "open" : "find", (double)took[lookups / 2] / 1e3,
           (double)took[lookups - 1 - lookups / 100] / 1e3);
    free(took);
}

/* The smallest request that makes a keystore. */
static void init(struct keeper *k)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__InitRequest ask = SP__INIT_REQUEST__INIT;
    Sp__KeeperResponse *answer = NULL;
    struct sp_secret *reply = NULL;
    uint8_t reply_public[32];
    EVP_PKEY *key = sp_key_new();
    size_t size = 0;
    check(sp_box_keypair(&reply, reply_public), "key");
    check(sp_csr_make(key, "bench", &ask.controller_csr.data, &size), "request");
    ask.controller_csr.len = size;
    ask.user_csr = ask.controller_csr;
    ask.domain = (char[]){"bench"};
    ask.controller_name = (char[]){"bench"};
    ask.user_name = (char[]){"bench"};
    ask.reply_key = (ProtobufCBinaryData){32, reply_public};
    request.kind_case = SP__KEEPER_REQUEST__KIND_INIT;
    request.init = &ask;
    check(keeper_handle(k, &request, -1, &answer), "init");
    check(-answer->error, answer->text);
    sp__keeper_response__free_unpacked(answer, NULL);
    free(ask.controller_csr.data);
    EVP_PKEY_free(key);
    sp_secret_free(reply);
}

int main(int argc, char **argv)
{
    if (argc != 4 || strtoul(argv[2], NULL, 10) < REAL)
        return 2;
    unsigned records = (unsigned)strtoul(argv[2], NULL, 10),
             lookups = (unsigned)strtoul(argv[3], NULL, 10);
    char passphrase[300], state[300];
    struct sp_why why = {""};
    struct keeper *k = NULL;
    snprintf(passphrase, sizeof(passphrase), "%.200s/passphrase", argv[1]);
    snprintf(state, sizeof(state), "%.200s/state", argv[1]);
    check(sp_file_replace(passphrase, "bench", 5, 0600), passphrase);
    struct keeper_options options = {
        .state = state, .prover = "/nonexistent", .keks = {.passphrase_file = passphrase}};
    check(keeper_open(&options, &k, &why), why.text);
    init(k);
    fill(k, records);
    measure(k, lookups, false);
    measure(k, lookups, true);
    keeper_close(k);
    return 0;
}
