# SPDX-License-Identifier: GPL-3.0-or-later
#
# Read by cpack for each generator: guests run distributions with .rpm, too; backup hosts are Debian.
if(CPACK_GENERATOR STREQUAL "RPM")
    set(CPACK_COMPONENTS_ALL agent)
endif()
