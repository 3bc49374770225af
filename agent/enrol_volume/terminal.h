/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The person at the terminal of the guest. */
#ifndef SEALPOINT_ENROL_VOLUME_TERMINAL_H
#define SEALPOINT_ENROL_VOLUME_TERMINAL_H

#include "base/secret.h"
#include "base/why.h"

/* A line to standard output. */
void terminal_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Asks without echo, on the terminal and nowhere else. -ENOTTY: there is none; -ENODATA: nothing
 * was typed. */
int terminal_ask(const char *prompt, struct sp_secret **ret, struct sp_why *why);

#endif
