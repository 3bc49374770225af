/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Logs: to stderr, one line an event, "<priority>event key=value …" with the journal's priority
 * prefix (sd-daemon(3)), or one JSON object a line. Programs log at every level; libraries at debug
 * only. Each line is one write(2). Values are escaped, so that no input can forge a line. Never
 * pass a secret. Any thread. */
#ifndef SEALPOINT_BASE_LOG_H
#define SEALPOINT_BASE_LOG_H

#include <stdbool.h>

enum sp_log_level { SP_LOG_ERROR = 3, SP_LOG_WARNING = 4, SP_LOG_INFO = 6, SP_LOG_DEBUG = 7 };
enum sp_log_format { SP_LOG_TEXT, SP_LOG_JSON };

/* Call before the first thread. `program` is kept, not copied. */
void sp_log_setup(const char *program, enum sp_log_level most, enum sp_log_format format);

/* Parses the values of --log-format and --log-level; -EINVAL if unknown. */
int sp_log_parse_format(const char *text, enum sp_log_format *ret_format);
int sp_log_parse_level(const char *text, enum sp_log_level *ret_level);

/* One event and its pairs: key, printf-free value strings, ended by NULL.
 *     sp_log(SP_LOG_INFO, "agent connected", "machine", name, "address", peer, NULL);
 * A NULL value is left out together with its key. */
void sp_log(enum sp_log_level level, const char *event, ...) __attribute__((sentinel));

/* As sp_log, with "error" (strerror of the negative errno) and, if not empty, "why" added. */
struct sp_why;
void sp_log_error(const char *event, int error, const struct sp_why *why, ...)
    __attribute__((sentinel));

/* A number as text for the pairs of one sp_log() call; the buffer lives to the end of the block. */
#define SP_LOG_NUMBER(n) (sp_log_number((char[24]){0}, (long long)(n)))
const char *sp_log_number(char buffer[24], long long n);

#endif
