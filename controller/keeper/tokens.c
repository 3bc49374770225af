/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/keeper/tokens.h"

#include "base/sealed_box.h"
#include "controller/keeper/journal.h"
#include "controller/keeper/keeper.h"
#include "controller/keeper/message.h"
#include "controller/keeper/wrap.h"
#include <arpa/inet.h>
#include <fnmatch.h>
#include <string.h>

enum { TOKEN_SECRET_BYTES = 32, TOKEN_MACHINES_MOST = 100000 };
static const uint64_t token_longest_ms = 366ull * 24 * 3600 * 1000;

void token_clear(struct token *t)
{
    if (t->spec)
        sp__token_spec__free_unpacked(t->spec, NULL);
    sp_secret_free(t->secret);
    memset(t, 0, sizeof(*t));
}

/* ---- networks ---- */

/* The bare address in "1.2.3.4:5", "[::1]:5", "ipv4:1.2.3.4:5", "ipv6:%5B::1%5D:5", "1.2.3.4",
 * "::1". */
static int parse_address(const char *text, uint8_t out[16], int *ret_family)
{
    char bare[INET6_ADDRSTRLEN + 1] = "";
    if (strncmp(text, "ipv4:", 5) == 0 || strncmp(text, "ipv6:", 5) == 0)
        text += 5;
    const char *open = *text == '[' ? text + 1 : strncmp(text, "%5B", 3) == 0 ? text + 3 : NULL;
    const char *first = strchr(text, ':');
    size_t length = open ? strcspn(open, "]%") : strlen(text);
    if (!open && first && !strchr(first + 1, ':'))
        length = (size_t)(first - text); /* one colon: a port */
    if (length >= sizeof(bare))
        return -EINVAL;
    memcpy(bare, open ? open : text, length);
    *ret_family = strchr(bare, ':') ? AF_INET6 : AF_INET;
    if (inet_pton(*ret_family, bare, out) != 1)
        return -EINVAL;
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    if (*ret_family == AF_INET6 && memcmp(out, mapped, 12) == 0) {
        memmove(out, out + 12, 4); /* an IPv4 peer of a [::] socket */
        *ret_family = AF_INET;
    }
    return 0;
}

static int parse_network(const char *network, uint8_t out[16], int *ret_family, unsigned *ret_bits)
{
    char text[64], *slash, *end = NULL;
    if (strlen(network) >= sizeof(text))
        return -EINVAL;
    strcpy(text, network);
    if ((slash = strchr(text, '/')))
        *slash = 0;
    *ret_family = strchr(text, ':') ? AF_INET6 : AF_INET;
    if (inet_pton(*ret_family, text, out) != 1)
        return -EINVAL;
    unsigned most = *ret_family == AF_INET ? 32 : 128;
    unsigned long bits = most;
    if (slash) {
        bits = slash[1] >= '0' && slash[1] <= '9' ? strtoul(slash + 1, &end, 10) : most + 1;
        if (bits > most || (end && *end))
            return -EINVAL;
    }
    *ret_bits = (unsigned)bits;
    return 0;
}

int token_network_holds(const char *network, const char *address)
{
    uint8_t net[16], host[16];
    int net_family, host_family;
    unsigned bits;
    int r = parse_network(network, net, &net_family, &bits);
    if (r < 0)
        return r;
    if (parse_address(address, host, &host_family) < 0 || host_family != net_family)
        return 0;
    if (memcmp(net, host, bits / 8) != 0)
        return 0;
    unsigned rest = bits % 8;
    return rest == 0 || (net[bits / 8] ^ host[bits / 8]) >> (8 - rest) == 0;
}

/* ---- create ---- */

static int check_spec(struct keeper *k, const Sp__TokenSpec *spec, struct sp_why *why)
{
    uint64_t now = keeper_now_ms(k);
    if (spec->reply_key.len != SP_BOX_KEY_BYTES)
        return sp_why_set(why, -EINVAL, "the key to seal the token to is not 32 bytes");
    if (spec->expires_unix_ms <= now || spec->expires_unix_ms - now > token_longest_ms)
        return sp_why_set(why, -EINVAL, "a token expires within a year from now");
    if (spec->count > TOKEN_MACHINES_MOST)
        return sp_why_set(why, -EINVAL, "a token is for at most %d machines", TOKEN_MACHINES_MOST);
    if ((spec->machine_name[0] || spec->machine_id[0]) && spec->count > 1)
        return sp_why_set(why, -EINVAL, "a token for one machine is used once");
    if (spec->machine_id[0] && !sp_uuid_valid(spec->machine_id))
        return sp_why_set(why, -EINVAL, "'%.60s' is no machine id", spec->machine_id);
    if (spec->network[0] && token_network_holds(spec->network, "0.0.0.0") < 0)
        return sp_why_set(why, -EINVAL, "'%.60s' is no network: write 10.1.0.0/16", spec->network);
    if (strlen(spec->machine_name) > 120 || strlen(spec->group) > 120 ||
        strlen(spec->name_pattern) > 120)
        return sp_why_set(why, -EINVAL, "names of machines and groups have at most 120 characters");
    return 0;
}

static int token_aad(struct sp_buffer *out, const char *token_id)
{
    return aead_bind(out, "sealpoint token 1", token_id, NULL);
}

/* "sealpoint-token-1:<id>:<base64url>", in secret memory. */
static int token_text(const char *token_id, const struct sp_secret *secret, struct sp_secret **ret)
{
    char *encoded = sp_base64url(sp_secret_data(secret), sp_secret_size(secret));
    SP_SECRET struct sp_secret *out = sp_secret_new(160);
    int r = encoded && out ? 0 : -ENOMEM;
    if (r == 0) {
        snprintf((char *)sp_secret_data(out), 160, "sealpoint-token-1:%s:%s", token_id, encoded);
        *ret = sp_steal(out);
    }
    if (encoded)
        sp_wipe(encoded, strlen(encoded));
    free(encoded);
    return r;
}

static int seal_token(const Sp__TokenSpec *spec, const char *token_id,
                      const struct sp_secret *secret, Sp__SealedBox **ret)
{
    SP_SECRET struct sp_secret *text = NULL, *packed = NULL;
    SP_BUFFER struct sp_buffer aad = {0};
    Sp__EnrolmentToken token = SP__ENROLMENT_TOKEN__INIT;

    int r = token_text(token_id, secret, &text);
    if (r == 0)
        r = sp_token_aad(&aad, token_id);
    if (r < 0)
        return r;
    token.token_id = (char *)(uintptr_t)token_id;
    token.secret = (ProtobufCBinaryData){sp_secret_size(secret), sp_secret_data(secret)};
    token.text = (char *)sp_secret_data(text);
    packed = sp_secret_new(sp__enrolment_token__get_packed_size(&token));
    if (!packed)
        return -ENOMEM;
    sp__enrolment_token__pack(&token, sp_secret_data(packed));
    return sp_box_seal(spec->reply_key.data, aad.data, aad.size, sp_secret_data(packed),
                       sp_secret_size(packed), ret);
}

static int insert_token(struct keeper *k, const Sp__TokenSpec *spec, const char *token_id,
                        const char *by, const struct sp_secret *secret)
{
    SP_BUFFER struct sp_buffer aad = {0};
    SP_FREE uint8_t *packed = NULL;
    WRAPPED struct wrapped w = {0};
    size_t size = 0;
    Sp__TokenSpec kept = *spec;

    kept.reply_key = (ProtobufCBinaryData){0, NULL};
    kept.count = spec->count ? spec->count : 1;
    int r = token_aad(&aad, token_id);
    if (r == 0)
        r = wrap_seal(k, sp_bytes_of(&aad), secret, &w);
    if (r == 0)
        r = sp_pack(&kept.base, &packed, &size);
    if (r == 0)
        r = store_run(k->store, "INSERT INTO tokens VALUES(?,?,0,0,?,?,?,?,?)", "sbissbb", token_id,
                      packed, size, (int64_t)keeper_now_ms(k), by, w.dek_id, w.nonce,
                      sizeof(w.nonce), w.ciphertext.data, w.ciphertext.size);
    return r < 0 ? r : journal_note(k, "tokens", token_id);
}

int token_create(struct keeper *k, const Sp__TokenSpec *spec, const char *by,
                 Sp__CreateTokenResponse *out, struct sp_why *why)
{
    SP_SECRET struct sp_secret *secret = sp_secret_new(TOKEN_SECRET_BYTES);
    char token_id[37];

    int r = check_spec(k, spec, why);
    if (r == 0)
        r = secret ? sp_random(sp_secret_data(secret), TOKEN_SECRET_BYTES) : -ENOMEM;
    if (r == 0)
        r = sp_uuid_make(token_id);
    if (r == 0)
        r = insert_token(k, spec, token_id, by, secret);
    if (r == 0)
        r = message_text(&out->token_id, token_id);
    return r < 0 ? r : seal_token(spec, token_id, secret, &out->token);
}

/* ---- use ---- */

int token_load(struct keeper *k, const char *token_id, bool with_secret, struct token *ret)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    SP_BUFFER struct sp_buffer aad = {0};
    TOKEN struct token t = {0};

    int r = store_query(k->store, &stmt,
                        "SELECT spec, used, revoked, dek_id, nonce, ciphertext FROM tokens "
                        "WHERE token_id=?",
                        "s", token_id);
    if (r == 0)
        r = store_step(stmt);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    struct sp_bytes spec = store_blob(stmt, 0);
    t.spec = sp__token_spec__unpack(NULL, spec.size, spec.data);
    if (!t.spec)
        return -EUCLEAN;
    snprintf(t.token_id, sizeof(t.token_id), "%s", token_id);
    t.used = (uint32_t)store_int(stmt, 1);
    t.revoked = store_int(stmt, 2) != 0;
    r = with_secret ? token_aad(&aad, token_id) : 0;
    if (r == 0 && with_secret)
        r = wrap_open(k, store_text(stmt, 3), store_blob(stmt, 4), sp_bytes_of(&aad),
                      store_blob(stmt, 5), &t.secret);
    if (r < 0)
        return r;
    *ret = t;
    t = (struct token){0};
    return 0;
}

int token_revoke(struct keeper *k, const char *token_id)
{
    int r = store_run(k->store, "UPDATE tokens SET revoked=1 WHERE token_id=?", "s", token_id);
    return r < 0 ? r : journal_note(k, "tokens", token_id);
}

int token_count_use(struct keeper *k, const char *token_id)
{
    int r = store_run(k->store, "UPDATE tokens SET used=used+1 WHERE token_id=?", "s", token_id);
    return r < 0 ? r : journal_note(k, "tokens", token_id);
}

int token_check(struct keeper *k, const struct token *t, const char *machine_name,
                const char *address, struct sp_why *why)
{
    const Sp__TokenSpec *spec = t->spec;
    char when[24];
    if (t->revoked)
        return sp_why_set(why, -EKEYREJECTED, "this enrolment token was revoked");
    if (keeper_now_ms(k) >= spec->expires_unix_ms)
        return sp_why_set(why, -EKEYREJECTED, "this enrolment token expired at %s",
                          sp_time_text(spec->expires_unix_ms, when));
    if (t->used >= spec->count)
        return sp_why_set(
            why, -EKEYREJECTED,
            "this enrolment token is used up: %u of %u machines have enrolled with it", t->used,
            spec->count);
    if (spec->machine_name[0] && strcmp(spec->machine_name, machine_name) != 0)
        return sp_why_set(why, -ESTALE,
                          "this enrolment token is for the machine '%.120s', not for '%.120s'",
                          spec->machine_name, machine_name);
    if (spec->name_pattern[0] && fnmatch(spec->name_pattern, machine_name, FNM_NOESCAPE) != 0)
        return sp_why_set(why, -ESTALE,
                          "this enrolment token is for machines named '%.120s'; '%.120s' is not",
                          spec->name_pattern, machine_name);
    if (spec->network[0] && token_network_holds(spec->network, address) <= 0)
        return sp_why_set(why, -ESTALE,
                          "this enrolment token is for machines in %.60s; %.80s is not in it",
                          spec->network, *address ? address : "(unknown)");
    return 0;
}

/* ---- list ---- */

static int fill_info(sqlite3_stmt *stmt, Sp__TokenInfo *info)
{
    struct sp_bytes packed = store_blob(stmt, 1);
    Sp__TokenSpec *spec = sp__token_spec__unpack(NULL, packed.size, packed.data);
    if (!spec)
        return -EUCLEAN;
    info->count = spec->count;
    info->used = (uint32_t)store_int(stmt, 2);
    info->revoked = store_int(stmt, 3) != 0;
    info->expires_unix_ms = spec->expires_unix_ms;
    int r = message_text(&info->token_id, store_text(stmt, 0));
    if (r == 0)
        r = message_text(&info->created_by, store_text(stmt, 4));
    if (r == 0)
        r = message_text(&info->machine_name, spec->machine_name);
    if (r == 0)
        r = message_text(&info->group, spec->group);
    sp__token_spec__free_unpacked(spec, NULL);
    return r;
}

int keeper_list_tokens(struct keeper *k, const Sp__KeeperRequest *request, int fd,
                       Sp__KeeperResponse *out, struct sp_why *why)
{
    SP_STMT sqlite3_stmt *stmt = NULL;
    (void)request, (void)fd, (void)why;

    Sp__ListTokensResponse *list =
        MESSAGE_NEW(Sp__ListTokensResponse, sp__list_tokens_response__init);
    if (!list)
        return -ENOMEM;
    out->kind_case = SP__KEEPER_RESPONSE__KIND_LIST_TOKENS;
    out->list_tokens = list;
    int r = store_query(k->store, &stmt,
                        "SELECT token_id, spec, used, revoked, created_by FROM tokens "
                        "ORDER BY created_ms, token_id",
                        "");
    while (r == 0 && (r = store_step(stmt)) == 1) {
        Sp__TokenInfo *info = MESSAGE_NEW(Sp__TokenInfo, sp__token_info__init);
        r = info ? MESSAGE_ROOM(list->tokens, list->n_tokens) : -ENOMEM;
        if (r < 0) {
            free(info);
            return r;
        }
        list->tokens[list->n_tokens++] = info;
        r = fill_info(stmt, info);
    }
    return r;
}
