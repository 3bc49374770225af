/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Following a job to its end. */
#ifndef SEALPOINT_CLI_JOB_H
#define SEALPOINT_CLI_JOB_H

#include "base/bytes.h"
#include "controller/cli/cli.h"

/* Shows its progress and prints how it ended. CLI_OK: the point is valid; CLI_NOT_VALID: it ended
 * otherwise. */
int cli_follow_job(struct cli *, const char *job_id, const char *what);

#endif
