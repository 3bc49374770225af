/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Fleet.ListEvents. */
#include "controller/api/api.h"

enum { PAGE_DEFAULT = 200, PAGE_MAX = 1000 };

struct page {
    Sp__ListEventsResponse *response;
    size_t most;
};

static int page_event(void *arg, Sp__VolumeEvent *event)
{
    struct page *p = arg;
    if (p->response->n_events == p->most) {
        p->response->more = true;
        return 1;
    }
    return message_append(&p->response->events, &p->response->n_events, message_copy(event));
}

int api_list_events(struct api *api, struct rpc_call *call, const ProtobufCMessage *request,
                    ProtobufCMessage **ret, struct sp_why *why)
{
    const Sp__ListEventsRequest *asked = (const void *)request;
    Sp__Machine *m = NULL;
    int r = api_machine(api, call, asked->machine, false, &m, why);
    if (r < 0)
        return r;
    struct page p = {.response = message_new(&sp__list_events_response__descriptor),
                     .most = asked->page_size ? asked->page_size : PAGE_DEFAULT};
    if (p.most > PAGE_MAX)
        p.most = PAGE_MAX;
    r = p.response ? catalog_event_each(api->catalog, m->machine_id, asked->before_event_id,
                                        page_event, &p)
                   : -ENOMEM;
    message_free(m);
    if (r < 0) {
        message_free(p.response);
        return r;
    }
    *ret = &p.response->base;
    return 0;
}
