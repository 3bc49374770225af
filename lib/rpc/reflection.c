/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * grpc.reflection.v1alpha: what a foreign client asks to learn the methods of this server. Services
 * are those of the server's tables; their descriptors come from a FileDescriptorSet. */
#include "base/cleanup.h"
#include "internal.h"
#include <errno.h>
#include <grpc/reflection/v1alpha/reflection.pb-c.h>
#include <stdlib.h>
#include <string.h>

#define ASK(name)    GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##name
#define ANSWER(name) GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##name

#define NO_ANSWER GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE__NOT_SET

typedef Grpc__Reflection__V1alpha__ServerReflectionRequest request;
typedef Grpc__Reflection__V1alpha__ServerReflectionResponse response;
typedef Grpc__Reflection__V1alpha__ServiceResponse service;

struct services {
    size_t count;
    service *all;
    service **pointers;
    char *names; /* all of them, one after the other */
};

static void services_free(struct services *s)
{
    free(s->all);
    free(s->pointers);
    free(s->names);
}

/* Has this service of table t, row m, been named by an earlier row? */
static bool is_repeated(const struct rpc_server *s, const struct rpc_method *row, size_t size)
{
    for (const struct rpc_method **table = s->tables; *table; table++)
        for (const struct rpc_method *m = *table; m->path; m++) {
            if (m == row)
                return false;
            if (strncmp(m->path, row->path, size + 2) == 0)
                return true;
        }
    return false;
}

static int list_services(const struct rpc_server *s, struct services *ret)
{
    size_t rows = 1, bytes = 1;
    char *at;

    for (const struct rpc_method **table = s->tables; *table; table++)
        for (const struct rpc_method *m = *table; m->path; m++) {
            rows++;
            bytes += strlen(m->path) + 1;
        }
    ret->all = calloc(rows, sizeof *ret->all);
    ret->pointers = calloc(rows, sizeof(service *));
    ret->names = at = malloc(bytes);
    if (!ret->all || !ret->pointers || !ret->names)
        return -ENOMEM;
    for (const struct rpc_method **table = s->tables; *table; table++)
        for (const struct rpc_method *m = *table; m->path; m++) {
            size_t size = strcspn(m->path + 1, "/");
            if (is_repeated(s, m, size))
                continue;
            service *one = &ret->all[ret->count];
            grpc__reflection__v1alpha__service_response__init(one);
            memcpy(at, m->path + 1, size);
            at[size] = 0;
            one->name = at;
            at += size + 1;
            ret->pointers[ret->count++] = one;
        }
    return 0;
}

/* The answer's one member lies on the stack of who made it. */
static void send_answer(struct rpc_call *c, response *r)
{
    rpc_send(c, &r->base);
    r->message_response_case = NO_ANSWER;
    r->list_services_response = NULL;
}

static void answer_services(struct rpc_call *c, response *r)
{
    __attribute__((cleanup(services_free))) struct services s = {0};
    Grpc__Reflection__V1alpha__ListServiceResponse list =
        GRPC__REFLECTION__V1ALPHA__LIST_SERVICE_RESPONSE__INIT;

    if (list_services(c->server, &s) < 0) {
        rpc_finish(c, RPC_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    list.n_service = s.count;
    list.service = s.pointers;
    r->message_response_case = ANSWER(LIST_SERVICES_RESPONSE);
    r->list_services_response = &list;
    send_answer(c, r);
}

static void answer_error(struct rpc_call *c, response *r, int status, const char *text)
{
    Grpc__Reflection__V1alpha__ErrorResponse error =
        GRPC__REFLECTION__V1ALPHA__ERROR_RESPONSE__INIT;

    error.error_code = status;
    error.error_message = (char *)text;
    r->message_response_case = ANSWER(ERROR_RESPONSE);
    r->error_response = &error;
    send_answer(c, r);
}

static void answer_file(struct rpc_call *c, response *r, struct sp_bytes file)
{
    Grpc__Reflection__V1alpha__FileDescriptorResponse found =
        GRPC__REFLECTION__V1ALPHA__FILE_DESCRIPTOR_RESPONSE__INIT;
    ProtobufCBinaryData one = {file.size, (uint8_t *)file.data};

    if (file.size == 0) {
        answer_error(c, r, RPC_NOT_FOUND, "this server knows no such file or symbol");
        return;
    }
    found.n_file_descriptor_proto = 1;
    found.file_descriptor_proto = &one;
    r->message_response_case = ANSWER(FILE_DESCRIPTOR_RESPONSE);
    r->file_descriptor_response = &found;
    send_answer(c, r);
}

static void message(struct rpc_call *c, const ProtobufCMessage *received)
{
    const request *q = (const void *)received;
    const struct rpc_descriptors *d = c->server->descriptors;
    response r = GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__INIT;

    r.valid_host = q->host;
    r.original_request = (request *)q;
    switch (q->message_request_case) {
    case ASK(LIST_SERVICES):
        answer_services(c, &r);
        return;
    case ASK(FILE_BY_FILENAME):
        answer_file(c, &r, rpc_descriptors_by_name(d, q->file_by_filename));
        return;
    case ASK(FILE_CONTAINING_SYMBOL):
        answer_file(c, &r, rpc_descriptors_by_symbol(d, q->file_containing_symbol));
        return;
    case ASK(FILE_CONTAINING_EXTENSION):
    case ASK(ALL_EXTENSION_NUMBERS_OF_TYPE):
        answer_error(c, &r, RPC_NOT_FOUND, "proto3 has no extensions");
        return;
    default:
        answer_error(c, &r, RPC_INVALID_ARGUMENT, "this server does not know that question");
        return;
    }
}

static void half_close(struct rpc_call *c)
{
    rpc_finish(c, RPC_OK, NULL);
}

const struct rpc_method rpc_reflection_table[] = {
    {.path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
     .request = &grpc__reflection__v1alpha__server_reflection_request__descriptor,
     .response = &grpc__reflection__v1alpha__server_reflection_response__descriptor,
     .flags = RPC_BIDI,
     .permission = RPC_ANY_IDENTITY,
     .message = message,
     .half_close = half_close},
    {0}};
