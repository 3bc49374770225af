/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What keeps, removes, copies and heals points. */
#include "controller/api/api.h"
#include <string.h>

static int mark(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                enum engine_mark what, const char *event, ProtobufCMessage **ret,
                struct sp_why *why)
{
    const Sp__MarkPointRequest *asked = (const void *)request;
    struct catalog_point *cp CATALOG_POINT = NULL;
    Sp__Point *point = NULL;
    char id[37] = "", who[320];
    int r = catalog_point_find(api->catalog, asked->point, id);
    if (r == 0)
        r = catalog_point_get(api->catalog, id, &cp);
    if (r == 0)
        r = api_allow_machine_id(api, call, cp->point->machine_id, why);
    if (r == -ENOENT || r == -ENOTUNIQ)
        return sp_why_set(why, -ENOENT, "no point '%s': 'sealpoint point list' shows them",
                          asked->point);
    if (r == 0 && (what == ENGINE_DELETE || what == ENGINE_HOLD) && !asked->why[0])
        r = sp_why_set(why, -EINVAL, "say why: it is kept with the point");
    if (r == 0)
        r = engine_mark_point(api->engine, id, what, api_who(call, who), asked->why, &point, why);
    if (r < 0)
        return r;
    api_audit(api, call, event, id, "machine %s: %s", point->machine_name, asked->why);
    *ret = &point->base;
    return 0;
}

int api_delete_point(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                     ProtobufCMessage **ret, struct sp_why *why)
{
    return mark(api, call, request, ENGINE_DELETE, "point.deleted", ret, why);
}

int api_undelete_point(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                       ProtobufCMessage **ret, struct sp_why *why)
{
    return mark(api, call, request, ENGINE_UNDELETE, "point.undeleted", ret, why);
}

int api_hold_point(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                   ProtobufCMessage **ret, struct sp_why *why)
{
    return mark(api, call, request, ENGINE_HOLD, "point.held", ret, why);
}

int api_unhold_point(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                     ProtobufCMessage **ret, struct sp_why *why)
{
    return mark(api, call, request, ENGINE_UNHOLD, "point.hold-lifted", ret, why);
}

int api_collect_vault(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                      ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__CollectVaultRequest *asked = (const void *)request;
    Sp__CollectProgress *done = NULL;
    (void)ret;
    int r = api_allow(api, call, "", why);
    if (r == 0)
        r = engine_collect(api->engine, asked->vault, asked->dry_run, &done, why);
    if (r < 0)
        return r;
    if (!asked->dry_run)
        api_audit(api, call, "vault.collected", asked->vault, "%zu expired, %llu removed",
                  done->n_expired_points, (unsigned long long)done->points_removed);
    r = api_send(call, &done->base);
    message_free(done);
    return r;
}

static int send_copied(void *arg, const char *point_id, const struct vault_copied *done)
{
    Sp__CopyProgress p = SP__COPY_PROGRESS__INIT;
    p.point_id = (char *)(uintptr_t)point_id;
    p.points = done->points;
    p.points_there = done->points_there;
    p.copied_bytes = done->bytes;
    p.ended = !*point_id;
    return api_send(arg, &p.base);
}

int api_copy_vault(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                   ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__CopyVaultRequest *asked = (const void *)request;
    struct vault_copied done = {0};
    (void)ret;
    int r = api_allow(api, call, "", why);
    if (r == 0)
        r = engine_copy_vault(api->engine, asked->vault, asked->directory, asked->machine,
                              send_copied, call, &done, why);
    if (r < 0)
        return r;
    api_audit(api, call, "vault.copied", asked->vault, "to %s, %llu points", asked->directory,
              (unsigned long long)done.points);
    return send_copied(call, "", &done);
}

static int send_found(void *arg, const Sp__CheckProgress *progress)
{
    return api_send(arg, &progress->base);
}

int api_scrub_vault(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                    ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__ScrubVaultRequest *asked = (const void *)request;
    (void)ret;
    int r = api_allow(api, call, "", why);
    return r < 0 ? r
                 : engine_scrub_vault(api->engine, asked->vault, asked->heal_from,
                                      asked->bytes_per_second, send_found, call, why);
}
