/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Messages for the tests, in one line each. All are on the heap; failures end the test. */
#ifndef SEALPOINT_TEST_CONTROLLER_BUILD_H
#define SEALPOINT_TEST_CONTROLLER_BUILD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "controller/message.h"
#include <sealpoint/v1/agent_link.pb-c.h>
#include <sealpoint/v1/node.pb-c.h>

Sp__Finding *a_finding(Sp__Reason reason, const char *volume_id, const char *disk_id,
                       uint64_t offset);
Sp__Volume *a_volume(Sp__VolumeKind kind, const char *volume_id, const char *disk_id,
                     uint64_t offset, uint64_t length);
void with_header(Sp__Volume *, const char *uuid, uint8_t fingerprint);
Sp__BlockDevice *a_device(const char *name, const char *type, const char *serial,
                          const char *parent);
Sp__SourceDisk *a_source_disk(const char *disk_id, const char *serial, const char *pci_path);
Sp__FileSystem *a_file_system(const char *mount_point, const char *device);
Sp__FreezeResult *a_result(const char *mount_point, Sp__FreezeResult__Outcome outcome);
Sp__DiskImage *a_disk(const char *disk_id, uint64_t size);
/* A folder under TMPDIR that the caller removes with remove_folder(). */
char *make_folder(void);
void remove_folder(char *);

#define ADD(message, member, item)                                                                 \
    assert_int_equal(message_append(&(message)->member, &(message)->n_##member, (item)), 0)

#endif
