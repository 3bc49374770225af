/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Manifests shown to the keeper, so that it notices when an old keystore was put in place of a
 * newer one: at the start the newest of each vault, before a backup the machine's newest, and all
 * of all vaults when an admin reconciles. */
#include "base/file.h"
#include "base/log.h"
#include "controller/backup/run.h"
#include <string.h>

static int show(struct engine *e, Sp__Signed *manifest, bool pin, bool first, struct sp_why *why)
{
    Sp__WitnessRequest witness = SP__WITNESS_REQUEST__INIT;
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__KeeperResponse *response SP_CLEANUP(keeper_response) = NULL;
    witness.manifest = manifest;
    witness.pin = pin;
    witness.first = first;
    request.kind_case = SP__KEEPER_REQUEST__KIND_WITNESS;
    request.witness = &witness;
    /* At once or not at all: what comes next waits for a keeper that is away. */
    int r = e->options.keeper->call(e->options.keeper_self, &request, RUN_KEEPER_TIMEOUT_MS,
                                    &response, why);
    if (r == 0 && response->kind_case != SP__KEEPER_RESPONSE__KIND_WITNESS)
        r = -EPROTO;
    if (r == 0 && response->witness->newer)
        sp_log(SP_LOG_ERROR, "an old keystore was put in place of a newer one", "do",
               "sealpoint keystore reconcile", NULL);
    return r;
}

/* ---- the newest ---- */

struct newest {
    const char *vault_id; /* NULL: of any */
    char point_id[37];
};

static int take_first(void *arg, uint64_t rowid, Sp__Point *point)
{
    struct newest *n = arg;
    (void)rowid;
    if (point->state < SP__POINT_STATE__POINT_STATE_VALID ||
        (n->vault_id && strcmp(point->vault_id, n->vault_id) != 0))
        return 0;
    snprintf(n->point_id, sizeof(n->point_id), "%s", point->point_id);
    return 1;
}

/* What cannot be shown is no evidence: the work goes on. */
static void show_newest(struct engine *e, const char *machine_id, const char *vault_id)
{
    Sp__Signed *sealed SP_CLEANUP(signed_message) = NULL;
    Sp__Manifest *m SP_CLEANUP(manifest) = NULL;
    struct newest n = {.vault_id = vault_id};
    struct sp_why why = {0};
    bool good = false;
    int r = catalog_point_each(e->options.catalog, machine_id, 0, take_first, &n);
    if (r < 0 || !n.point_id[0] || engine_manifest(e, n.point_id, &sealed, &m, &good, &why) < 0)
        return;
    if (good && show(e, sealed, false, false, &why) < 0)
        sp_log(SP_LOG_DEBUG, "no manifest could be shown to the keeper", "why", why.text, NULL);
}

void witness_vault(struct engine *e, const char *vault_id)
{
    show_newest(e, NULL, vault_id);
}

void witness_machine(struct engine *e, const char *machine_id)
{
    show_newest(e, machine_id, NULL);
}

/* ---- all ---- */

struct showing {
    struct engine *engine;
    struct vault *vault;
    const char *name;
    Sp__ReconcileResponse *out;
};

static int unread(struct showing *s, const char *what, const char *why)
{
    char *text = sp_format("%s %s: %s", s->name, what, why);
    int r = text ? message_append_text(&s->out->unread, &s->out->n_unread, text) : -ENOMEM;
    free(text);
    return r;
}

static int show_one(void *arg, const char *machine_id, const char *point_id)
{
    struct showing *s = arg;
    Sp__Signed *sealed SP_CLEANUP(signed_message) = NULL;
    Sp__Manifest *m SP_CLEANUP(manifest) = NULL;
    struct sp_bytes none = {0};
    struct sp_why why = {0};
    int r = vault_get_manifest(s->vault, machine_id, point_id, none, &sealed, &m, &why);
    if (r == 0)
        r = show(s->engine, sealed, true, false, &why);
    /* Without the keeper there is nobody to go on for. */
    if (r == -EHOSTUNREACH || r == -ENOMEM || r == -ENOKEY || r == -EUCLEAN)
        return r;
    return r < 0 ? unread(s, point_id, *why.text ? why.text : strerror(-r)) : 0;
}

static int gather(void *arg, Sp__Vault *vault)
{
    Sp__ListVaultsResponse *all = arg;
    return message_append(&all->vaults, &all->n_vaults, message_copy(vault));
}

static int show_vault(struct engine *e, const Sp__Vault *entry, Sp__ReconcileResponse *out)
{
    struct showing s = {.engine = e, .name = entry->name, .out = out};
    struct sp_why why = {0};
    int r = engine_vault(e, entry->vault_id, false, &s.vault, &why);
    if (r < 0)
        return unread(&s, "cannot be opened", *why.text ? why.text : strerror(-r));
    return vault_list_manifests(s.vault, show_one, &s);
}

int engine_show_manifests(struct engine *e, Sp__ReconcileResponse *out, struct sp_why *why)
{
    Sp__ListVaultsResponse *all = message_new(&sp__list_vaults_response__descriptor);
    int r = all ? catalog_vault_each(e->options.catalog, gather, all) : -ENOMEM;
    if (r == 0)
        r = show(e, NULL, false, true, why);
    for (size_t i = 0; r == 0 && i < all->n_vaults; i++)
        r = show_vault(e, all->vaults[i], out);
    message_free(all);
    return r;
}
