/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A QEMU without a guest system, for tests of the source. Writes of "the guest" are made with the
 * monitor's qemu-io on the device, so that they pass through whatever filter is on it. Every
 * function fails the test when it fails. */
#ifndef TEST_SOURCE_VM_H
#define TEST_SOURCE_VM_H

#include "controller/mover/source/qmp.h"
#include "controller/mover/source/source.h"
#include <sys/types.h>

enum { VM_DISKS = 4, VM_DISK_BYTES = 64 << 20, VM_PATTERN_BYTES = 32 << 20 };

struct vm {
    char folder[64];
    char source_socket[128], test_socket[128];
    pid_t pid;
    struct qmp *qmp;
    Sp__QemuSource qemu;
    Sp__SourceConfig config;
};

/* d0 raw (id disk0), d1 qcow2 (no id), d2 raw on SCSI, d3 raw in an iothread; a CD drive and a
 * read-only disk, which are skipped. Each disk's first half is filled with 0x10 + its number. */
void vm_start(struct vm *vm);
void vm_stop(struct vm *vm);
/* QEMU ends as asked to, or is killed, and starts again on the same images. */
void vm_restart(struct vm *vm, bool killed);
/* The QOM path of disk n. */
const char *vm_device(size_t n);
/* One qemu-io command on disk n, through its filters. */
void vm_io(struct vm *vm, size_t n, const char *command);
/* "running", "paused", … */
void vm_status(struct vm *vm, char out[32]);
/* What release must leave as it was: nodes with their bitmaps, devices, exports, jobs, fdsets, and
 * the state. Text to free(). */
char *vm_state(struct vm *vm, bool with_bitmaps);
/* The bitmaps of a node, "name:recording name:…" in byte order. Text to free(). */
char *vm_bitmaps(struct vm *vm, const char *node);

/* Calls the source. */
int vm_snapshot(struct vm *vm, const char *point, bool held, source_journal_fn *journal, void *self,
                struct source_snapshot **ret, Sp__SnapshotResponse **ret_response,
                struct sp_why *why);
int vm_release(struct vm *vm, const char *point, const char *journal, bool transferred,
               struct sp_why *why);
int vm_no_journal(void *self, const char *journal);

#endif
