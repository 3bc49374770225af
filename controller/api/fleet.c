/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The Fleet service. */
#include "base/clock.h"
#include "controller/api/api.h"
#include "controller/backup/verdict.h"
#include <fnmatch.h>
#include <string.h>

enum {
    PAGE_DEFAULT = 200,
    PAGE_MAX = 1000,
    NAME_MAX_BYTES = 128,
    POLICY_MAX = 256,
    POLICY_TEXT_MAX = 512
};

struct page {
    struct api *api;
    struct rpc_call *call;
    const Sp__ListMachinesRequest *asked;
    Sp__ListMachinesResponse *response;
    size_t most;
    bool more;
};

static int page_machine(void *arg, Sp__Machine *m)
{
    struct page *p = arg;
    if (!message_empty(p->asked->page_token) && strcmp(m->name, p->asked->page_token) <= 0)
        return 0;
    if (!message_empty(p->asked->name_pattern) && fnmatch(p->asked->name_pattern, m->name, 0) != 0)
        return 0;
    if (!message_empty(p->asked->group) && strcmp(p->asked->group, m->group) != 0)
        return 0;
    if (!api_may_see(p->api, p->call, m->group))
        return 0;
    if (p->response->n_machines == p->most) {
        p->more = true;
        return 1;
    }
    return message_append(&p->response->machines, &p->response->n_machines, message_copy(m));
}

int api_list_machines(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                      ProtobufCMessage **ret, struct sp_why *why)
{
    (void)why;
    const Sp__ListMachinesRequest *asked = (const void *)request;
    struct page p = {.api = api, .call = call, .asked = asked};
    p.most = asked->page_size ? asked->page_size : PAGE_DEFAULT;
    if (p.most > PAGE_MAX)
        p.most = PAGE_MAX;
    p.response = message_new(&sp__list_machines_response__descriptor);
    int r = p.response ? catalog_machine_each(api->catalog, page_machine, &p) : -ENOMEM;
    for (size_t i = 0; r == 0 && i < p.response->n_machines; i++)
        r = api_fill_machine(api, p.response->machines[i]);
    if (r == 0 && p.more)
        r = message_set(&p.response->next_page_token,
                        p.response->machines[p.response->n_machines - 1]->name);
    if (r < 0) {
        message_free(p.response);
        return r;
    }
    *ret = &p.response->base;
    return 0;
}

/* The answer of every method that gives one machine. */
static int give(struct api *api, Sp__Machine *m, int r, ProtobufCMessage **ret)
{
    if (r == 0)
        r = api_fill_machine(api, m);
    if (r < 0) {
        message_free(m);
        return r;
    }
    *ret = &m->base;
    return 0;
}

int api_get_machine(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                    ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__GetMachineRequest *asked = (const void *)request;
    Sp__Machine *m = NULL;
    int r = api_machine(api, call, asked->machine, true, &m, why);
    return give(api, m, r, ret);
}

int api_watch(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
              ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__WatchRequest *asked = (const void *)request;
    Sp__Machine *m = NULL;
    (void)ret;
    if (!message_empty(asked->machine)) {
        int r = api_machine(api, call, asked->machine, false, &m, why);
        if (r < 0)
            return r;
    }
    int r = watch_fleet(api->watch, call, m ? m->machine_id : "");
    message_free(m);
    return r < 0 ? r : -EINPROGRESS;
}

static bool good_name(const char *name)
{
    /* A name that is an id would be taken for the machine with that id. */
    if (message_empty(name) || strlen(name) > NAME_MAX_BYTES || sp_uuid_valid(name))
        return false;
    for (const char *p = name; *p; p++) {
        if ((unsigned char)*p < 0x21 || *p == 0x7f)
            return false;
    }
    return true;
}

int api_add_machine(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                    ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__AddMachineRequest *asked = (const void *)request;
    char id[37];
    int r = api_allow(api, call, asked->group, why);
    if (r < 0)
        return r;
    if (!good_name(asked->name))
        return sp_why_set(why, -EINVAL,
                          "a machine's name has 1 to %d characters, no white space, and is no id",
                          NAME_MAX_BYTES);
    if (!message_empty(asked->group) && !good_name(asked->group))
        return sp_why_set(why, -EINVAL, "a group's name has 1 to %d characters and no white space",
                          NAME_MAX_BYTES);
    Sp__Machine *m = message_new(&sp__machine__descriptor);
    r = m ? sp_uuid_make(id) : -ENOMEM;
    if (r == 0)
        r = message_set(&m->machine_id, id);
    if (r == 0)
        r = message_set(&m->name, asked->name);
    if (r == 0)
        r = message_set(&m->group, asked->group);
    if (r == 0)
        r = catalog_machine_add(api->catalog, m);
    if (r == -EEXIST)
        sp_why_set(why, r, "there is a machine '%s' already", asked->name);
    if (r == 0) {
        api_audit(api, call, "machine.added", id, "name %s", asked->name);
        watch_on_machine(api->watch, id);
    }
    return give(api, m, r, ret);
}

/* ---- changes ---- */

struct change {
    const Sp__SetSourceRequest *source;
    const Sp__Policy *policy;
    const char *vault_id;
    const char *who;
};

static int set_source(Sp__Machine *m, void *arg)
{
    const struct change *c = arg;
    int r = c->vault_id ? message_set(&m->vault_id, c->vault_id) : 0;
    if (r == 0 && c->source->source && c->source->source->kind_case) {
        Sp__SourceConfig *copy = message_copy(c->source->source);
        if (!copy)
            return -ENOMEM;
        message_free(m->source);
        m->source = copy;
    }
    return r;
}

static const char *file_disk_id(const Sp__ImageFile *f)
{
    const char *slash = strrchr(f->path, '/');
    return !message_empty(f->serial) ? f->serial : slash ? slash + 1 : f->path;
}

static int check_images(const Sp__FileSource *s, struct sp_why *why)
{
    if (s->n_images == 0)
        return sp_why_set(why, -EINVAL, "the source names no image");
    for (size_t i = 0; i < s->n_images; i++) {
        if (message_empty(s->images[i]->path) || s->images[i]->path[0] != '/')
            return sp_why_set(why, -EINVAL, "images are absolute paths");
        for (size_t j = 0; j < i; j++)
            if (strcmp(file_disk_id(s->images[i]), file_disk_id(s->images[j])) == 0)
                return sp_why_set(why, -EINVAL,
                                  "two images would be disk '%.100s': give each its own serial",
                                  file_disk_id(s->images[i]));
    }
    return 0;
}

static int check_source(const Sp__SourceConfig *source, struct sp_why *why)
{
    if (!source || !source->kind_case)
        return 0;
    if (!source_for(source))
        return sp_why_set(why, -EINVAL, "this controller knows no source of that kind");
    if (source->kind_case == SP__SOURCE_CONFIG__KIND_QEMU &&
        (message_empty(source->qemu->qmp_socket) || source->qemu->qmp_socket[0] != '/' ||
         (!message_empty(source->qemu->fleece_directory) &&
          source->qemu->fleece_directory[0] != '/')))
        return sp_why_set(why, -EINVAL, "QMP socket and fleece directory are absolute paths");
    return source->kind_case == SP__SOURCE_CONFIG__KIND_FILE ? check_images(source->file, why) : 0;
}

int api_set_source(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                   ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__SetSourceRequest *asked = (const void *)request;
    Sp__Machine *m = NULL, *changed = NULL;
    Sp__Vault *vault = NULL;
    int r = api_machine(api, call, asked->machine, false, &m, why);
    if (r == 0)
        r = check_source(asked->source, why);
    if (r == 0 && !message_empty(asked->vault_id)) {
        r = catalog_vault_get(api->catalog, asked->vault_id, &vault);
        if (r == -ENOENT)
            sp_why_set(why, r, "no vault '%s': 'sealpoint vault list' shows them", asked->vault_id);
    }
    struct change c = {.source = asked, .vault_id = vault ? vault->vault_id : NULL};
    if (r == 0)
        r = catalog_machine_change(api->catalog, m->machine_id, set_source, &c, &changed);
    if (r == 0) {
        api_audit(api, call, "machine.source", m->machine_id, "name %s", m->name);
        watch_on_machine(api->watch, m->machine_id);
    }
    message_free(vault);
    message_free(m);
    return give(api, changed, r, ret);
}

static bool same_exception(const Sp__Exception *a, const Sp__Exception *b)
{
    return a->reason == b->reason && strcmp(a->volume_id, b->volume_id) == 0 &&
           strcmp(a->why, b->why) == 0;
}

/* An exception bears the name of who made it and when, whatever the request says. */
static int stamp(Sp__Policy *policy, const Sp__Policy *old, const char *who)
{
    int r = 0;
    for (size_t i = 0; i < policy->n_exceptions && r == 0; i++) {
        Sp__Exception *e = policy->exceptions[i];
        const Sp__Exception *before = NULL;
        for (size_t j = 0; old && j < old->n_exceptions && !before; j++)
            before = same_exception(e, old->exceptions[j]) ? old->exceptions[j] : NULL;
        r = message_set(&e->allowed_by, before ? before->allowed_by : who);
        e->allowed_unix_ms =
            before ? before->allowed_unix_ms : sp_clock_system.wall_ms(sp_clock_system.self);
    }
    return r;
}

static int set_policy(Sp__Machine *m, void *arg)
{
    const struct change *c = arg;
    Sp__Policy *copy = message_copy(c->policy);
    int r = copy ? stamp(copy, m->policy, c->who) : -ENOMEM;
    if (r < 0) {
        message_free(copy);
        return r;
    }
    message_free(m->policy);
    m->policy = copy;
    return 0;
}

static int check_exception(const Sp__Exception *e, struct sp_why *why)
{
    if (message_empty(e->volume_id))
        return sp_why_set(why, -EINVAL, "an exception names the volume (or disk) that it is for");
    if (!verdict_may_allow(e->reason))
        return sp_why_set(why, -EINVAL, "%s is no reason that a policy may accept",
                          sp_enum_name(&sp__reason__descriptor, (int)e->reason, "REASON_"));
    if (strlen(e->volume_id) > POLICY_TEXT_MAX || strlen(e->why) > POLICY_TEXT_MAX)
        return sp_why_set(why, -EINVAL, "an exception's texts have at most %d characters",
                          POLICY_TEXT_MAX);
    return 0;
}

/* A policy goes into every manifest of the machine: it stays small, and says nothing that this
 * program does not know. */
static int check_policy(const Sp__Policy *policy, struct sp_why *why)
{
    if (policy->minimum_grade &&
        !protobuf_c_enum_descriptor_get_value(&sp__grade__descriptor, (int)policy->minimum_grade))
        return sp_why_set(why, -EINVAL, "%d is no grade", (int)policy->minimum_grade);
    if (policy->n_exceptions > POLICY_MAX || policy->n_excluded_disks > POLICY_MAX)
        return sp_why_set(why, -EINVAL, "a policy has at most %d exceptions and excluded disks",
                          POLICY_MAX);
    for (size_t i = 0; i < policy->n_excluded_disks; i++) {
        if (strlen(policy->excluded_disks[i]) > POLICY_TEXT_MAX)
            return sp_why_set(why, -EINVAL, "a disk's id has at most %d characters",
                              POLICY_TEXT_MAX);
    }
    int r = 0;
    for (size_t i = 0; i < policy->n_exceptions && r == 0; i++)
        r = check_exception(policy->exceptions[i], why);
    return r;
}

int api_set_policy(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                   ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__SetPolicyRequest *asked = (const void *)request;
    Sp__Machine *m = NULL, *changed = NULL;
    if (!asked->policy)
        return sp_why_set(why, -EINVAL, "the request carries no policy");
    int r = check_policy(asked->policy, why);
    if (r < 0)
        return r;
    r = api_machine(api, call, asked->machine, false, &m, why);
    struct change c = {.policy = asked->policy, .who = rpc_peer(call)->name};
    if (r == 0)
        r = catalog_machine_change(api->catalog, m->machine_id, set_policy, &c, &changed);
    if (r == 0) {
        api_audit(api, call, "machine.policy", m->machine_id, "name %s, %zu exceptions", m->name,
                  asked->policy->n_exceptions);
        watch_on_machine(api->watch, m->machine_id);
    }
    message_free(m);
    return give(api, changed, r, ret);
}

int api_release_quarantine(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                           ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__ReleaseQuarantineRequest *asked = (const void *)request;
    Sp__Machine *m = NULL;
    int r = api_machine(api, call, asked->machine, false, &m, why);
    if (r == 0)
        r = fleet_release(api->fleet, m->machine_id, why);
    if (r == 0) {
        api_audit(api, call, "machine.quarantine-lifted", m->machine_id, "name %s", m->name);
        watch_on_machine(api->watch, m->machine_id);
    }
    return give(api, m, r, ret);
}

/* ---- status ---- */

static int count_machine(void *arg, Sp__Machine *m)
{
    (void)m;
    ++*(uint32_t *)arg;
    return 0;
}

static int count_vault(void *arg, Sp__Vault *v)
{
    (void)v;
    ++*(uint32_t *)arg;
    return 0;
}

static int ask_status(struct api *api, struct rpc_call *call, Sp__StatusResponse *s)
{
    Sp__KeeperStatusRequest status = SP__KEEPER_STATUS_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    struct sp_why why = {0};
    request.kind_case = SP__KEEPER_REQUEST__KIND_STATUS;
    request.status = &status;
    int r = api_ask_keeper(api, call, &request, &response, &why);
    if (r < 0 || response->kind_case != SP__KEEPER_RESPONSE__KIND_STATUS)
        return message_append_text(&s->warnings, &s->n_warnings,
                                   *why.text ? why.text : "the keeper does not answer");
    s->keeper_reachable = 1;
    s->keeper_locked = response->status->locked;
    s->keystore_epoch = response->status->epoch;
    r = 0;
    for (size_t i = 0; i < response->status->n_warnings && r == 0; i++)
        r = message_append_text(&s->warnings, &s->n_warnings, response->status->warnings[i]);
    return r;
}

int api_get_status(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                   ProtobufCMessage **ret, struct sp_why *why)
{
    (void)request;
    (void)why;
    Sp__StatusResponse *s = message_new(&sp__status_response__descriptor);
    uint32_t vaults = 0;
    int r = s ? message_set(&s->version, SEALPOINT_VERSION) : -ENOMEM;
    if (r == 0)
        r = catalog_machine_each(api->catalog, count_machine, &s->machines);
    if (r == 0)
        r = catalog_vault_each(api->catalog, count_vault, &vaults);
    if (r == 0 && vaults == 0)
        r = message_append_text(&s->warnings, &s->n_warnings,
                                "there is no vault yet: 'sealpoint vault add'");
    if (r == 0)
        r = ask_status(api, call, s);
    if (r < 0) {
        message_free(s);
        return r;
    }
    s->connected = fleet_connected(api->fleet);
    s->running_jobs = engine_running(api->engine);
    *ret = &s->base;
    return 0;
}
