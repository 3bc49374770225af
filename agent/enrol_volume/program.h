/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The program but for its main(), so that a test's can tell it where to end. */
#ifndef SEALPOINT_ENROL_VOLUME_PROGRAM_H
#define SEALPOINT_ENROL_VOLUME_PROGRAM_H

#include "agent/enrol_volume/keyslot.h"

/* The exit status. `at`: as in struct keyslot_options. */
int enrol_volume_program(int argc, char **argv, void (*at)(void *self, enum keyslot_step),
                         void *self);

#endif
