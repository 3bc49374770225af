/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * KMIP servers (CloudLink, the HSM vendors), versions 1.0 to 1.4:
 *
 *   Discover Versions    the highest that both know
 *   Locate               objects by Name, or by an attribute of the admin's own
 *   Get Attributes       what it is, and its state: only Active counts. Servers hand out
 *                        deactivated and compromised keys too
 *   Get                  the key itself
 *   Register, Activate   a canary, when an admin wants one made
 *
 * A unique identifier never gets another value, so it is locator and version of what a point rests
 * on. To whom an object is not shown Locate answers with success and nothing, so nothing is absent
 * only while the canary can be read. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "controller/keeper/providers/kmip_link.h"
#include "controller/keeper/providers/kmip_message.h"
#include "controller/keeper/providers/provider.h"
#include <string.h>

#define TYPE      "kmip"
#define STAGE(x)  SP__PROVIDER_STAGE__PROVIDER_STAGE_##x
#define SECRET(x) SP__SECRET_TYPE__SECRET_TYPE_##x
#define VOLUME(x) SP__VOLUME_KIND__VOLUME_KIND_##x

enum { PORT = 5696, KEY_FILE_MOST = 16384, CANARY_BYTES = 32, ATTRIBUTE_MOST = 64 };

struct kmip {
    char *host, *ca_file, *certificate_file, *key_file, *credential, *attribute, *value, *key_type,
        *canary;
    uint64_t port;
};

static const struct sp_config_option options[] = {
    {TYPE, "host", SP_CONFIG_TEXT, offsetof(struct kmip, host), 0, 0},
    {TYPE, "port", SP_CONFIG_NUMBER, offsetof(struct kmip, port), 1, 65535},
    {TYPE, "ca_file", SP_CONFIG_TEXT, offsetof(struct kmip, ca_file), 0, 0},
    {TYPE, "certificate_file", SP_CONFIG_TEXT, offsetof(struct kmip, certificate_file), 0, 0},
    {TYPE, "key_file", SP_CONFIG_TEXT, offsetof(struct kmip, key_file), 0, 0},
    {TYPE, "credential", SP_CONFIG_TEXT, offsetof(struct kmip, credential), 0, 0},
    {TYPE, "attribute", SP_CONFIG_TEXT, offsetof(struct kmip, attribute), 0, 0},
    {TYPE, "value", SP_CONFIG_TEXT, offsetof(struct kmip, value), 0, 0},
    {TYPE, "key_type", SP_CONFIG_TEXT, offsetof(struct kmip, key_type), 0, 0},
    {TYPE, "canary", SP_CONFIG_TEXT, offsetof(struct kmip, canary), 0, 0},
    {NULL, NULL, SP_CONFIG_TEXT, 0, 0, 0},
};

static bool is_set(const char *text)
{
    return text && *text;
}

static const char *or_else(const char *text, const char *otherwise)
{
    return is_set(text) ? text : otherwise;
}

/* ---- what a key is ---- */

static const struct {
    const char *name;
    Sp__SecretType type;
    bool luks, bitlocker;
} key_types[] = {
    {"passphrase", SECRET(PASSPHRASE), true, true},
    {"key-file", SECRET(KEY_FILE), true, false},
    {"volume-key", SECRET(VOLUME_KEY), true, false},
    {"recovery-password", SECRET(RECOVERY_PASSWORD), false, true},
    {"startup-key", SECRET(STARTUP_KEY), false, true},
};

/* What keeper.conf says; unspecified: the object's type decides. */
static bool type_configured(const struct kmip *k, size_t *ret)
{
    for (*ret = 0; *ret < SP_COUNT(key_types); (*ret)++)
        if (strcmp(or_else(k->key_type, ""), key_types[*ret].name) == 0)
            return true;
    return false;
}

/* Unspecified: no key of such a volume. */
static Sp__SecretType type_of(const struct kmip *k, uint32_t object, bool bitlocker)
{
    size_t i;
    if (object != KMIP_SECRET_DATA && object != KMIP_SYMMETRIC_KEY && object != KMIP_OPAQUE_OBJECT)
        return SECRET(UNSPECIFIED);
    if (type_configured(k, &i))
        return key_types[i].type;
    if (object == KMIP_SECRET_DATA)
        return SECRET(PASSPHRASE);
    if (object == KMIP_SYMMETRIC_KEY)
        return bitlocker ? SECRET(UNSPECIFIED) : SECRET(VOLUME_KEY);
    return bitlocker ? SECRET(STARTUP_KEY) : SECRET(KEY_FILE);
}

static bool is_bitlocker(const Sp__Volume *v)
{
    return v->kind == VOLUME(BITLOCKER);
}

static bool serves(const struct provider *p, const Sp__Volume *v)
{
    size_t i;
    bool luks = v->kind == VOLUME(LUKS1) || v->kind == VOLUME(LUKS2);
    if (!type_configured(p->settings, &i))
        return luks || is_bitlocker(v);
    return (luks && key_types[i].luks) || (is_bitlocker(v) && key_types[i].bitlocker);
}

static int check(const struct provider *p, struct sp_why *why)
{
    struct kmip *k = p->settings;
    size_t i;
    if (!is_set(k->host))
        return sp_why_set(why, -EINVAL, "host is needed: the name in the server's certificate");
    if (!is_set(k->certificate_file))
        return sp_why_set(why, -EINVAL,
                          "certificate_file is needed: the client certificate by which the server "
                          "knows the keeper");
    if (is_set(k->key_file) == is_set(k->credential))
        return sp_why_set(why, -EINVAL,
                          "the key of certificate_file comes from key_file or from credential: set "
                          "one of them");
    if (is_set(k->key_type) && !type_configured(k, &i))
        return sp_why_set(why, -EINVAL,
                          "key_type is passphrase, key-file, volume-key, recovery-password or "
                          "startup-key; without it the type of the object decides");
    const char *attribute = or_else(k->attribute, "Name");
    if (strcmp(attribute, "Name") != 0 &&
        (strncmp(attribute, "x-", 2) != 0 || strlen(attribute) > ATTRIBUTE_MOST))
        return sp_why_set(why, -EINVAL,
                          "attribute is Name, or an attribute of your own, whose name begins with "
                          "x-");
    return 0;
}

/* ---- one connection ---- */

struct session {
    struct kmip_link *link;
    unsigned minor;
    uint64_t number; /* of questions so far */
    provider_stage *stage;
    struct sp_why *why;
};

/* One question and its answer. */
struct exchange {
    struct kmip_ask ask;
    struct ttlv_writer w;
    struct sp_secret *request, *answer;
    struct ttlv_item payload; /* of answer */
    uint32_t reason;
};

static void exchange_clear(struct exchange *e)
{
    sp_secret_free(e->request);
    sp_secret_free(e->answer);
}
#define EXCHANGE __attribute__((cleanup(exchange_clear))) struct exchange

static void session_end(struct session *s)
{
    kmip_link_close(s->link);
}
#define SESSION __attribute__((cleanup(session_end))) struct session

static int begin(struct session *s, struct exchange *e, enum kmip_operation operation)
{
    *e = (struct exchange){.ask = {operation, s->minor, ++s->number}};
    e->request = sp_secret_new(KMIP_REQUEST_MOST);
    if (!e->request)
        return -ENOMEM;
    e->w = (struct ttlv_writer){.data = sp_secret_data(e->request), .capacity = KMIP_REQUEST_MOST};
    kmip_request_begin(&e->w, &e->ask);
    return 0;
}

static int ask(struct session *s, struct exchange *e)
{
    if (!kmip_request_end(&e->w))
        return sp_why_set(s->why, -EINVAL,
                          "what is looked for at the server has far too long a "
                          "name");
    int r = kmip_link_ask(s->link, (struct sp_bytes){e->w.data, e->w.size}, &e->answer, s->stage,
                          s->why);
    if (r < 0)
        return r;
    const struct sp_bytes message = {sp_secret_data(e->answer), sp_secret_size(e->answer)};
    r = kmip_answer(message, &e->ask, &e->payload, &e->reason, s->why);
    if (r < 0 && kmip_is_log_on(e->reason))
        *s->stage = STAGE(AUTHENTICATION);
    return r;
}

/* A server of version 1.0 knows neither the operation nor the version that it came with. */
static int agree(struct session *s)
{
    EXCHANGE e = {0};
    s->minor = KMIP_MINOR_FIRST;
    int r = begin(s, &e, KMIP_DISCOVER_VERSIONS);
    if (r < 0)
        return r;
    kmip_put_versions(&e.w);
    r = ask(s, &e);
    if (r < 0 && kmip_is_old(e.reason)) {
        s->minor = 0;
        return 0;
    }
    return r < 0 ? r : kmip_read_versions(&e.payload, &s->minor, s->why);
}

static int connect_to(const struct provider *p, struct session *s, provider_stage *stage,
                      struct sp_why *why)
{
    const struct kmip *k = p->settings;
    SP_SECRET struct sp_secret *key = NULL;
    const struct kmip_link_options o = {.host = k->host,
                                        .port = (uint16_t)(k->port ? k->port : PORT),
                                        .ca_file = k->ca_file,
                                        .certificate_file = k->certificate_file,
                                        .timeout_ms = p->timeout_ms};
    *s = (struct session){.stage = stage, .why = why};
    *stage = STAGE(CONNECTION);
    int r = kmip_link_open(&o, &s->link, why);
    if (r < 0)
        return r;
    *stage = STAGE(TLS);
    r = provider_secret("private key", k->key_file, k->credential, KEY_FILE_MOST, &key, why);
    if (r == 0)
        r = kmip_link_secure(s->link, &o, key, stage, why);
    if (r == 0)
        r = agree(s);
    if (r == 0)
        *stage = STAGE(PERMISSION);
    return r;
}

/* ---- one object ---- */

static int locate(struct session *s, const char *attribute, const char *value, struct kmip_ids *ret)
{
    EXCHANGE e = {0};
    int r = begin(s, &e, KMIP_LOCATE);
    if (r < 0)
        return r;
    kmip_put_locate(&e.w, attribute, value);
    r = ask(s, &e);
    return r < 0 ? r : kmip_read_located(&e.payload, ret, s->why);
}

static int attributes(struct session *s, const char *id, uint32_t *ret_object, uint32_t *ret_state)
{
    EXCHANGE e = {0};
    int r = begin(s, &e, KMIP_GET_ATTRIBUTES);
    if (r < 0)
        return r;
    kmip_put_get_attributes(&e.w, id);
    r = ask(s, &e);
    return r < 0 ? r : kmip_read_attributes(&e.payload, id, ret_object, ret_state, s->why);
}

/* Opaque objects have no state: they are as long as they are there. */
static int check_state(const char *id, uint32_t object, uint32_t state, struct sp_why *why)
{
    if (state == KMIP_ACTIVE || (object == KMIP_OPAQUE_OBJECT && state == KMIP_STATE_NONE))
        return 0;
    return sp_why_set(why, -EKEYEXPIRED, "the object %s is %s: %s", id, kmip_state_name(state),
                      state == KMIP_PRE_ACTIVE
                          ? "activate it at the server (operation Activate)"
                          : "only an Active key is kept for the future, register one that is");
}

static int get(struct session *s, const char *id, struct sp_secret **ret)
{
    EXCHANGE e = {0};
    uint32_t object = 0, state = 0;
    int r = attributes(s, id, &object, &state);
    if (r == 0)
        r = check_state(id, object, state, s->why);
    if (r == 0)
        r = begin(s, &e, KMIP_GET);
    if (r < 0)
        return r;
    kmip_put_id(&e.w, id);
    r = ask(s, &e);
    return r < 0 ? r : kmip_read_key(&e.payload, id, object, PROVIDER_SECRET_MOST, ret, s->why);
}

/* ---- canary ---- */

static int try_canary(struct session *s, const struct kmip *k)
{
    SP_SECRET struct sp_secret *secret = NULL;
    struct kmip_ids found;
    *s->stage = STAGE(PERMISSION);
    if (!is_set(k->canary))
        return sp_why_set(
            s->why, -EACCES,
            "no canary is configured, and a KMIP server answers 'nothing' also to whom it shows "
            "nothing: set canary to the Name of an object of whoever puts the keys there");
    int r = locate(s, "Name", k->canary, &found);
    if (r == 0 && found.count == 0)
        return sp_why_set(
            s->why, -EACCES,
            "the canary %.100s is not shown: this client certificate may not see "
            "objects of its owner, or it was destroyed: grant the right, name another "
            "one, or 'sealpoint escrow test --make-canary' makes it",
            k->canary);
    if (r < 0)
        return r;
    *s->stage = STAGE(CANARY);
    r = get(s, found.ids[0], &secret);
    return r == -ENOENT ? sp_why_set(s->why, -EACCES,
                                     "the canary %.100s is shown and cannot be read: give this "
                                     "client certificate the right to Get it",
                                     k->canary)
                        : r;
}

static int canary(const struct provider *p, provider_stage *stage, struct sp_why *why)
{
    SESSION s = {0};
    int r = connect_to(p, &s, stage, why);
    return r < 0 ? r : try_canary(&s, p->settings);
}

static int put_canary(struct session *s, const struct kmip *k, char id[KMIP_ID_BYTES])
{
    EXCHANGE e = {0};
    SP_SECRET struct sp_secret *secret = sp_secret_new(CANARY_BYTES);
    int r = secret ? sp_random(sp_secret_data(secret), CANARY_BYTES) : -ENOMEM;
    if (r == 0)
        r = begin(s, &e, KMIP_REGISTER);
    if (r < 0)
        return r;
    kmip_put_register(&e.w, k->canary, secret);
    r = ask(s, &e);
    return r < 0 ? r : kmip_read_id(&e.payload, id, s->why);
}

/* Random bytes, that open nothing. One that is there stays. */
static int make_canary(const struct provider *p, provider_stage *stage, struct sp_why *why)
{
    const struct kmip *k = p->settings;
    char id[KMIP_ID_BYTES], activated[KMIP_ID_BYTES];
    struct kmip_ids found;
    SESSION s = {0};
    EXCHANGE e = {0};
    if (!is_set(k->canary))
        return sp_why_set(why, -EINVAL,
                          "set canary in keeper.conf to the Name that it shall have, for example "
                          "sealpoint-canary");
    int r = connect_to(p, &s, stage, why);
    if (r == 0)
        r = locate(&s, "Name", k->canary, &found);
    if (r < 0 || found.count > 0)
        return r;
    r = put_canary(&s, k, id);
    if (r == 0)
        r = begin(&s, &e, KMIP_ACTIVATE);
    if (r < 0)
        return r;
    kmip_put_id(&e.w, id);
    r = ask(&s, &e);
    if (r == 0)
        r = kmip_read_id(&e.payload, activated, why);
    return r == 0 && strcmp(id, activated) != 0
               ? sp_why_set(why, -EPROTO,
                            "the server activated another object than it was asked to")
               : r;
}

/* ---- lookup and fetch ---- */

/* What is destroyed meanwhile is left out; so is what is no key, with why. */
static int add_found(struct session *s, const struct kmip *k, const Sp__Volume *v, const char *id,
                     struct provider_items *out, bool *ret_unfit)
{
    uint32_t object = 0, state = 0;
    int r = attributes(s, id, &object, &state);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    Sp__SecretType type = type_of(k, object, is_bitlocker(v));
    if (type != SECRET(UNSPECIFIED))
        return provider_items_add(out, id, id, "", type);
    *ret_unfit = true;
    return sp_why_set(s->why, 0,
                      "the object %s of this name is a %s, which is no key of such a volume: keep "
                      "passwords as Secret Data, volume keys as Symmetric Key, files as Opaque "
                      "Object",
                      id, kmip_object_name(object));
}

static int absent(struct session *s, const struct kmip *k, const char *value)
{
    int r = try_canary(s, k);
    return r < 0 ? r
                 : sp_why_set(s->why, -ENOENT, "the server has no object whose %s is %.200s",
                              or_else(k->attribute, "Name"), value);
}

static int append(struct sp_buffer *out, const char *value)
{
    return sp_buffer_append(out, value, strlen(value));
}

static int lookup(const struct provider *p, const struct provider_query *q,
                  struct provider_items *out, provider_stage *stage, struct sp_why *why)
{
    const struct kmip *k = p->settings;
    SP_BUFFER struct sp_buffer value = {0};
    struct kmip_ids found = {.count = 0};
    bool unfit = false;
    SESSION s = {0};
    *stage = STAGE(PERMISSION);
    int r = provider_fill(or_else(k->value, "{volume}"), "value", q, append, &value, why);
    if (r == 0)
        r = connect_to(p, &s, stage, why);
    if (r == 0)
        r = locate(&s, or_else(k->attribute, "Name"), sp_buffer_text(&value), &found);
    for (size_t i = 0; i < found.count && r == 0; i++)
        r = add_found(&s, k, q->volume, found.ids[i], out, &unfit);
    if (r < 0 || out->count > 0)
        return r;
    return unfit ? -EPROTO : absent(&s, k, sp_buffer_text(&value));
}

static int fetch(const struct provider *p, const struct provider_item *item, struct sp_secret **ret,
                 provider_stage *stage, struct sp_why *why)
{
    SESSION s = {0};
    int r = connect_to(p, &s, stage, why);
    if (r == 0)
        r = get(&s, item->locator, ret);
    if (r != -ENOENT)
        return r;
    r = try_canary(&s, p->settings);
    return r < 0 ? r
                 : sp_why_set(why, -ENOENT, "the server has no object %s any more", item->locator);
}

static int recall(const struct provider *p, const Sp__EscrowRecord *e, struct provider_items *out)
{
    (void)p;
    return e->version[0] ? provider_items_add(out, e->version, e->version, "", e->secret_type) : 0;
}

static void describe(const struct provider *p, const struct provider_item *item, char *out,
                     size_t size)
{
    const struct kmip *k = p->settings;
    snprintf(out, size, "object %s at %.100s", item->locator, k->host);
}

const struct provider_type provider_kmip = {.name = TYPE,
                                            .options = options,
                                            .settings_bytes = sizeof(struct kmip),
                                            .check = check,
                                            .serves = serves,
                                            .lookup = lookup,
                                            .fetch = fetch,
                                            .describe = describe,
                                            .recall = recall,
                                            .canary = canary,
                                            .make_canary = make_canary};
