/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The Backup service, but for what reads disks (read.c). */
#include "controller/api/api.h"
#include "controller/backup/finding.h"
#include <stdlib.h>
#include <string.h>

enum { PAGE_DEFAULT = 100, PAGE_MAX = 1000, MANIFEST_MAX_BYTES = 3 << 20 };

/* ---- jobs ---- */

int api_start(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
              ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__StartBackupRequest *asked = (const void *)request;
    Sp__Machine *m = NULL;
    Sp__Job *job = NULL;
    int r = api_machine(api, call, asked->machine, false, &m, why);
    if (r == 0)
        r = engine_start_backup(api->engine, m->machine_id, asked->allow_no_agent, &job, why);
    if (r == 0) {
        api_audit(api, call, "backup.started", job->point_id, "machine %s", m->name);
        *ret = &job->base;
    }
    message_free(m);
    return r;
}

int api_verify_point(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                     ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__VerifyPointRequest *asked = (const void *)request;
    struct catalog_point *cp CATALOG_POINT = NULL;
    Sp__Job *job = NULL;
    char id[37] = "";
    int r = catalog_point_find(api->catalog, asked->point, id);
    if (r == 0)
        r = catalog_point_get(api->catalog, id, &cp);
    if (r == 0)
        r = api_allow_machine_id(api, call, cp->point->machine_id, why);
    /* The engine says what is wrong with the id. */
    if (r == 0 || r == -ENOENT || r == -ENOTUNIQ)
        r = engine_start_verify(api->engine, asked->point, &job, why);
    if (r == 0) {
        api_audit(api, call, "verify.started", job->point_id, "machine %s", job->machine_name);
        *ret = &job->base;
    }
    return r;
}

static int allow_job(struct api *api, struct rpc_call *call, const char *job_id, struct sp_why *why)
{
    Sp__Job *job = NULL;
    int r = engine_job(api->engine, job_id, &job, why);
    if (r == 0)
        r = api_allow_machine_id(api, call, job->machine_id, why);
    message_free(job);
    return r;
}

int api_watch_job(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                  ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__WatchJobRequest *asked = (const void *)request;
    (void)ret;
    int r = allow_job(api, call, asked->job_id, why);
    if (r == 0)
        r = watch_job(api->watch, call, asked->job_id);
    return r < 0 ? r : -EINPROGRESS;
}

int api_cancel_job(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                   ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__CancelJobRequest *asked = (const void *)request;
    Sp__Job *job = NULL;
    int r = allow_job(api, call, asked->job_id, why);
    if (r == 0)
        r = engine_cancel(api->engine, asked->job_id, &job, why);
    if (r == 0) {
        api_audit(api, call, "job.cancelled", asked->job_id, "machine %s", job->machine_name);
        *ret = &job->base;
    }
    return r;
}

/* ---- points ---- */

/* The rows are gathered under the catalog's lock; who may see them is asked of the same catalog. */
struct page {
    struct api *api;
    struct rpc_call *call;
    Sp__ListPointsResponse *response;
    size_t most;
    uint64_t last;
    bool more;
};

static bool may_see(struct page *p, const char *machine_id)
{
    Sp__Machine *m = NULL;
    bool may = false;
    int r = catalog_machine_get(p->api->catalog, machine_id, false, &m);
    if (r == 0 || r == -ENOENT)
        may = api_may_see(p->api, p->call, m ? m->group : "");
    message_free(m);
    return may;
}

static int page_point(void *arg, uint64_t rowid, Sp__Point *point)
{
    struct page *p = arg;
    if (!may_see(p, point->machine_id))
        return 0;
    if (p->response->n_points == p->most) {
        p->more = true;
        return 1;
    }
    p->last = rowid;
    return message_append(&p->response->points, &p->response->n_points, message_copy(point));
}

static int parse_token(const char *token, uint64_t *ret)
{
    char *end = NULL;
    *ret = 0;
    if (message_empty(token))
        return 0;
    errno = 0;
    *ret = strtoull(token, &end, 10);
    return errno || *end || *ret == 0 || *ret > INT64_MAX ? -EINVAL : 0;
}

int api_list_points(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                    ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__ListPointsRequest *asked = (const void *)request;
    Sp__Machine *m = NULL;
    uint64_t before = 0;
    struct page p = {.api = api, .call = call};
    p.most = asked->page_size ? asked->page_size : PAGE_DEFAULT;
    if (p.most > PAGE_MAX)
        p.most = PAGE_MAX;
    if (parse_token(asked->page_token, &before) < 0)
        return sp_why_set(why, -EINVAL, "the page token is not one of this list");
    int r =
        message_empty(asked->machine) ? 0 : api_machine(api, call, asked->machine, false, &m, why);
    p.response = r == 0 ? message_new(&sp__list_points_response__descriptor) : NULL;
    if (r == 0)
        r = p.response
                ? catalog_point_each(api->catalog, m ? m->machine_id : NULL, before, page_point, &p)
                : -ENOMEM;
    if (r == 0 && p.more) {
        char token[24];
        snprintf(token, sizeof(token), "%llu", (unsigned long long)p.last);
        r = message_set(&p.response->next_page_token, token);
    }
    message_free(m);
    if (r < 0) {
        message_free(p.response);
        return r;
    }
    *ret = &p.response->base;
    return 0;
}

/* Each volume of the point, with the proof that the keeper signed for it. */
static int add_proofs(struct api *api, Sp__PointDetail *detail, const Sp__Manifest *m)
{
    int r = 0;
    for (size_t i = 0; i < m->n_volumes && r == 0; i++) {
        Sp__VolumeProof *p = message_new(&sp__volume_proof__descriptor);
        if (!p || !(p->volume = message_copy(m->volumes[i]))) {
            message_free(p);
            return -ENOMEM;
        }
        for (size_t j = 0; j < m->n_proofs && !p->proof; j++) {
            p->proof =
                engine_statement(api->engine, m->proofs[j], m->machine_id, m->point_id, NULL);
            if (p->proof && strcmp(p->proof->volume_id, m->volumes[i]->volume_id) != 0) {
                message_free(p->proof);
                p->proof = NULL;
            }
        }
        r = message_append(&detail->proofs, &detail->n_proofs, p);
    }
    return r;
}

/* The catalog's word for `valid` is not enough. */
static int doubt(Sp__Point *point, const char *text)
{
    if (point->state != SP__POINT_STATE__POINT_STATE_VALID)
        return 0;
    point->state = SP__POINT_STATE__POINT_STATE_UNPROVEN;
    return finding_add(FINDINGS(point), SP__REASON__REASON_ESCROW_UNREACHABLE,
                       (struct finding_about){0}, "%s", text);
}

static int add_manifest(struct api *api, Sp__PointDetail *detail)
{
    Sp__Signed *sealed SP_CLEANUP(signed_message) = NULL;
    Sp__Manifest *m SP_CLEANUP(manifest) = NULL;
    struct sp_why why = {0};
    bool good = false;
    int r = engine_manifest(api->engine, detail->point->point_id, &sealed, &m, &good, &why);
    if (r == -ENODATA)
        return 0;
    if (r < 0)
        return doubt(detail->point,
                     *why.text ? why.text : "the manifest in the vault cannot be read");
    if (!engine_manifest_holds(api->engine, m, good))
        r = doubt(detail->point, "the manifest in the vault does not prove that the point is "
                                 "valid, or the keeper's key is not at hand: verify the point");
    if (r == 0)
        r = add_proofs(api, detail, m);
    detail->manifest_bytes = sealed->payload.len;
    /* Captured headers can make it larger than a message may be: ReadManifest gives it in parts. */
    if (r == 0 && sealed->payload.len <= MANIFEST_MAX_BYTES)
        detail->manifest = sp_steal(sealed);
    return r;
}

int api_get_point(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                  ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__GetPointRequest *asked = (const void *)request;
    struct catalog_point *cp CATALOG_POINT = NULL;
    char id[37];
    int r = catalog_point_find(api->catalog, asked->point, id);
    if (r == -ENOENT)
        return sp_why_set(
            why, r,
            "no point '%.60s': 'sealpoint point list' shows them; 8 characters of an id are enough",
            asked->point);
    if (r == -ENOTUNIQ)
        return sp_why_set(why, -EINVAL, "several points begin with '%.60s': give more of the id",
                          asked->point);
    if (r == 0)
        r = catalog_point_get(api->catalog, id, &cp);
    if (r == 0)
        r = api_allow_machine_id(api, call, cp->point->machine_id, why);
    Sp__PointDetail *detail = r == 0 ? message_new(&sp__point_detail__descriptor) : NULL;
    if (r == 0 && !detail)
        r = -ENOMEM;
    if (r == 0) {
        detail->point = sp_steal(cp->point);
        r = add_manifest(api, detail);
    }
    if (r < 0) {
        message_free(detail);
        return r;
    }
    *ret = &detail->base;
    return 0;
}

/* ---- vaults ---- */

int api_add_vault(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                  ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__AddVaultRequest *asked = (const void *)request;
    Sp__Vault *vault = NULL;
    int r = api_allow(api, call, "", why);
    if (r == 0 && (!asked->config || asked->config->kind_case != SP__VAULT_CONFIG__KIND_DIRECTORY))
        r = sp_why_set(why, -EINVAL, "this controller knows no vault of that kind");
    if (r == 0 && asked->config->directory->path[0] != '/')
        r = sp_why_set(why, -EINVAL, "a vault's directory is an absolute path on the controller");
    if (r == 0)
        r = engine_add_vault(api->engine, asked->name, asked->config, &vault, why);
    if (r == 0 && asked->immutable_days) {
        r = engine_make_immutable(api->engine, vault->vault_id, asked->immutable_days, why);
        vault->immutable_days = asked->immutable_days;
    }
    if (r == 0) {
        api_audit(api, call, "vault.added", vault->vault_id, "name %s", vault->name);
        *ret = &vault->base;
    }
    return r;
}

static int gather_vault(void *arg, Sp__Vault *vault)
{
    Sp__ListVaultsResponse *response = arg;
    return message_append(&response->vaults, &response->n_vaults, message_copy(vault));
}

int api_list_vaults(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                    ProtobufCMessage **ret, struct sp_why *why)
{
    (void)call;
    (void)request;
    (void)why;
    Sp__ListVaultsResponse *response = message_new(&sp__list_vaults_response__descriptor);
    int r = response ? catalog_vault_each(api->catalog, gather_vault, response) : -ENOMEM;
    if (r < 0) {
        message_free(response);
        return r;
    }
    for (size_t i = 0; i < response->n_vaults; i++) {
        Sp__Vault *v = response->vaults[i];
        struct vault *open = NULL;
        /* One that is away is still listed, without numbers. */
        v->immutable_days = engine_immutable_days(api->engine, v->vault_id);
        if (engine_vault(api->engine, v->vault_id, false, &open, NULL) == 0)
            (void)vault_space(open, &v->used_bytes, &v->free_bytes);
    }
    *ret = &response->base;
    return 0;
}
