/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A TLS server on loopback in a thread of the test, for servers that are made up. Asserts. */
#ifndef KEEPER_TLS_SERVER_H
#define KEEPER_TLS_SERVER_H

#include <openssl/ssl.h>
#include <pthread.h>

/* One connection; the socket is closed after it. */
typedef void tls_serve_fn(SSL *);

struct tls_server {
    tls_serve_fn *serve; /* one connection after the other */
    int silent;          /* never begins TLS */
    int listener, port;
    pthread_t thread;
};
void tls_server_start(struct tls_server *);
/* After the client has closed what it opened. */
void tls_server_end(struct tls_server *);

/* Once for a program: makes a certificate for 127.0.0.1, its file and one of somebody else, and the
 * file of its key, for clients that need some certificate. */
void tls_server_setup(void);
void tls_server_teardown(void);
extern char tls_ca_file[], tls_other_ca[], tls_key_file[];

#endif
