/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Everything that QEMU may say while its disks are described: the input is the server's side of a
 * QMP connection, all of it in the socket before the client starts. */
#include "controller/mover/source/qemu.h"

#include "base/file.h"

#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fds[2];
    if (size > 65536 || socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
        return 0;
    sp_write_all(fds[1], data, size);
    shutdown(fds[1], SHUT_WR);
    struct qmp *q = NULL;
    struct sp_why why;
    Sp__DescribeResponse *m = NULL;
    if (!qmp_open_fd(fds[0], 1000, &q, &why) && !qemu_describe_on(q, &m, &why))
        sp__describe_response__free_unpacked(m, NULL);
    qmp_close(q);
    close(fds[1]);
    return 0;
}
