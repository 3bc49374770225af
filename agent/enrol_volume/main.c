/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/enrol_volume/program.h"
#include <stddef.h>

int main(int argc, char **argv)
{
    return enrol_volume_program(argc, argv, NULL, NULL);
}
