/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The id under which a cloud knows this guest, from its instance metadata service:
 *
 *   azure      GET /metadata/instance/compute/vmId   (Azure Instance Metadata Service)
 *   openstack  GET /openstack/latest/meta_data.json, "uuid"   (Nova, metadata for servers)
 *
 * libcurl is loaded only for this, in a process of its own that ends with the answer: it would take
 * the agent 4 MB for good. */
#ifndef SEALPOINT_AGENT_METADATA_H
#define SEALPOINT_AGENT_METADATA_H

#include "agent/config.h"
#include "base/why.h"

/* "azure" or "openstack", as configured or as the firmware's tables say; NULL: no cloud. */
const char *metadata_cloud(const struct agent_config *config);
/* Asks the service; takes five seconds at most. 0, or a negative errno: -ETIMEDOUT, -EPROTO (no
 * UUID came), -ENOSYS (no libcurl here), … */
int metadata_vm_id(const struct agent_config *config, const char *cloud, char ret[37],
                   struct sp_why *why);

/* The process that asks: prints the id, or one line of complaint on standard error. Exit status. */
int metadata_main(const char *cloud, const char *url);

#endif
