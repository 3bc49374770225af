/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A peer that writes anything at all to the keeper's socket, and one that asks for snapshot bytes.
 */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/frame.h"
#include <fcntl.h>
#include <sealpoint/v1/keeper.pb-c.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int read_nothing(void *self, uint32_t disk, uint64_t offset, void *out, uint32_t length)
{
    (void)self;
    (void)offset;
    if (disk > 3 || length > 4096)
        return -ERANGE;
    memset(out, 0, length);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int s[2];
    if (size > 32 << 10 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s) < 0)
        return 0;
    if (sp_write_all(s[0], data, size) == 0)
        shutdown(s[0], SHUT_WR);
    if (size && data[0] & 1) {
        /* The answers must not fill the socket: nobody reads them. */
        (void)fcntl(s[1], F_SETFL, O_NONBLOCK);
        close(s[0]);
        s[0] = -1;
        (void)sp_pread_serve(s[1], -1, read_nothing, NULL);
    }
    for (;;) {
        ProtobufCMessage *m = NULL;
        if (sp_frame_receive(s[1], &sp__keeper_request__descriptor, NULL, &m, NULL, 0, NULL, 100) <
            0)
            break;
        protobuf_c_message_free_unpacked(m, NULL);
    }
    if (s[0] >= 0)
        close(s[0]);
    close(s[1]);
    return 0;
}
