/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the guest is, for Hello and Enrol. */
#ifndef SEALPOINT_AGENT_HOST_H
#define SEALPOINT_AGENT_HOST_H

#include <stdint.h>

struct host_facts {
    char smbios_uuid[64], vm_generation_id[64], boot_id[64];
    char os[128], kernel[192];
};
/* What cannot be read stays empty. */
void host_read(struct host_facts *ret);

/* Resident memory of this process. */
uint64_t host_rss_bytes(void);

#endif
