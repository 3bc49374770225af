/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/backup/finding.h"
#include "controller/message.h"
#include <stdarg.h>
#include <string.h>

__attribute__((format(printf, 4, 0))) static int fill(Sp__Finding *f, Sp__Reason reason,
                                                      const struct finding_about *about,
                                                      const char *format, va_list args)
{
    char *text = NULL;
    f->reason = reason;
    f->offset_bytes = about->offset_bytes;
    f->length_bytes = about->length_bytes;
    f->note = about->note;
    if (vasprintf(&text, format, args) < 0)
        return -ENOMEM;
    int r = message_take(&f->text, text);
    if (r == 0)
        r = message_set(&f->volume_id, about->volume_id);
    if (r == 0)
        r = message_set(&f->disk_id, about->disk_id);
    return r;
}

int finding_add(struct finding_list list, Sp__Reason reason, struct finding_about about,
                const char *format, ...)
{
    Sp__Finding *f SP_CLEANUP(finding) = message_new(&sp__finding__descriptor);
    if (!f)
        return -ENOMEM;
    va_list args;
    va_start(args, format);
    int r = fill(f, reason, &about, format, args);
    va_end(args);
    return r < 0 ? r : message_append(list.at, list.count, sp_steal(f));
}

int finding_copy(struct finding_list list, Sp__Finding *const *from, size_t count)
{
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++)
        r = message_append(list.at, list.count, message_copy(from[i]));
    return r;
}

void finding_clear(struct finding_list list)
{
    for (size_t i = 0; i < *list.count; i++)
        message_free((*list.at)[i]);
    free(*list.at);
    *list.at = NULL;
    *list.count = 0;
}

bool finding_stands(Sp__Finding *const *at, size_t count, Sp__Reason reason, const char *volume_id)
{
    for (size_t i = 0; i < count; i++) {
        if (at[i]->reason == reason && !at[i]->note && strcmp(at[i]->volume_id, volume_id) == 0)
            return true;
    }
    return false;
}

bool finding_has(const Sp__Finding *const *at, size_t count, Sp__Reason reason,
                 const char *volume_id)
{
    for (size_t i = 0; i < count; i++) {
        if (at[i]->reason == reason && (!volume_id || strcmp(at[i]->volume_id, volume_id) == 0))
            return true;
    }
    return false;
}
