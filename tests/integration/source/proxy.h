/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Parts of a proxy between the source and QEMU's monitor. Every function fails the test when it
 * fails. */
#ifndef TEST_SOURCE_PROXY_H
#define TEST_SOURCE_PROXY_H

#include <stdbool.h>
#include <stddef.h>

int proxy_listen(const char *path);
int proxy_connect(const char *path);
/* One chunk with what descriptors it carries; the bytes, 0 at the end. to -1: it is dropped. */
size_t proxy_relay(int from, int to, char *out, size_t room);
/* Whether the command changes anything in QEMU. */
bool proxy_changes(const char *line);

#endif
