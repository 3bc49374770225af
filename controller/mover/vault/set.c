/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "controller/mover/vault/set.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The slot where the address is or would go. Addresses are hashes: their first bytes will do. */
static size_t place(const struct vault_set *s, const uint8_t *address)
{
    size_t at = (size_t)sp_le64(address) & (s->capacity - 1);
    while (s->used[at] && memcmp(s->slots[at], address, VAULT_ADDRESS_BYTES))
        at = (at + 1) & (s->capacity - 1);
    return at;
}

static int grow(struct vault_set *s)
{
    struct vault_set bigger = {.capacity = s->capacity ? s->capacity * 2 : 64};
    bigger.slots = malloc(bigger.capacity * sizeof *bigger.slots);
    bigger.used = calloc(bigger.capacity, 1);
    if (!bigger.slots || !bigger.used) {
        vault_set_free(&bigger);
        return -ENOMEM;
    }
    for (size_t i = 0; i < s->capacity; i++) {
        if (!s->used[i])
            continue;
        size_t at = place(&bigger, s->slots[i]);
        memcpy(bigger.slots[at], s->slots[i], VAULT_ADDRESS_BYTES);
        bigger.used[at] = 1;
    }
    bigger.count = s->count;
    vault_set_free(s);
    *s = bigger;
    return 0;
}

bool vault_set_has(const struct vault_set *s, const uint8_t address[VAULT_ADDRESS_BYTES])
{
    return s->capacity && s->used[place(s, address)];
}

int vault_set_add(struct vault_set *s, const uint8_t address[VAULT_ADDRESS_BYTES])
{
    if (s->count >= s->capacity / 2) {
        int r = grow(s);
        if (r < 0)
            return r;
    }
    size_t at = place(s, address);
    if (s->used[at])
        return 0;
    memcpy(s->slots[at], address, VAULT_ADDRESS_BYTES);
    s->used[at] = 1;
    s->count++;
    return 1;
}

void vault_set_clear(struct vault_set *s)
{
    if (s->used)
        memset(s->used, 0, s->capacity);
    s->count = 0;
}

void vault_set_free(struct vault_set *s)
{
    free(s->slots);
    free(s->used);
    *s = (struct vault_set){0};
}
