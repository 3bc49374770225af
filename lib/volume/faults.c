/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What is wrong with a volume, said to an admin: what it is, and what to do. */
#include "volume/internal.h"
#include <stdarg.h>
#include <stdio.h>

struct sink {
    int (*each)(void *self, Sp__Reason, bool is_note, const char *text);
    void *self;
};

__attribute__((format(printf, 4, 5))) static int say(const struct sink *to, Sp__Reason reason,
                                                     bool is_note, const char *format, ...)
{
    char text[600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return to->each(to->self, reason, is_note, text);
}

/* Ways to unlock that a person or an escrow can hold: not the machine's own chip. */
static bool has_escrowable(const Sp__HeaderFacts *f)
{
    for (size_t i = 0; i < f->n_protectors; i++) {
        const Sp__Protector *p = f->protectors[i];
        switch ((int)p->type) {
        case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_LUKS_KEYSLOT:
            if (p->usable)
                return true;
            break;
        case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_STARTUP_KEY:
        case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_RECOVERY_PASSWORD:
        case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_PASSWORD:
        case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_CLEAR_KEY:
            return true;
        default:
            break;
        }
    }
    return false;
}

static int say_copies(const struct sink *to, const Sp__HeaderFacts *f)
{
    bool luks2 = f->n_copies == 2; /* BitLocker has three */
    for (size_t i = 0; i < f->n_copies; i++) {
        const Sp__HeaderCopy *c = f->copies[i];
        if (c->health == SP__COPY_HEALTH__COPY_HEALTH_GOOD)
            continue;
        int rc = say(to, SP__REASON__REASON_HEADER_DAMAGED, true,
                     "the header copy at byte %llu is not good (%s), another one is used%s",
                     (unsigned long long)c->offset_bytes, c->problem,
                     luks2 ? ": 'cryptsetup repair' makes it good again" : "");
        if (rc < 0)
            return rc;
    }
    return 0;
}

int volume_each_fault(const Sp__HeaderFacts *f,
                      int (*each)(void *self, Sp__Reason, bool is_note, const char *text),
                      void *self)
{
    const struct sink to = {.each = each, .self = self};
    if (f->damaged)
        return say(&to, SP__REASON__REASON_HEADER_DAMAGED, false, "the header is damaged: %s",
                   f->damage);
    int rc = say_copies(&to, f);
    if (rc == 0 && f->conversion_in_progress)
        rc = say(&to, SP__REASON__REASON_CONVERSION_IN_PROGRESS, false,
                 "encryption, decryption or re-encryption is under way: let it finish, then make a "
                 "new backup");
    if (rc == 0 && f->protection_suspended)
        rc = say(&to, SP__REASON__REASON_PROTECTION_SUSPENDED, false,
                 "a clear key is on the volume, so anybody can open it: resume protection");
    if (rc == 0 && !has_escrowable(f))
        rc = say(&to, SP__REASON__REASON_NO_ESCROWABLE_PROTECTOR, false,
                 "no protector is left whose key could be in escrow: add one");
    return rc;
}
