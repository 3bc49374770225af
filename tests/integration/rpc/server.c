/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The server of the unit tests' rig for a client in another language: prints PORT and FOLDER (with
 * trust.pem, user.pem, user.key, …) and serves until its standard input ends. Lines "sick" and
 * "well" on it change the health. */
#include "rig.h"
#include <stdio.h>
#include <string.h>

static void with_descriptors(struct rpc_server_options *o)
{
    o->descriptors_path = PROTOSET;
    o->keepalive_ms = 4000; /* foreign clients may ping every two seconds */
}

int main(void)
{
    char line[16];

    rpc_setup();
    rig_start(with_descriptors);
    printf("%d %s\n", rig.port, rig.pki.folder);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin))
        rpc_server_set_healthy(rig.server, strcmp(line, "sick\n") != 0);
    rig_stop();
    rpc_teardown();
    return 0;
}
