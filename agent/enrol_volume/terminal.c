/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/enrol_volume/terminal.h"
#include "base/cleanup.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

enum { TYPED_MOST = 512 }; /* as cryptsetup's */

void terminal_say(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
}

int terminal_ask(const char *prompt, struct sp_secret **ret, struct sp_why *why)
{
    SP_FD int tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    struct termios old, quiet;
    if (tty < 0 || tcgetattr(tty, &old) < 0)
        return sp_why_set(why, -ENOTTY, "there is no terminal to type the passphrase on");
    SP_SECRET struct sp_secret *s = sp_secret_new(TYPED_MOST);
    if (!s)
        return sp_why_set(why, -ENOMEM, "no locked memory for the passphrase");
    quiet = old;
    quiet.c_lflag &= ~(tcflag_t)ECHO;
    (void)tcsetattr(tty, TCSAFLUSH, &quiet);
    (void)dprintf(tty, "%s: ", prompt); /* behind it: what follows is not shown */
    ssize_t n = read(tty, sp_secret_data(s), TYPED_MOST);
    (void)tcsetattr(tty, TCSAFLUSH, &old);
    (void)dprintf(tty, "\n");
    if (n > 0 && sp_secret_data(s)[n - 1] == '\n')
        n--;
    if (n <= 0)
        return sp_why_set(why, -ENODATA, "nothing was typed");
    sp_secret_shrink(s, (size_t)n);
    *ret = sp_steal(s);
    return 0;
}
