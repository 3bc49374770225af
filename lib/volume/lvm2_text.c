/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * LVM2's metadata text: sections in braces, `name = value`, values are numbers, strings or arrays
 * of them, comments run from # to the end of the line. First the text becomes a tree (bounded in
 * size and depth), then the tree a volume group. */
#include "volume/internal.h"
#include <stdio.h>
#include <string.h>

enum { DEPTH_MAX = 8, NODES_MAX = 200000, LEGS_MAX = 1024, SECTOR = 512 };

/* One name in the text. Children (a section's names, an array's values) form a list. */
struct item {
    enum { ITEM_SECTION, ITEM_NUMBER, ITEM_TEXT, ITEM_ARRAY } kind;
    const char *name;
    size_t name_size;
    uint64_t number;
    const char *text; /* between the quotes, escapes not undone: names have none */
    size_t text_size;
    struct item *first, *last, *next;
};

struct parser {
    const char *at, *end;
    struct item *pool; /* all items, in blocks; see new_item() */
    size_t used, capacity;
    struct block *blocks;
    size_t total;
    bool no_memory;
};

enum { BLOCK_ITEMS = 512 };
struct block {
    struct block *next;
    struct item items[BLOCK_ITEMS];
};

static struct item *new_item(struct parser *p)
{
    if (++p->total > NODES_MAX)
        return NULL;
    if (p->used == p->capacity) {
        struct block *b = calloc(1, sizeof *b);
        if (!b) {
            p->no_memory = true;
            return NULL;
        }
        b->next = p->blocks;
        p->blocks = b;
        p->pool = b->items;
        p->used = 0;
        p->capacity = BLOCK_ITEMS;
    }
    return &p->pool[p->used++];
}

static void parser_clear(struct parser *p)
{
    while (p->blocks) {
        struct block *next = p->blocks->next;
        free(p->blocks);
        p->blocks = next;
    }
}

static void skip_space(struct parser *p)
{
    while (p->at < p->end) {
        if (*p->at == '#')
            while (p->at < p->end && *p->at != '\n')
                p->at++;
        else if (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r')
            p->at++;
        else
            return;
    }
}

static bool next_is(struct parser *p, char c)
{
    skip_space(p);
    if (p->at == p->end || *p->at != c)
        return false;
    p->at++;
    return true;
}

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           strchr("_-.+/", c ? c : ' ');
}

static void append(struct item *to, struct item *child)
{
    if (to->last)
        to->last->next = child;
    else
        to->first = child;
    to->last = child;
}

/* A number or a string. */
static struct item *parse_scalar(struct parser *p)
{
    struct item *v = new_item(p);
    skip_space(p);
    if (!v || p->at == p->end)
        return NULL;
    if (*p->at == '"') {
        v->kind = ITEM_TEXT;
        v->text = ++p->at;
        while (p->at < p->end && *p->at != '"')
            p->at += *p->at == '\\' && p->end - p->at > 1 ? 2 : 1;
        if (p->at >= p->end)
            return NULL;
        v->text_size = (size_t)(p->at++ - v->text);
        return v;
    }
    v->kind = ITEM_NUMBER;
    const char *begin = p->at;
    if (*p->at == '-') /* nothing that is read here is ever below zero */
        p->at++;
    for (; p->at < p->end && *p->at >= '0' && *p->at <= '9'; p->at++)
        if (volume_mul_overflows(v->number, 10, &v->number) ||
            volume_add_overflows(v->number, (uint64_t)(*p->at - '0'), &v->number))
            return NULL;
    if (*begin == '-')
        v->number = 0;
    while (p->at < p->end && *p->at == '.') /* a float: its fraction does not matter */
        for (p->at++; p->at < p->end && *p->at >= '0' && *p->at <= '9';)
            p->at++;
    return p->at == begin ? NULL : v;
}

static struct item *parse_value(struct parser *p)
{
    if (!next_is(p, '['))
        return parse_scalar(p);
    struct item *array = new_item(p);
    if (!array)
        return NULL;
    array->kind = ITEM_ARRAY;
    while (!next_is(p, ']')) {
        struct item *v = parse_scalar(p);
        if (!v)
            return NULL;
        append(array, v);
        if (!next_is(p, ',')) {
            if (!next_is(p, ']'))
                return NULL;
            break;
        }
    }
    return array;
}

/* Names up to the closing brace (or, at depth 0, the end). Recursion ends at DEPTH_MAX. */
static bool parse_section(struct parser *p, struct item *into, unsigned depth)
{
    if (depth > DEPTH_MAX)
        return false;
    for (;;) {
        skip_space(p);
        if (p->at == p->end)
            return depth == 0;
        if (depth && next_is(p, '}'))
            return true;
        const char *name = p->at;
        while (p->at < p->end && is_name_char(*p->at))
            p->at++;
        size_t size = (size_t)(p->at - name);
        struct item *child;
        if (size == 0)
            return false;
        if (next_is(p, '{')) {
            if (!(child = new_item(p)))
                return false;
            child->kind = ITEM_SECTION;
            if (!parse_section(p, child, depth + 1))
                return false;
        } else if (!next_is(p, '=') || !(child = parse_value(p))) {
            return false;
        }
        child->name = name;
        child->name_size = size;
        append(into, child);
    }
}

/* ---- access ---- */

static const struct item *find(const struct item *in, const char *name, int kind)
{
    for (const struct item *i = in ? in->first : NULL; i; i = i->next)
        if ((int)i->kind == kind && i->name_size == strlen(name) &&
            memcmp(i->name, name, i->name_size) == 0)
            return i;
    return NULL;
}

static bool number_of(const struct item *in, const char *name, uint64_t *ret)
{
    const struct item *i = find(in, name, ITEM_NUMBER);
    if (i)
        *ret = i->number;
    return i != NULL;
}

static char *copy_text(const char *text, size_t size)
{
    char *copy = NULL;
    return size <= 1024 && volume_set_text(&copy, text, size) == 0 ? copy : NULL;
}

static char *text_of(const struct item *in, const char *name)
{
    const struct item *i = find(in, name, ITEM_TEXT);
    return i ? copy_text(i->text, i->text_size) : NULL;
}

static size_t count_sections(const struct item *in)
{
    size_t n = 0;
    for (const struct item *i = in ? in->first : NULL; i; i = i->next)
        n += i->kind == ITEM_SECTION;
    return n;
}

/* Ids are written with dashes in the text and without in the PV header. */
static void plain_id(const struct item *in, char out[VOLUME_LVM_ID + 1])
{
    size_t at = 0;
    for (size_t i = 0; in && i < in->text_size && at < VOLUME_LVM_ID; i++)
        if (in->text[i] != '-')
            out[at++] = in->text[i];
    out[at] = 0;
}

/* ---- from the tree to the group ---- */

static int build_stripes(const struct item *array, struct volume_lv_segment *s)
{
    for (const struct item *i = array->first; i; i = i->next) {
        if (i->kind != ITEM_TEXT || s->stripe_count == LEGS_MAX)
            return -EBADMSG;
        struct volume_stripe *grown =
            realloc(s->stripes, (s->stripe_count + 1) * sizeof *s->stripes);
        if (!grown)
            return -ENOMEM;
        s->stripes = grown;
        struct volume_stripe *one = &grown[s->stripe_count];
        *one = (struct volume_stripe){.on = copy_text(i->text, i->text_size)};
        if (!one->on)
            return -EBADMSG;
        s->stripe_count++;
        if (i->next && i->next->kind == ITEM_NUMBER) {
            i = i->next;
            one->extent = i->number;
        }
    }
    return 0;
}

static int build_segment(const struct item *from, struct volume_lv_segment *s)
{
    uint64_t stripe_sectors = 0;
    if (!number_of(from, "start_extent", &s->start) ||
        !number_of(from, "extent_count", &s->count) || !(s->type = text_of(from, "type")))
        return -EBADMSG;
    number_of(from, "stripe_size", &stripe_sectors);
    if (volume_mul_overflows(stripe_sectors, SECTOR, &s->stripe_bytes))
        return -EBADMSG;
    const struct item *stripes = find(from, "stripes", ITEM_ARRAY);
    if (!stripes)
        stripes = find(from, "mirrors", ITEM_ARRAY);
    if (!stripes)
        stripes = find(from, "raids", ITEM_ARRAY);
    return stripes ? build_stripes(stripes, s) : 0;
}

static int build_lv(const struct item *from, struct volume_lv *lv)
{
    size_t count = count_sections(from);
    lv->name = copy_text(from->name, from->name_size);
    lv->id = text_of(from, "id");
    if (!lv->name || !lv->id || !(lv->segments = calloc(count ? count : 1, sizeof *lv->segments)))
        return -EBADMSG;
    const struct item *status = find(from, "status", ITEM_ARRAY);
    for (const struct item *i = status ? status->first : NULL; i; i = i->next)
        lv->visible |= i->kind == ITEM_TEXT && i->text_size == 7 && !memcmp(i->text, "VISIBLE", 7);
    for (const struct item *i = from->first; i; i = i->next) {
        if (i->kind != ITEM_SECTION || i->name_size < 7 || memcmp(i->name, "segment", 7) != 0)
            continue;
        int rc = build_segment(i, &lv->segments[lv->segment_count++]);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int build_pv(const struct item *from, struct volume_vg_pv *pv)
{
    uint64_t start;
    pv->name = copy_text(from->name, from->name_size);
    plain_id(find(from, "id", ITEM_TEXT), pv->id);
    if (!pv->name || !*pv->id || !number_of(from, "pe_start", &start) ||
        !number_of(from, "pe_count", &pv->extent_count) ||
        volume_mul_overflows(start, SECTOR, &pv->start_bytes))
        return -EBADMSG;
    return 0;
}

static int build_vg(const struct item *root, struct volume_vg *vg)
{
    const struct item *from = NULL;
    for (const struct item *i = root->first; i && !from; i = i->next)
        if (i->kind == ITEM_SECTION)
            from = i;
    uint64_t extent_sectors;
    if (!from || !(vg->name = copy_text(from->name, from->name_size)) ||
        !(vg->id = text_of(from, "id")) || !number_of(from, "seqno", &vg->sequence) ||
        !number_of(from, "extent_size", &extent_sectors) || extent_sectors == 0 ||
        volume_mul_overflows(extent_sectors, SECTOR, &vg->extent_bytes))
        return -EBADMSG;
    const struct item *pvs = find(from, "physical_volumes", ITEM_SECTION);
    const struct item *lvs = find(from, "logical_volumes", ITEM_SECTION);
    size_t pv_count = count_sections(pvs), lv_count = count_sections(lvs);
    vg->pvs = calloc(pv_count + 1, sizeof *vg->pvs);
    vg->lvs = calloc(lv_count + 1, sizeof *vg->lvs);
    if (!vg->pvs || !vg->lvs)
        return -ENOMEM;
    int rc = 0;
    for (const struct item *i = pvs ? pvs->first : NULL; i && rc == 0; i = i->next)
        if (i->kind == ITEM_SECTION)
            rc = build_pv(i, &vg->pvs[vg->pv_count++]);
    for (const struct item *i = lvs ? lvs->first : NULL; i && rc == 0; i = i->next)
        if (i->kind == ITEM_SECTION)
            rc = build_lv(i, &vg->lvs[vg->lv_count++]);
    return rc;
}

int volume_vg_parse(const char *text, size_t size, struct volume_vg **ret)
{
    struct parser p = {.at = text, .end = text + strnlen(text, size)};
    struct item root = {.kind = ITEM_SECTION};
    SP_CLEANUP(volume_vg) struct volume_vg *vg = calloc(1, sizeof *vg);
    int rc = vg ? 0 : -ENOMEM;
    if (rc == 0 && !parse_section(&p, &root, 0))
        rc = p.no_memory ? -ENOMEM : -EBADMSG;
    if (rc == 0)
        rc = build_vg(&root, vg);
    parser_clear(&p);
    if (rc == 0)
        *ret = sp_steal(vg);
    return rc;
}

void volume_vg_free(struct volume_vg *vg)
{
    if (!vg)
        return;
    for (size_t i = 0; i < vg->pv_count; i++)
        free(vg->pvs[i].name);
    for (size_t i = 0; i < vg->lv_count; i++) {
        struct volume_lv *lv = &vg->lvs[i];
        for (size_t j = 0; lv->segments && j < lv->segment_count; j++) {
            struct volume_lv_segment *s = &lv->segments[j];
            for (size_t k = 0; k < s->stripe_count; k++)
                free(s->stripes[k].on);
            free(s->stripes);
            free(s->type);
        }
        free(lv->segments);
        free(lv->name);
        free(lv->id);
    }
    free(vg->pvs);
    free(vg->lvs);
    free(vg->name);
    free(vg->id);
    free(vg);
}
