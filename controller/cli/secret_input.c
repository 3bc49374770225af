/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/cli/cli.h"

#include <fcntl.h>
#include <string.h>
#include <termios.h>

/* As cryptsetup's limit for key files. */
enum { SECRET_MAX_BYTES = 8 << 20, PROMPT_MAX_BYTES = 512 };

static void strip_line_end(struct sp_secret *s)
{
    size_t n = sp_secret_size(s);
    const uint8_t *p = sp_secret_data(s);
    if (n && p[n - 1] == '\n')
        n--;
    if (n && n < sp_secret_size(s) && p[n - 1] == '\r')
        n--;
    sp_secret_shrink(s, n);
}

/* The size is asked first: secret memory is locked, and a limit of 8 MiB would ask for all of it.
 */
static int read_file(const char *path, struct sp_secret **ret)
{
    if (strcmp(path, "-") == 0)
        return sp_secret_read(STDIN_FILENO, 64 << 10, ret);
    SP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return -errno;
    off_t size = lseek(fd, 0, SEEK_END);
    if (size > SECRET_MAX_BYTES)
        return -EFBIG;
    if (size >= 0 && lseek(fd, 0, SEEK_SET) < 0)
        return -errno;
    return sp_secret_read(fd, size > 0 ? (size_t)size : 64 << 10, ret);
}

int cli_secret_file(const char *path, bool strip, struct sp_secret **ret)
{
    SP_SECRET struct sp_secret *s = NULL;
    int r = read_file(path, &s);
    if (r < 0)
        return cli_fail(CLI_ERROR, "cannot read the secret in %s: %s", path, strerror(-r));
    if (strip)
        strip_line_end(s);
    if (sp_secret_size(s) == 0)
        return cli_fail(CLI_ERROR, "%s is empty", path);
    *ret = sp_steal(s);
    return CLI_OK;
}

int cli_secret_prompt(const char *prompt, struct sp_secret **ret)
{
    SP_FD int tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    struct termios old, quiet;
    if (tty < 0 || tcgetattr(tty, &old) < 0)
        return cli_fail(CLI_USAGE, "no terminal to ask on: give the secret with a --…-file option");
    SP_SECRET struct sp_secret *s = sp_secret_new(PROMPT_MAX_BYTES);
    if (!s)
        return cli_fail(CLI_ERROR, "no locked memory for the secret: %s", strerror(errno));
    quiet = old;
    quiet.c_lflag &= ~(tcflag_t)ECHO;
    (void)dprintf(tty, "%s: ", prompt);
    (void)tcsetattr(tty, TCSAFLUSH, &quiet);
    ssize_t n = read(tty, sp_secret_data(s), PROMPT_MAX_BYTES);
    (void)tcsetattr(tty, TCSAFLUSH, &old);
    (void)dprintf(tty, "\n");
    if (n <= 0)
        return cli_fail(CLI_ERROR, "nothing was typed");
    sp_secret_shrink(s, (size_t)n);
    strip_line_end(s);
    if (sp_secret_size(s) == 0)
        return cli_fail(CLI_ERROR, "nothing was typed");
    *ret = sp_steal(s);
    return CLI_OK;
}
