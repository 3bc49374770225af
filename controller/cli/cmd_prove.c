/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/file.h"
#include "controller/cli/prove.h"
#include "controller/keeper/prover/nursery.h"

#include <json-c/json.h>
#include <string.h>

struct totals {
    size_t images, failed, volumes, open, clear;
};

static bool is_open(const struct prove_volume *v)
{
    return v->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS && !v->reason;
}

static void count(const struct prove_result *r, struct totals *t)
{
    t->images++;
    t->failed += r->error != NULL;
    for (size_t i = 0; i < r->count; i++) {
        t->clear += r->volumes[i].clear;
        t->volumes += !r->volumes[i].clear;
        t->open += is_open(&r->volumes[i]);
    }
}

static const char *reason_word(const struct prove_volume *v)
{
    return sp_enum_name(&sp__reason__descriptor, (int)v->reason, "REASON_");
}

/* Just so much that the eye finds it: the last part of a path. */
static const char *short_name(const char *image)
{
    const char *slash = strrchr(image, '/');
    return slash && slash[1] && !strstr(image, "://") ? slash + 1 : image;
}

/* ---- for people ---- */

static const char *verdict_word(const struct prove_volume *v)
{
    if (v->clear)
        return "not encrypted";
    if (is_open(v))
        return "opens";
    return v->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS ? "opens, but" : "NOT OPENED";
}

static void add_row(struct cli_table *t, const char *image, const struct prove_volume *v)
{
    char size[24], kind[48];
    const Sp__Content *c = v->clear ? v->volume->content : v->content;
    SP_FREE char *inside =
        c ? sp_format("%s%s%s", c->type, *c->label ? " " : "", c->label) : strdup("");
    /* Which keyslot is worth a word; a GUID is too long for a table and stands in the JSON. */
    const char *slot = v->protector && strlen(v->protector) <= 2 ? v->protector : "";
    SP_FREE char *key = sp_format("%s%s%s", v->key ? v->key : "", *slot ? ", keyslot " : "", slot);
    cli_table_row(t, (const char *[]){short_name(image), v->volume->volume_id,
                                      cli_enum_text(&sp__volume_kind__descriptor,
                                                    (int)v->volume->kind, "VOLUME_KIND_", kind),
                                      cli_size_text(v->volume->size_bytes, size), verdict_word(v),
                                      key, inside});
}

static void explain(const char *image, const struct prove_volume *v)
{
    if (v->clear || is_open(v))
        return;
    printf("%s %s\n  %s", short_name(image), v->volume->volume_id, reason_word(v));
    if (*v->text)
        printf(": %s", v->text);
    printf("\n  -> %s\n", v->advice);
}

static void print_end(const struct totals *t)
{
    printf("%zu image%s, %zu encrypted volume%s: %zu open%s", t->images, t->images == 1 ? "" : "s",
           t->volumes, t->volumes == 1 ? "" : "s", t->open, t->open == 1 ? "s" : "");
    if (t->volumes > t->open)
        printf(", %zu want%s a look", t->volumes - t->open, t->volumes - t->open == 1 ? "s" : "");
    if (t->failed)
        printf("; %zu image%s could not be read", t->failed, t->failed == 1 ? "" : "s");
    printf(".\n");
}

static int print_people(const struct prove_result *results, size_t n, const struct totals *t)
{
    static const char *const columns[] = {"IMAGE",   "VOLUME", "KIND",   ">SIZE",
                                          "VERDICT", "KEY",    "INSIDE", NULL};
    struct cli_table *table = cli_table_new(columns);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < results[i].count; k++)
            add_row(table, results[i].image, &results[i].volumes[k]);
    }
    int r = cli_table_print(table, "no volumes were found");
    if (r != CLI_OK)
        return r;
    bool any = t->failed || t->open < t->volumes;
    if (any)
        printf("\n");
    for (size_t i = 0; i < n; i++) {
        if (results[i].error)
            printf("%s\n  %s\n", results[i].image, results[i].error);
        for (size_t k = 0; k < results[i].count; k++)
            explain(results[i].image, &results[i].volumes[k]);
    }
    printf("\n");
    print_end(t);
    return CLI_OK;
}

/* ---- for machines ---- */

static void put(struct json_object *to, const char *name, const char *text)
{
    json_object_object_add(to, name, json_object_new_string(text ? text : ""));
}

static struct json_object *json_of_volume(const struct prove_volume *v)
{
    struct json_object *o = json_object_new_object();
    const Sp__Volume *volume = v->volume;
    char kind[48];
    put(o, "volume_id", volume->volume_id);
    put(o, "kind",
        cli_enum_text(&sp__volume_kind__descriptor, (int)volume->kind, "VOLUME_KIND_", kind));
    json_object_object_add(o, "size_bytes", json_object_new_uint64(volume->size_bytes));
    if (volume->n_extents)
        json_object_object_add(o, "offset_bytes",
                               json_object_new_uint64(volume->extents[0]->on->offset_bytes));
    json_object_object_add(o, "encrypted", json_object_new_boolean(!v->clear));
    const Sp__Content *c = v->clear ? volume->content : v->content;
    if (c)
        json_object_object_add(o, "content", cli_json(&c->base));
    if (v->clear)
        return o;
    json_object_object_add(
        o, "opens", json_object_new_boolean(v->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS));
    put(o, "reason", v->reason ? reason_word(v) : "");
    put(o, "key", v->key);
    put(o, "protector_id", v->protector);
    put(o, "method", v->method);
    put(o, "text", v->text);
    put(o, "advice", v->advice);
    json_object_object_add(o, "keys_tried", json_object_new_uint64(v->tried));
    return o;
}

static int print_json(const struct prove_result *results, size_t n, const struct totals *t)
{
    struct json_object *root = json_object_new_object(), *images = json_object_new_array(),
                       *sum = json_object_new_object();
    for (size_t i = 0; i < n; i++) {
        struct json_object *image = json_object_new_object(), *volumes = json_object_new_array();
        put(image, "image", results[i].image);
        put(image, "error", results[i].error);
        for (size_t k = 0; k < results[i].count; k++)
            json_object_array_add(volumes, json_of_volume(&results[i].volumes[k]));
        json_object_object_add(image, "volumes", volumes);
        json_object_array_add(images, image);
    }
    json_object_object_add(root, "images", images);
    json_object_object_add(sum, "images", json_object_new_uint64(t->images));
    json_object_object_add(sum, "images_failed", json_object_new_uint64(t->failed));
    json_object_object_add(sum, "encrypted", json_object_new_uint64(t->volumes));
    json_object_object_add(sum, "open", json_object_new_uint64(t->open));
    json_object_object_add(sum, "not_encrypted", json_object_new_uint64(t->clear));
    json_object_object_add(root, "summary", sum);
    printf("%s\n", json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY |
                                                            JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(root);
    return CLI_OK;
}

/* ---- all of it ---- */

/* The installed one, or the one beside this program in a build folder. */
static char *find_prover(const char *set)
{
    if (set)
        return strdup(set);
    if (access(SEALPOINT_PROVER, X_OK) == 0)
        return strdup(SEALPOINT_PROVER);
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash = n > 0 ? (self[n] = 0, strrchr(self, '/')) : NULL;
    if (slash)
        *slash = 0;
    return slash ? sp_format("%s/../keeper/prover/sealpoint-prover", self)
                 : strdup(SEALPOINT_PROVER);
}

static int prove_all(struct cli *cli, struct prove_options *o, char **images, size_t n,
                     const struct prove_keys *keys)
{
    struct cli_progress progress = {0};
    struct totals totals = {0};
    struct prove_result *results = calloc(n, sizeof(*results));
    if (!results)
        return cli_fail(CLI_ERROR, "no memory");
    int r = CLI_OK;
    size_t done = 0;
    o->progress = &progress;
    for (; r == CLI_OK && done < n; done++) {
        cli_progress_start(&progress, short_name(images[done]));
        r = prove_run(o, images[done], keys, &results[done]);
        cli_progress_end(&progress);
        count(&results[done], &totals);
    }
    if (r == CLI_OK)
        r = cli->json ? print_json(results, n, &totals) : print_people(results, n, &totals);
    for (size_t i = 0; i < done; i++)
        prove_result_free(&results[i]);
    free(results);
    if (r != CLI_OK)
        return r;
    return totals.open < totals.volumes || totals.failed ? CLI_NOT_VALID : CLI_OK;
}

int cmd_prove(struct cli *cli, const struct cli_command *c, int argc, char **argv)
{
    const char *key_paths[CLI_LIST_MAX + 1] = {NULL}, *prover = NULL;
    struct prove_options o = {0};
    const struct cli_flag flags[] = {
        {"keys", "FILE|DIR", "Keys to try; may be given again", NULL, NULL, key_paths},
        {"all-keys", NULL, "Try every key, also when one has opened", NULL, &o.all_keys, NULL},
        {"header", "FILE", "A detached LUKS header; the image is its data", &o.header, NULL, NULL},
        {"prover", "FILE", "Another sealpoint-prover than the installed one", &prover, NULL, NULL},
        {0}};
    CLI_PARSE(words, cli, c, flags, argc, argv, 1, 4096);
    struct prove_keys keys = {0};
    int r = CLI_OK;
    for (size_t i = 0; r == CLI_OK && key_paths[i]; i++)
        r = prove_keys_add(&keys, key_paths[i]);
    SP_FREE char *program = find_prover(prover);
    if (r == CLI_OK && (!program || access(program, X_OK) < 0))
        r = cli_fail(CLI_ERROR,
                     "there is no sealpoint-prover at %s: install the package "
                     "sealpoint-controller, or name it with --prover",
                     program ? program : SEALPOINT_PROVER);
    o.prover = program;
    if (r == CLI_OK && prover_nursery_open(program, &o.nursery) < 0)
        r = cli_fail(CLI_ERROR, "the prover cannot be started");
    if (r == CLI_OK)
        r = prove_all(cli, &o, argv, (size_t)words, &keys);
    prover_nursery_close(o.nursery);
    prove_keys_free(&keys);
    return r;
}
