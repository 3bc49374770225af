/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The rows. Permissions are those that the comments of the .proto files give; tests/unit/rpc
 * compares the two. */
#include "rpc/methods.h"
#include "base/cleanup.h"
#include <sealpoint/v1/admin.pb-c.h>
#include <sealpoint/v1/agent_link.pb-c.h>
#include <sealpoint/v1/backup.pb-c.h>
#include <sealpoint/v1/enrolment.pb-c.h>
#include <sealpoint/v1/fleet.pb-c.h>
#include <sealpoint/v1/keys.pb-c.h>
#include <stdlib.h>
#include <string.h>

#define PACKAGE "/sealpoint.v1."
#define ROW(name, in, out, kind, who)                                                              \
    {                                                                                              \
        .path = PACKAGE name, .request = &sp__##in##__descriptor,                                  \
        .response = &sp__##out##__descriptor, .flags = RPC_##kind, .permission = RPC_##who         \
    }

static const struct rpc_method rows[] = {
    ROW("Enrolment/Enrol", enrol_request, enrol_response, UNARY, ANYONE),
    ROW("Enrolment/Renew", renew_request, renew_response, UNARY, ANY_IDENTITY),

    ROW("AgentLink/Session", agent_message, controller_message, BIDI, AGENT),

    ROW("Backup/Start", start_backup_request, job, UNARY, OPERATOR),
    ROW("Backup/WatchJob", watch_job_request, job, SERVER_STREAM, VIEWER),
    ROW("Backup/CancelJob", cancel_job_request, job, UNARY, OPERATOR),
    ROW("Backup/ListPoints", list_points_request, list_points_response, UNARY, VIEWER),
    ROW("Backup/GetPoint", get_point_request, point_detail, UNARY, VIEWER),
    ROW("Backup/ReadManifest", get_point_request, manifest_part, SERVER_STREAM, VIEWER),
    ROW("Backup/VerifyPoint", verify_point_request, job, UNARY, OPERATOR),
    ROW("Backup/ReadDisk", read_disk_request, disk_data, SERVER_STREAM, OPERATOR),
    ROW("Backup/AddVault", add_vault_request, vault, UNARY, ADMIN),
    ROW("Backup/ListVaults", list_vaults_request, list_vaults_response, UNARY, VIEWER),
    ROW("Backup/DeletePoint", mark_point_request, point, UNARY, ADMIN),
    ROW("Backup/UndeletePoint", mark_point_request, point, UNARY, ADMIN),
    ROW("Backup/HoldPoint", mark_point_request, point, UNARY, ADMIN),
    ROW("Backup/UnholdPoint", mark_point_request, point, UNARY, ADMIN),
    ROW("Backup/CollectVault", collect_vault_request, collect_progress, SERVER_STREAM, ADMIN),
    ROW("Backup/CopyVault", copy_vault_request, copy_progress, SERVER_STREAM, ADMIN),
    ROW("Backup/ScrubVault", scrub_vault_request, check_progress, SERVER_STREAM, OPERATOR),
    ROW("Backup/CheckVault", check_vault_request, check_progress, SERVER_STREAM, OPERATOR),

    ROW("Keys/GetKeeperKeys", keeper_keys_request, keeper_keys_response, UNARY, VIEWER),
    ROW("Keys/GetNonce", nonce_request, nonce_response, UNARY, VIEWER),
    ROW("Keys/Import", import_keys_request, import_keys_response, UNARY, OPERATOR),
    ROW("Keys/List", list_keys_request, list_keys_response, UNARY, VIEWER),
    ROW("Keys/Release", release_call, release_response, UNARY, CUSTODIAN),
    ROW("Keys/Show", show_key_request, key_detail, UNARY, VIEWER),
    ROW("Keys/Compromise", signed_call, key_detail, UNARY, ADMIN),
    ROW("Keys/Destroy", signed_call, destroy_key_response, UNARY, ADMIN),
    ROW("Keys/ListKeks", list_keks_request, list_keks_response, UNARY, VIEWER),
    ROW("Keys/AddKek", signed_call, add_kek_response, UNARY, ADMIN),
    ROW("Keys/RemoveKek", signed_call, done, UNARY, ADMIN),
    ROW("Keys/CheckKeystore", check_keystore_request, check_keystore_response, UNARY, OPERATOR),
    ROW("Keys/ExportKeystore", signed_call, keystore_export, SERVER_STREAM, ADMIN),
    ROW("Keys/Reconcile", signed_call, reconcile_response, UNARY, ADMIN),
    ROW("Keys/EnrolKeyslot", enrol_keyslot_request, enrol_keyslot_response, UNARY, OPERATOR),
    ROW("Keys/ListProviders", list_providers_request, list_providers_response, UNARY, VIEWER),
    ROW("Keys/TestProvider", test_provider_request, test_provider_response, UNARY, OPERATOR),

    ROW("Fleet/ListMachines", list_machines_request, list_machines_response, UNARY, VIEWER),
    ROW("Fleet/GetMachine", get_machine_request, machine, UNARY, VIEWER),
    ROW("Fleet/Watch", watch_request, fleet_event, SERVER_STREAM, VIEWER),
    ROW("Fleet/AddMachine", add_machine_request, machine, UNARY, OPERATOR),
    ROW("Fleet/SetSource", set_source_request, machine, UNARY, ADMIN),
    ROW("Fleet/SetPolicy", set_policy_request, machine, UNARY, ADMIN),
    ROW("Fleet/ReleaseQuarantine", release_quarantine_request, machine, UNARY, OPERATOR),
    ROW("Fleet/GetStatus", status_request, status_response, UNARY, VIEWER),
    ROW("Fleet/ListEvents", list_events_request, list_events_response, UNARY, VIEWER),

    ROW("Admin/CreateToken", signed_call, create_token_response, UNARY, ADMIN),
    ROW("Admin/ListTokens", list_tokens_request, list_tokens_response, UNARY, ADMIN),
    ROW("Admin/RevokeToken", signed_call, done, UNARY, ADMIN),
    ROW("Admin/AddUser", signed_call, add_user_response, UNARY, ADMIN),
    ROW("Admin/ListUsers", list_users_request, list_users_response, UNARY, ADMIN),
    ROW("Admin/RevokeUser", signed_call, done, UNARY, ADMIN),
    ROW("Admin/RevokeMachine", signed_call, done, UNARY, ADMIN),
    ROW("Admin/ApproveMachine", signed_call, done, UNARY, ADMIN),
    ROW("Admin/ListAudit", list_audit_request, audit_entry, SERVER_STREAM, ADMIN),
};

const struct rpc_method *sp_method(const char *name)
{
    for (size_t i = 0; i < SP_COUNT(rows); i++)
        if (strcmp(rows[i].path + strlen(PACKAGE), name) == 0)
            return &rows[i];
    return NULL;
}

struct rpc_method rpc_bind(const char *name, void (*open)(struct rpc_call *),
                           void (*message)(struct rpc_call *, const ProtobufCMessage *),
                           void (*half_close)(struct rpc_call *),
                           void (*closed)(struct rpc_call *, int status, const char *detail))
{
    const struct rpc_method *row = sp_method(name);
    if (!row)
        abort();
    struct rpc_method bound = *row;
    bound.open = open;
    bound.message = message;
    bound.half_close = half_close;
    bound.closed = closed;
    return bound;
}
