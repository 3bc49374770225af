/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/init.h"
#include "base/file.h"
#include "base/identity.h"
#include "base/sealed_box.h"
#include "controller/keeper/keeper_client.h"
#include "controller/message.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

enum { INIT_TIMEOUT_MS = 120000, KIT_BYTES = 32 };

/* ---- files ---- */

/* Files of the state folder belong to whoever the folder belongs to: root runs init, the daemon has
 * a user of its own. */
int init_own(const char *directory, const char *path)
{
    struct stat s;
    if (geteuid() != 0)
        return 0;
    if (stat(directory, &s) < 0 || lchown(path, s.st_uid, s.st_gid) < 0)
        return -errno;
    return 0;
}

static int put(const char *directory, const char *name, const void *data, size_t size, mode_t mode,
               struct sp_why *why)
{
    char *path SP_FREE = sp_format("%s/%s", directory, name);
    int r = path ? sp_file_replace(path, data, size, mode) : -ENOMEM;
    if (r == 0)
        r = init_own(directory, path);
    return r < 0 ? sp_why_set(why, r, "cannot write %s/%s: %s", directory, name, strerror(-r)) : 0;
}

static int put_key(const char *directory, const char *name, EVP_PKEY *key, struct sp_why *why)
{
    char *path SP_FREE = sp_format("%s/%s", directory, name);
    int r = path ? sp_key_save(path, key) : -ENOMEM;
    if (r == 0)
        r = init_own(directory, path);
    return r < 0 ? sp_why_set(why, r, "cannot write %s/%s: %s", directory, name, strerror(-r)) : 0;
}

static int make_folder(const char *path, struct sp_why *why)
{
    int r = sp_make_directories(path, 0700);
    return r < 0 ? sp_why_set(why, r, "cannot make the folder %s: %s", path, strerror(-r)) : 0;
}

static int refuse_if_there(const char *directory, const char *name, struct sp_why *why)
{
    char *path SP_FREE = sp_format("%s/%s", directory, name);
    if (!path)
        return -ENOMEM;
    return access(path, F_OK) == 0
               ? sp_why_set(why, -EEXIST, "%s is there already: this was initialised before", path)
               : 0;
}

/* ---- what is printed ---- */

static int print_kit(const char *domain, const struct sp_secret *private_key,
                     const Sp__SealedBox *box, struct sp_why *why)
{
    struct sp_buffer aad SP_BUFFER = {0};
    struct sp_secret *kit SP_SECRET = NULL;
    int r = sp_kit_aad(&aad, domain);
    if (r == 0)
        r = sp_box_open(private_key, aad.data, aad.size, box, &kit);
    if (r == 0 && sp_secret_size(kit) != KIT_BYTES)
        r = -EBADMSG;
    if (r < 0)
        return sp_why_set(why, r, "the recovery kit from the keeper cannot be opened");
    static const char prefix[] = "recovery kit: sealpoint-kit-1:";
    char *text = sp_base64url(sp_secret_data(kit), KIT_BYTES);
    if (!text)
        return -ENOMEM;
    r = sp_write_all(STDOUT_FILENO, prefix, sizeof(prefix) - 1);
    if (r == 0)
        r = sp_write_all(STDOUT_FILENO, text, strlen(text));
    if (r == 0)
        r = sp_write_all(STDOUT_FILENO, "\n", 1);
    sp_wipe(text, strlen(text));
    free(text);
    return r;
}

/* ---- asking the keeper ---- */

struct init_material {
    EVP_PKEY *controller, *user;
    uint8_t *controller_csr, *user_csr;
    size_t controller_csr_size, user_csr_size;
    struct sp_secret *box_private;
    uint8_t box_public[SP_BOX_KEY_BYTES];
};

void init_material_free(struct init_material *m)
{
    if (!m)
        return;
    EVP_PKEY_free(m->controller);
    EVP_PKEY_free(m->user);
    free(m->controller_csr);
    free(m->user_csr);
    sp_secret_free(m->box_private);
    free(m);
}

ProtobufCBinaryData init_controller_csr(const struct init_material *m)
{
    return (ProtobufCBinaryData){m->controller_csr_size, m->controller_csr};
}

ProtobufCBinaryData init_user_csr(const struct init_material *m)
{
    return (ProtobufCBinaryData){m->user_csr_size, m->user_csr};
}

static int make_material(const struct init_options *o, struct init_material *m)
{
    m->controller = sp_key_new();
    m->user = sp_key_new();
    int r = m->controller && m->user ? 0 : -EIO;
    if (r == 0)
        r = sp_csr_make(m->controller, o->name, &m->controller_csr, &m->controller_csr_size);
    if (r == 0)
        r = sp_csr_make(m->user, o->user, &m->user_csr, &m->user_csr_size);
    return r < 0 ? r : sp_box_keypair(&m->box_private, m->box_public);
}

static int ask(const struct controller_config *c, const struct init_options *o,
               const struct init_material *m, Sp__KeeperResponse **ret, struct sp_why *why)
{
    struct keeper_client *keeper = NULL;
    Sp__InitRequest init = SP__INIT_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    init.domain = (char *)o->domain;
    init.controller_name = (char *)o->name;
    init.controller_csr = (ProtobufCBinaryData){m->controller_csr_size, m->controller_csr};
    init.controller_hosts = o->hosts;
    init.n_controller_hosts = o->host_count;
    init.user_name = (char *)o->user;
    init.user_csr = (ProtobufCBinaryData){m->user_csr_size, m->user_csr};
    init.reply_key = (ProtobufCBinaryData){sizeof(m->box_public), (uint8_t *)m->box_public};
    request.kind_case = SP__KEEPER_REQUEST__KIND_INIT;
    request.init = &init;
    int r = keeper_client_new(c->keeper_socket, &keeper);
    if (r == 0)
        r = keeper_call(keeper, &request, -1, INIT_TIMEOUT_MS, ret, why);
    keeper_client_free(keeper);
    if (r < 0 && (!*why->text || access(c->keeper_socket, F_OK) < 0))
        sp_why_set(why, r, "the keeper does not answer on %s: start sealpoint-keeper first",
                   c->keeper_socket);
    if (r == 0 &&
        ((*ret)->kind_case != SP__KEEPER_RESPONSE__KIND_INIT || !(*ret)->init->recovery_kit)) {
        message_free(*ret);
        *ret = NULL;
        r = sp_why_set(why, -EPROTO, "the keeper's answer made no sense");
    }
    return r;
}

/* "[::]:9443" listens everywhere; a client on this host dials the loopback. */
static int write_client_conf(const struct controller_config *c, const struct init_options *o,
                             struct sp_why *why)
{
    const char *port = strrchr(c->listen, ':');
    const char *host = o->host_count ? o->hosts[0] : "127.0.0.1";
    bool v6 = strchr(host, ':') != NULL;
    char *text SP_FREE = sp_format("[client]\ncontroller = %s%s%s:%s\ndomain = %s\n", v6 ? "[" : "",
                                   host, v6 ? "]" : "", port ? port + 1 : "9443", o->domain);
    return text ? put(o->profile, "client.conf", text, strlen(text), 0644, why) : -ENOMEM;
}

static int write_all(const struct controller_config *c, const struct init_options *o,
                     const Sp__InitResponse *got, struct sp_why *why)
{
    int r = put(c->state, "trust.pem", got->trust_bundle.data, got->trust_bundle.len, 0644, why);
    if (r == 0)
        r = put(c->state, "domain", o->domain, strlen(o->domain), 0644, why);
    if (r == 0)
        r = put(o->profile, "trust.pem", got->trust_bundle.data, got->trust_bundle.len, 0644, why);
    if (r == 0)
        r = put(o->profile, "user.pem", got->user_chain.data, got->user_chain.len, 0644, why);
    if (r == 0)
        r = write_client_conf(c, o, why);
    /* Last: its presence says that the rest is there. */
    if (r == 0)
        r = put(c->state, "controller.pem", got->controller_chain.data, got->controller_chain.len,
                0644, why);
    return r;
}

int init_prepare(const struct controller_config *c, const struct init_options *o,
                 struct init_material **ret, struct sp_why *why)
{
    struct init_material *m = *ret = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    int r = refuse_if_there(c->state, "controller.pem", why);
    if (r == 0)
        r = refuse_if_there(o->profile, "user.pem", why);
    if (r == 0)
        r = make_folder(c->state, why);
    if (r == 0)
        r = make_folder(o->profile, why);
    if (r == 0 && (r = make_material(o, m)) < 0)
        sp_why_set(why, r, "keys cannot be made: %s", strerror(-r));
    if (r == 0)
        r = put_key(c->state, "controller.key", m->controller, why);
    if (r == 0)
        r = put_key(o->profile, "user.key", m->user, why);
    return r;
}

int init_write(const struct controller_config *c, const struct init_options *o,
               const Sp__InitResponse *got, struct sp_why *why)
{
    char *line SP_FREE = sp_format("CA fingerprint: %s\n", got->ca_fingerprint);
    int r = line ? sp_write_all(STDOUT_FILENO, line, strlen(line)) : -ENOMEM;
    return r < 0 ? r : write_all(c, o, got, why);
}

int init_run(const struct controller_config *c, const struct init_options *o, struct sp_why *why)
{
    struct init_material *m = NULL;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    int r = init_prepare(c, o, &m, why);
    if (r == 0)
        r = ask(c, o, m, &response, why);
    /* The kit first: everything else can be had again, it cannot. */
    if (r == 0)
        r = print_kit(o->domain, m->box_private, response->init->recovery_kit, why);
    if (r == 0)
        r = init_write(c, o, response->init, why);
    init_material_free(m);
    return r;
}
