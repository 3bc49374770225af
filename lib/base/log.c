/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/log.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/why.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct {
    const char *program;
    enum sp_log_level most;
    enum sp_log_format format;
} setup = {"sealpoint", SP_LOG_INFO, SP_LOG_TEXT};

void sp_log_setup(const char *program, enum sp_log_level most, enum sp_log_format format)
{
    setup.program = program;
    setup.most = most;
    setup.format = format;
}

int sp_log_parse_format(const char *text, enum sp_log_format *ret_format)
{
    if (strcmp(text, "text") == 0)
        *ret_format = SP_LOG_TEXT;
    else if (strcmp(text, "json") == 0)
        *ret_format = SP_LOG_JSON;
    else
        return -EINVAL;
    return 0;
}

static const struct {
    const char *name;
    enum sp_log_level level;
} levels[] = {
    {"error", SP_LOG_ERROR},
    {"warning", SP_LOG_WARNING},
    {"info", SP_LOG_INFO},
    {"debug", SP_LOG_DEBUG},
};

int sp_log_parse_level(const char *text, enum sp_log_level *ret_level)
{
    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        if (strcmp(text, levels[i].name) == 0) {
            *ret_level = levels[i].level;
            return 0;
        }
    }
    return -EINVAL;
}

const char *sp_log_number(char buffer[24], long long n)
{
    (void)snprintf(buffer, 24, "%lld", n);
    return buffer;
}

/* A JSON string. Bytes that are not ASCII go through: what is not UTF-8 is the reader's to show. */
static void put_quoted(struct sp_buffer *line, const char *text)
{
    (void)sp_buffer_append(line, "\"", 1);
    for (const char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\\')
            (void)sp_buffer_printf(line, "\\%c", c);
        else if (c == '\n')
            (void)sp_buffer_append(line, "\\n", 2);
        else if (c < 0x20 || c == 0x7f)
            (void)sp_buffer_printf(line, "\\u%04x", c);
        else
            (void)sp_buffer_append(line, p, 1);
    }
    (void)sp_buffer_append(line, "\"", 1);
}

static void put_value(struct sp_buffer *line, const char *text)
{
    bool bare = *text != 0;
    for (const char *p = text; *p && bare; p++)
        bare = (unsigned char)*p > 0x20 && *p != '"' && *p != '\\' && *p != '=' && *p != 0x7f;
    if (bare)
        (void)sp_buffer_append(line, text, strlen(text));
    else
        put_quoted(line, text);
}

static void put_pair(struct sp_buffer *line, const char *key, const char *value)
{
    if (setup.format == SP_LOG_JSON) {
        (void)sp_buffer_append(line, ",", 1);
        put_quoted(line, key);
        (void)sp_buffer_append(line, ":", 1);
        put_quoted(line, value);
    } else {
        (void)sp_buffer_printf(line, " %s=", key);
        put_value(line, value);
    }
}

static void begin(struct sp_buffer *line, enum sp_log_level level, const char *event)
{
    if (setup.format == SP_LOG_TEXT) {
        (void)sp_buffer_printf(line, "<%d>%s", (int)level, event);
        return;
    }
    (void)sp_buffer_printf(line, "{\"time_unix_ms\":%llu,\"priority\":%d,\"program\":",
                           (unsigned long long)sp_clock_system.wall_ms(NULL), (int)level);
    put_quoted(line, setup.program);
    (void)sp_buffer_append(line, ",\"event\":", 9);
    put_quoted(line, event);
}

static void put_pairs(struct sp_buffer *line, va_list pairs)
{
    for (;;) {
        const char *key = va_arg(pairs, const char *);
        if (!key)
            break;
        const char *value = va_arg(pairs, const char *);
        if (value)
            put_pair(line, key, value);
    }
}

static void end(struct sp_buffer *line)
{
    /* A line that grew too long keeps its beginning; nobody is to be told by an error that a log
     * line could not be written, so the result of write is not used. */
    (void)sp_buffer_append(line, setup.format == SP_LOG_JSON ? "}\n" : "\n",
                           setup.format == SP_LOG_JSON ? 2 : 1);
    (void)sp_write_all(STDERR_FILENO, line->data, line->size);
}

void sp_log(enum sp_log_level level, const char *event, ...)
{
    if (level > setup.most)
        return;
    int saved = errno;
    SP_BUFFER struct sp_buffer line = {0};
    begin(&line, level, event);
    va_list pairs;
    va_start(pairs, event);
    put_pairs(&line, pairs);
    va_end(pairs);
    end(&line);
    errno = saved;
}

void sp_log_error(const char *event, int error, const struct sp_why *why, ...)
{
    int saved = errno;
    SP_BUFFER struct sp_buffer line = {0};
    begin(&line, SP_LOG_ERROR, event);
    char text[128];
    put_pair(&line, "error", strerror_r(error < 0 ? -error : error, text, sizeof(text)));
    if (why && why->text[0])
        put_pair(&line, "why", why->text);
    va_list pairs;
    va_start(pairs, why);
    put_pairs(&line, pairs);
    va_end(pairs);
    end(&line);
    errno = saved;
}
