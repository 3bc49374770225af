/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Inventories and the agents' own events, on the fleet's thread: into the catalog first, then to
 * whoever watches. */
#include "base/clock.h"
#include "base/log.h"
#include "controller/fleet/difference.h"
#include "controller/fleet/internal.h"

enum { UNSAVED_MOST = 100 };

void fleet_free_events(struct agent_events *list)
{
    for (size_t i = 0; i < list->count; i++)
        message_free(list->all[i]);
    free(list->all);
    *list = (struct agent_events){0};
}

void fleet_keep_event(struct fleet *f, struct agent *a, const Sp__AgentEvent *said)
{
    if (a->unsaved_events.count == UNSAVED_MOST)
        return; /* an agent that talks faster than the disk writes */
    uint64_t now = sp_clock_system.wall_ms(sp_clock_system.self);
    Sp__VolumeEvent *event =
        difference_event(a->machine_id, now, said->kind, said->volume_id, said->text);
    if (event && said->before)
        event->before = message_copy(said->before);
    if (event && said->after)
        event->after = message_copy(said->after);
    if (message_append(&a->unsaved_events.all, &a->unsaved_events.count, event) == 0)
        fleet_dirty(f, a);
}

/* What the inventory says that the one in the catalog did not. The first one of a machine is where
 * its history begins: no event. */
static int compare(struct fleet *f, const char *machine_id, const Sp__Inventory *inventory,
                   struct agent_events *ret)
{
    Sp__Machine *m = NULL;
    int r = catalog_machine_get(f->options.catalog, machine_id, true, &m);
    if (r == 0 && m->inventory)
        r = difference(machine_id, sp_clock_system.wall_ms(sp_clock_system.self), m->inventory,
                       inventory, &ret->all, &ret->count);
    message_free(m);
    return r;
}

static void tell(struct fleet *f, const struct agent_events *list)
{
    const struct fleet_events *e = f->options.events;
    for (size_t i = 0; i < list->count; i++) {
        const Sp__VolumeEvent *event = list->all[i];
        sp_log(SP_LOG_INFO, "machine event", "machine", event->machine_id, "kind", event->kind,
               "about", event->subject, "text", event->text, NULL);
        if (e && e->volume)
            e->volume(f->options.events_self, event);
    }
}

int fleet_save_events(struct fleet *f, const char *machine_id, const Sp__Inventory *inventory,
                      struct agent_events *said)
{
    struct agent_events found = {0};
    int r = inventory ? compare(f, machine_id, inventory, &found) : 0;
    if (r == 0 && (inventory || found.count))
        r = catalog_events_add(f->options.catalog, machine_id, inventory, found.all, found.count);
    if (r == 0)
        tell(f, &found);
    if (r == 0 && said->count)
        r = catalog_events_add(f->options.catalog, machine_id, NULL, said->all, said->count);
    if (r == 0)
        tell(f, said);
    fleet_free_events(&found);
    return r;
}
