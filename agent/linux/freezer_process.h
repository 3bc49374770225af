/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The freezer: a second process, armed before the first FIFREEZE.
 *
 *   agent ──ADD(index)+fd…──▶ │ a thread is made for each entry of the list
 *         ──FREEZE(lease)───▶ │ level by level, highest first: FIFREEZE in the threads
 *         ◀────────FROZEN──── │ hold, until THAW, the deadline, or the agent's end (EOF)
 *         ──THAW────────────▶ │ level by level, lowest first: FITHAW in the same threads
 *         ◀────────ENDED───── │
 *
 * From the first FIFREEZE call to the last FITHAW return it allocates nothing, logs nothing, opens
 * nothing and executes nothing; its memory is locked; it waits for one absolute CLOCK_MONOTONIC
 * time. A FIFREEZE that returns after the hold has ended is thawed by its own thread at once; the
 * process does not exit before every such thread is through, since an exit would leave that file
 * system frozen. A suspension that blocks is interrupted when the hold ends; should it return with
 * success all the same, it is resumed like that.
 *
 * Results are written to the frozen list (freeze_list.h), never into messages. */
#ifndef SEALPOINT_AGENT_FREEZER_PROCESS_H
#define SEALPOINT_AGENT_FREEZER_PROCESS_H

#include <stdint.h>

/* Over a SOCK_SEQPACKET socket pair; one host, one binary. */
enum freezer_kind {
    FREEZER_ADD =
        1, /* value: index in the list; brings the mount's fd, of a device /dev/mapper/control's */
    FREEZER_FREEZE,     /* value: lease in ms */
    FREEZER_THAW,       /* value: enum freeze_end that it counts as, 0: COMMAND */
    FREEZER_READY = 16, /* value: 0, or why memory could not be locked (errno) */
    FREEZER_FROZEN,
    FREEZER_ENDED /* value: enum freeze_end */
};
struct freezer_message {
    uint32_t kind, value;
};

/* The calls, replaceable in tests. Each returns 0 or -1 with errno, as ioctl(2). */
struct freezer_calls {
    int (*freeze)(int fd);
    int (*thaw)(int fd);
    int (*suspend)(int control, const char *devno);
    int (*resume)(int control, const char *devno);
};
extern const struct freezer_calls freezer_calls_system;

/* Serves until the agent's end of `socket` is gone and nothing is frozen. The list's lock must be
 * taken before (freezer_process_main does). */
struct freeze_list;
int freezer_serve(int socket, struct freeze_list *list, const struct freezer_calls *calls,
                  int lock_error);

/* `sealpoint-agent freezer`: socket on fd 3, list on fd 4. Returns the exit status. */
enum { FREEZER_SOCKET_FD = 3, FREEZER_LIST_FD = 4 };
int freezer_process_main(void);

#endif
