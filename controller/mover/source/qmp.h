/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A client of the QEMU Machine Protocol (docs/interop/qmp-spec.txt of QEMU): one JSON object a line
 * over a unix socket; a greeting, then one reply for each command, events in between. A reply is
 * untrusted: lines and nesting are bounded, every field is fetched through the typed getters below,
 * and what is malformed ends the connection with a clear error.
 *
 * A QMP socket serves one client at a time, so a connection is opened for one piece of work and
 * closed after it. One thread at a time. */
#ifndef SEALPOINT_SOURCE_QMP_H
#define SEALPOINT_SOURCE_QMP_H

#include "base/why.h"
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { QMP_MAX_LINE = 16 << 20, QMP_MAX_DEPTH = 64, QMP_TIMEOUT_MS = 30000 };

struct qmp;

/* Connects, reads the greeting, leaves the negotiation mode. -ENOENT and -ECONNREFUSED: nobody
 * serves the socket; -ETIMEDOUT: somebody else may be connected; -EPROTO: it does not speak QMP. */
int qmp_open(const char *path, unsigned timeout_ms, struct qmp **ret, struct sp_why *why);
/* The same over a connected socket, which is owned from here on, also after a failure. */
int qmp_open_fd(int fd, unsigned timeout_ms, struct qmp **ret, struct sp_why *why);
void qmp_close(struct qmp *q);
/* major × 1,000,000 + minor × 1,000 + micro, from the greeting. */
uint32_t qmp_version(const struct qmp *q);

/* Runs a command. `arguments` is consumed (NULL: none; when qmp_object() had no memory QEMU refuses
 * the command, which then lacks what it needs). *ret, if asked for, is the
 * "return" value, to json_object_put(). -EREMOTEIO: QEMU refused, why says what it said; -EPROTO,
 * -ECONNRESET, -ETIMEDOUT: the connection is of no more use, every later call fails likewise. */
int qmp_call(struct qmp *q, const char *command, json_object *arguments, json_object **ret,
             struct sp_why *why);
/* Passes a file descriptor with the command (add-fd, getfd). fd stays the caller's. */
int qmp_call_fd(struct qmp *q, const char *command, json_object *arguments, int fd,
                json_object **ret, struct sp_why *why);
/* Was the last -EREMOTEIO of this error class ("DeviceNotFound", "CommandNotFound")? */
bool qmp_refused_as(const struct qmp *q, const char *error_class);

/* An object from "key=t,key=t": t is s (const char *), n (int64_t), b (int), o (json_object *,
 * consumed). NULL on -ENOMEM. */
json_object *qmp_object(const char *keys, ...);

/* A field of the wanted type, else NULL, 0 or false. Any json_object, NULL included, is fine. */
const char *qmp_string(json_object *o, const char *key);
uint64_t qmp_number(json_object *o, const char *key);
bool qmp_flag(json_object *o, const char *key);
json_object *qmp_get_object(json_object *o, const char *key);
json_object *qmp_get_array(json_object *o, const char *key);
size_t qmp_length(json_object *array);
json_object *qmp_at(json_object *array, size_t i);

/* One line, parsed. For tests and the fuzzer; qmp_call() is made of it. */
enum qmp_kind { QMP_GREETING, QMP_RETURN, QMP_ERROR, QMP_EVENT };
struct qmp_message {
    enum qmp_kind kind;
    json_object *whole; /* owned; put it */
    json_object *value; /* inside whole: "QMP", "return", "error" (an object), or the event */
    uint64_t id;        /* of a reply; 0: none */
};
/* -EPROTO: not one JSON object of one of the four kinds. */
int qmp_parse(const char *line, size_t size, struct qmp_message *ret, struct sp_why *why);

static inline void qmp_cleanup_json(json_object **o)
{
    json_object_put(*o);
}
/* clang takes a variable that is only there to be cleaned up for unused. */
#define QMP_JSON __attribute__((cleanup(qmp_cleanup_json), unused))
static inline void qmp_cleanup(struct qmp **q)
{
    qmp_close(*q);
}
#define QMP_CLOSE __attribute__((cleanup(qmp_cleanup)))

#endif
