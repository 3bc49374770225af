/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Scope cleanup: a variable marked with one of these is released when its scope ends. To hand the
 * value on, take it with sp_steal() (pointers) or sp_steal_fd(). */
#ifndef SEALPOINT_BASE_CLEANUP_H
#define SEALPOINT_BASE_CLEANUP_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Defines sp_cleanup_NAME(TYPE *), which calls FREE on a value that is not NULL. */
#define SP_DEFINE_CLEANUP(name, type, free_fn)                                                     \
    static inline void sp_cleanup_##name(type *p)                                                  \
    {                                                                                              \
        if (*p)                                                                                    \
            free_fn(*p);                                                                           \
    }

#define SP_CLEANUP(name) __attribute__((cleanup(sp_cleanup_##name)))

static inline void sp_cleanup_free(void *p)
{
    free(*(void **)p);
}

static inline void sp_cleanup_fd(int *fd)
{
    int saved = errno;
    if (*fd >= 0)
        close(*fd);
    errno = saved;
}

SP_DEFINE_CLEANUP(file, FILE *, fclose)

#define SP_FREE SP_CLEANUP(free)
#define SP_FD   SP_CLEANUP(fd)
#define SP_FILE SP_CLEANUP(file)

#define sp_steal(p)                                                                                \
    ({                                                                                             \
        __typeof__(p) sp_stolen_ = (p);                                                            \
        (p) = NULL;                                                                                \
        sp_stolen_;                                                                                \
    })

static inline int sp_steal_fd(int *fd)
{
    int stolen = *fd;
    *fd = -1;
    return stolen;
}

#define SP_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
