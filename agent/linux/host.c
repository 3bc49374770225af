/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/host.h"
#include "agent/linux/scan.h"
#include "base/cleanup.h"
#include "base/file.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

/* PRETTY_NAME="…" of os-release(5). */
static void read_os(char *out, size_t size)
{
    static const char key[] = "PRETTY_NAME=";
    SP_FREE char *text = NULL;
    if (sp_file_read("/etc/os-release", 65536, &text, NULL) < 0 &&
        sp_file_read("/usr/lib/os-release", 65536, &text, NULL) < 0)
        return;
    char *at = strstr(text, key);
    if (!at)
        return;
    at += sizeof(key) - 1;
    at[strcspn(at, "\n")] = 0;
    size_t n = strlen(at);
    if (n >= 2 && (*at == '"' || *at == '\'') && at[n - 1] == *at) {
        at[n - 1] = 0;
        at++;
    }
    snprintf(out, size, "%s", at);
}

/* The 16 bytes at offset 40 of QEMU's blob, in the mixed order of a GUID (docs/specs/vmgenid.txt).
 */
static void read_generation_id(char *out, size_t size)
{
    SP_FREE char *data = NULL;
    size_t length = 0;
    if (sp_file_read("/sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw", 65536, &data,
                     &length) < 0 ||
        length < 56)
        return;
    const unsigned char *g = (const unsigned char *)data + 40;
    snprintf(out, size, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
             g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6], g[8], g[9], g[10], g[11], g[12], g[13],
             g[14], g[15]);
}

void host_read(struct host_facts *ret)
{
    *ret = (struct host_facts){0};
    scan_attribute("/sys/class/dmi/id", "product_uuid", ret->smbios_uuid, sizeof(ret->smbios_uuid));
    scan_attribute("/proc/sys/kernel/random", "boot_id", ret->boot_id, sizeof(ret->boot_id));
    read_generation_id(ret->vm_generation_id, sizeof(ret->vm_generation_id));
    read_os(ret->os, sizeof(ret->os));
    struct utsname name;
    if (uname(&name) == 0)
        snprintf(ret->kernel, sizeof(ret->kernel), "%s %.64s", name.sysname, name.release);
}

uint64_t host_rss_bytes(void)
{
    char text[128];
    unsigned long long size, resident;
    scan_attribute("/proc/self", "statm", text, sizeof(text));
    if (sscanf(text, "%llu %llu", &size, &resident) != 2)
        return 0;
    return resident * (unsigned long long)sysconf(_SC_PAGESIZE);
}
