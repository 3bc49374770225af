/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The sentence for the person. Functions return 0 or a negative errno; those whose failure an admin
 * must act on also take a `struct sp_why *` (may be NULL) and put one sentence there: what went
 * wrong with which thing, and what to do. Never a secret, never trailing punctuation or newline. */
#ifndef SEALPOINT_BASE_WHY_H
#define SEALPOINT_BASE_WHY_H

struct sp_why {
    char text[480];
};

/* Sets the text and returns `error` unchanged, so that failing is one line:
 *     return sp_why_set(why, -ENOENT, "no vault named '%s': it must be added first", name);
 * Too long a text is cut. */
int sp_why_set(struct sp_why *why, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "CONTEXT: " before the text that is there. Returns `error`. */
int sp_why_prefix(struct sp_why *why, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The text as a person gets it. One that only says what failed ("cannot open '/dev/vda'"), or an
 * empty one, gets the words for the error behind it; all others say why themselves. */
struct sp_why sp_why_told(const struct sp_why *why, int error);

#endif
