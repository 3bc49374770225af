/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/linux/keyslot.h"
#include "agent/identity.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/frame.h"
#include "base/log.h"
#include "base/why.h"
#include <dirent.h>
#include <errno.h>
#include <string.h>

/* The dearest keyslots take half a minute, clevis waits for its servers. */
enum { ANSWER_MS = 200000, SEND_MS = 5000 };

SP_DEFINE_CLEANUP(dir, DIR *, closedir)

static const Sp__Volume *find_volume(const Sp__Inventory *inventory, const char *volume_id)
{
    for (size_t i = 0; i < inventory->n_volumes; i++)
        if (strcmp(inventory->volumes[i]->volume_id, volume_id) == 0)
            return inventory->volumes[i];
    return NULL;
}

static int ask(const struct agent_config *config, const Sp__KeyslotRequest *request,
               Sp__KeyslotAnswer **ret, struct sp_why *why)
{
    ProtobufCMessage *message = NULL;
    size_t fds = 0;
    SP_FD int socket = sp_unix_connect(config->escrow_socket);
    if (socket < 0)
        return sp_why_set(why, socket,
                          "cannot reach sealpoint-enrol-volume on '%s': is "
                          "sealpoint-enrol-volume.socket started?",
                          config->escrow_socket);
    int r = sp_frame_send(socket, &request->base, NULL, 0, SEND_MS);
    if (r == 0)
        r = sp_frame_receive(socket, &sp__answer__descriptor, NULL, &message, NULL, 0, &fds,
                             ANSWER_MS);
    if (r < 0)
        return sp_why_set(why, r == -EPIPE ? -ECONNRESET : r,
                          "sealpoint-enrol-volume ended before it answered");
    Sp__Answer *answer = (Sp__Answer *)message;
    if (answer->error)
        r = sp_why_set(why, -answer->error, "%s", answer->text);
    else if (answer->kind_case != SP__ANSWER__KIND_KEYSLOT)
        r = sp_why_set(why, -EPROTO, "sealpoint-enrol-volume answered something else");
    else {
        *ret = answer->keyslot;
        answer->keyslot = NULL;
        answer->kind_case = SP__ANSWER__KIND__NOT_SET;
    }
    sp__answer__free_unpacked(answer, NULL);
    return r;
}

static void about(const Sp__Volume *v, Sp__KeyslotRequest *request)
{
    request->volume_id = v->volume_id;
    request->device = v->device;
    request->mapped_name = v->mapped_name;
}

int keyslot_command(const struct agent_config *config, const struct inventory_roots *roots,
                    const Sp__EnrolKeyslotCommand *command, Sp__KeyslotAnswer **ret,
                    struct sp_why *why)
{
    Sp__Inventory *inventory = NULL;
    Sp__KeyslotRequest request = SP__KEYSLOT_REQUEST__INIT;
    int r = inventory_read(roots, &inventory, why);
    if (r < 0)
        return r;
    const Sp__Volume *v = find_volume(inventory, command->volume_id);
    if (v) {
        about(v, &request);
        request.order = command->order;
        request.keeper_keys = command->keeper_keys;
        r = ask(config, &request, ret, why);
    } else
        r = sp_why_set(why, -ENOENT, "this guest has no volume %.100s", command->volume_id);
    sp__inventory__free_unpacked(inventory, NULL);
    return r;
}

/* ---- what was left ---- */

static bool something_is_left(const struct agent_config *config)
{
    SP_FREE char *folder = sp_format("%s/" AGENT_KEYSLOTS, config->state);
    SP_CLEANUP(dir) DIR *dir = folder ? opendir(folder) : NULL;
    for (struct dirent *d; dir && (d = readdir(dir));) {
        const char *dot = strrchr(d->d_name, '.');
        if (dot && strcmp(dot, ".order") == 0)
            return true;
    }
    return false;
}

void keyslot_settle(const struct agent_config *config, const Sp__Inventory *inventory)
{
    if (!something_is_left(config))
        return;
    for (size_t i = 0; i < inventory->n_volumes; i++) {
        Sp__KeyslotRequest request = SP__KEYSLOT_REQUEST__INIT;
        Sp__KeyslotAnswer *answer = NULL;
        struct sp_why why = {""};
        if (inventory->volumes[i]->kind != SP__VOLUME_KIND__VOLUME_KIND_LUKS2)
            continue;
        about(inventory->volumes[i], &request);
        int r = ask(config, &request, &answer, &why);
        if (r < 0)
            sp_log_error("cannot finish or take back an escrow keyslot", r, &why, "volume",
                         inventory->volumes[i]->volume_id, NULL);
        if (answer)
            sp__keyslot_answer__free_unpacked(answer, NULL);
    }
}
