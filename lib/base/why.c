/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/why.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

int sp_why_set(struct sp_why *why, int error, const char *format, ...)
{
    if (!why)
        return error;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(why->text, sizeof(why->text), format, args);
    va_end(args);
    return error;
}

int sp_why_prefix(struct sp_why *why, int error, const char *format, ...)
{
    if (!why)
        return error;
    char old[sizeof(why->text)];
    memcpy(old, why->text, sizeof(old));
    va_list args;
    va_start(args, format);
    int used = vsnprintf(why->text, sizeof(why->text), format, args);
    va_end(args);
    if (used < 0 || (size_t)used + 2 >= sizeof(why->text))
        return error;
    char *to = why->text + used;
    size_t room = sizeof(why->text) - (size_t)used - 2, length = strnlen(old, room - 1);
    memcpy(to, ": ", 2);
    memcpy(to + 2, old, length);
    to[2 + length] = 0;
    return error;
}

struct sp_why sp_why_told(const struct sp_why *why, int error)
{
    struct sp_why told = *why;
    const char *cause = strerror(error < 0 ? -error : error);
    bool bare = strncmp(why->text, "cannot ", 7) == 0 && !strstr(why->text, ": ");
    if (!why->text[0])
        (void)sp_why_set(&told, error, "%s", cause);
    else if (bare)
        (void)sp_why_set(&told, error, "%s: %s", why->text, cause);
    return told;
}
