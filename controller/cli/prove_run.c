/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/file.h"
#include "controller/cli/prove.h"
#include "controller/keeper/prover/run.h"
#include "volume/volume.h"

#include <string.h>

#define V(x) SP__PROOF_VERDICT__PROOF_VERDICT_##x
#define R(x) SP__REASON__REASON_##x

enum { HEADER_MOST_BYTES = 64 << 20 };

/* What one image's proofs share. */
struct run {
    const struct prove_options *options;
    const struct prove_image *image;
    const struct prove_keys *keys;
    Sp__LookDisk *disk;
    Sp__CapturedHeader *header; /* detached; NULL */
};

/* ---- asking the prover ---- */

static int ask(const struct run *run, const Sp__ProverJob *job, const struct sp_secret *secret,
               Sp__ProverResult **ret, struct sp_why *why)
{
    struct prover_options o = {.program = run->options->prover, .nursery = run->options->nursery};
    SP_SECRET struct sp_secret *volume_key = NULL;
    int r = prover_run(&o, job, prove_image_socket(run->image), secret, ret, &volume_key, why);
    if (r == 0 && (*ret)->error) {
        r = sp_why_set(why, -(*ret)->error, "%.400s", (*ret)->text);
        sp__prover_result__free_unpacked(*ret, NULL);
        *ret = NULL;
    }
    return r;
}

static int look(const struct run *run, Sp__LookResponse **ret, struct sp_why *why)
{
    Sp__LookRequest request = SP__LOOK_REQUEST__INIT;
    Sp__LookDisk *disks[] = {run->disk};
    request.disks = disks;
    request.n_disks = 1;
    request.layout_only = true;
    Sp__ProverJob job = SP__PROVER_JOB__INIT;
    job.kind_case = SP__PROVER_JOB__KIND_LOOK;
    job.look = &request;
    Sp__ProverResult *result = NULL;
    int r = ask(run, &job, NULL, &result, why);
    if (r < 0)
        return r;
    *ret = result->look;
    result->look = NULL;
    result->kind_case = SP__PROVER_RESULT__KIND__NOT_SET;
    sp__prover_result__free_unpacked(result, NULL);
    return 0;
}

/* ---- one key, one volume ---- */

/* How much a verdict says: what opens, then what is known of the header, wrong keys last. */
static int weight(Sp__ProofVerdict v)
{
    static const Sp__ProofVerdict order[] = {
        V(WRONG_KEY),      V(NO_USABLE_PROTECTOR), V(ERROR), V(UNCHECKABLE),
        V(HEADER_DAMAGED), V(NOT_RECOGNISED),      V(OPENS)};
    for (size_t i = 0; i < SP_COUNT(order); i++) {
        if (order[i] == v)
            return (int)i + 1;
    }
    return 0;
}

static int set(char **field, const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        return -ENOMEM;
    free(*field);
    *field = copy;
    return 0;
}

static int keep(struct prove_volume *v, Sp__ProverFinding *f, const char *key)
{
    if (weight(f->verdict) <= weight(v->verdict))
        return 0;
    v->verdict = f->verdict;
    bool opened = f->level >= SP__EVIDENCE_LEVEL__EVIDENCE_LEVEL_HEADER;
    if (set(&v->text, f->text) < 0 || set(&v->method, f->method) < 0 ||
        set(&v->key, opened ? key : "") < 0 || set(&v->protector, f->protector_id) < 0)
        return -ENOMEM;
    Sp__Content *content = v->content;
    v->content = f->content;
    f->content = content;
    return 0;
}

static int try_secret(const struct run *run, struct prove_volume *v, Sp__SecretType type,
                      const struct sp_secret *secret, const char *protector, const char *name)
{
    Sp__ProverProof proof = SP__PROVER_PROOF__INIT;
    Sp__LookDisk *disks[] = {run->disk};
    proof.volume = v->volume;
    proof.disks = disks;
    proof.n_disks = 1;
    proof.header = run->header;
    proof.secret_type = type;
    proof.protector_id = CLI_TEXT(protector);
    Sp__ProverJob job = SP__PROVER_JOB__INIT;
    job.kind_case = SP__PROVER_JOB__KIND_PROOF;
    job.proof = &proof;
    Sp__ProverResult *result = NULL;
    Sp__ProverFinding failed = SP__PROVER_FINDING__INIT;
    struct sp_why why = {0};
    v->tried++;
    int r = ask(run, &job, secret, &result, &why);
    if (r == -ENOMEM)
        return r;
    if (r < 0) {
        failed.verdict = V(ERROR);
        failed.text = why.text[0] ? why.text : strerror(-r);
        return keep(v, &failed, name);
    }
    r = keep(v, result->finding, name);
    sp__prover_result__free_unpacked(result, NULL);
    return r;
}

/* ---- which keys can be for it ---- */

static bool is_bitlocker(const struct prove_volume *v)
{
    return v->volume->kind == SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER;
}

static bool has_protector(const struct prove_volume *v, const char *id)
{
    const Sp__HeaderFacts *h = v->volume->header;
    for (size_t i = 0; h && i < h->n_protectors; i++) {
        if (strcasecmp(h->protectors[i]->id, id) == 0)
            return true;
    }
    return false;
}

static bool is_for(const struct prove_key *k, const struct prove_volume *v)
{
    bool of_bitlocker = k->type == SP__SECRET_TYPE__SECRET_TYPE_RECOVERY_PASSWORD ||
                        k->type == SP__SECRET_TYPE__SECRET_TYPE_STARTUP_KEY;
    bool of_luks = k->type == SP__SECRET_TYPE__SECRET_TYPE_KEY_FILE ||
                   k->type == SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY;
    const char *uuid = v->volume->header ? v->volume->header->uuid : "";
    if (is_bitlocker(v) ? of_luks : of_bitlocker)
        return false;
    if (*k->volume && strcasecmp(k->volume, v->volume->volume_id) != 0 &&
        strcasecmp(k->volume, uuid) != 0)
        return false;
    /* A GUID is of one protector of one volume; a keyslot's number says nothing by itself. */
    return !is_bitlocker(v) || !*k->protector || has_protector(v, k->protector);
}

static void show_progress(const struct run *run, size_t done, size_t total,
                          const struct prove_volume *v)
{
    if (run->options->progress)
        cli_progress_show(run->options->progress, done, total, v->volume->volume_id);
}

static int try_keys(const struct run *run, struct prove_volume *v)
{
    for (size_t i = 0; i < run->keys->count; i++) {
        const struct prove_key *k = &run->keys->items[i];
        if (!is_for(k, v))
            continue;
        show_progress(run, i, run->keys->count, v);
        int r = try_secret(run, v, k->type, k->secret, k->protector, k->name);
        if (r < 0)
            return r;
        /* With the header gone no other key tells more. */
        if ((v->verdict == V(OPENS) && !run->options->all_keys) || v->verdict == V(HEADER_DAMAGED))
            break;
    }
    const Sp__HeaderFacts *h = v->volume->header;
    if (v->verdict != V(OPENS) && is_bitlocker(v) && h && h->protection_suspended)
        return try_secret(run, v, 0, NULL, "", "(clear key)");
    return 0;
}

/* ---- what it means, what to do ---- */

static Sp__Reason reason_of(const struct prove_volume *v)
{
    const Sp__HeaderFacts *h = v->volume->header;
    switch (v->verdict) {
    case V(OPENS):
        return h && h->protection_suspended     ? R(PROTECTION_SUSPENDED)
               : h && h->conversion_in_progress ? R(CONVERSION_IN_PROGRESS)
                                                : R(UNSPECIFIED);
    case V(WRONG_KEY):
        return R(ESCROW_KEY_WRONG);
    case V(HEADER_DAMAGED):
        return R(HEADER_DAMAGED);
    case V(NOT_RECOGNISED):
        return R(PLAINTEXT_NOT_RECOGNISED);
    case V(UNCHECKABLE):
        return R(UNCHECKABLE_CIPHER);
    case V(NO_USABLE_PROTECTOR):
        return R(NO_ESCROWABLE_PROTECTOR);
    case V(UNSPECIFIED):
        return R(ESCROW_MISSING);
    default:
        return R(ESCROW_UNREACHABLE);
    }
}

/* "3fd763f9-…, …": the recovery passwords that would open it, by the id that AD and Windows show.
 */
static char *wanted(const struct prove_volume *v)
{
    const Sp__HeaderFacts *h = v->volume->header;
    char *list = NULL;
    for (size_t i = 0; h && i < h->n_protectors; i++) {
        const Sp__Protector *p = h->protectors[i];
        if (p->type != SP__PROTECTOR_TYPE__PROTECTOR_TYPE_RECOVERY_PASSWORD)
            continue;
        char *longer = sp_format("%s%s%s", list ? list : "", list ? ", " : "", p->id);
        free(list);
        list = longer;
    }
    return list;
}

static char *advise_missing(const struct prove_volume *v)
{
    SP_FREE char *ids = is_bitlocker(v) ? wanted(v) : NULL;
    const char *what = v->tried ? "none of the keys given is for it" : "no key for it was given";
    if (ids)
        return sp_format("%s: look for the recovery password with the id %s (Active Directory, "
                         "Entra, a printout) and give it with --keys",
                         what, ids);
    if (is_bitlocker(v))
        return sp_format("%s: it has no recovery password; add one in the guest (manage-bde "
                         "-protectors -add X: -rp) and keep it",
                         what);
    return sp_format("%s: look for its passphrase or key file (crypttab in the guest names the "
                     "file) and give it with --keys",
                     what);
}

static char *advise(const struct prove_volume *v)
{
    switch (v->reason) {
    case R(UNSPECIFIED):
        return strdup("");
    case R(ESCROW_MISSING):
    case R(ESCROW_KEY_WRONG):
        return advise_missing(v);
    case R(HEADER_DAMAGED):
        return strdup(is_bitlocker(v)
                          ? "no key can open it as it is: try repair-bde on a copy, or "
                            "take an older image"
                          : "no key can open it as it is: put a header backup back on a "
                            "copy (cryptsetup luksHeaderRestore), or take an older "
                            "image");
    case R(PLAINTEXT_NOT_RECOGNISED):
        return strdup("the key is right, what it opens is not known: the image may be torn or cut "
                      "off, or the volume empty; open a copy and look");
    case R(UNCHECKABLE_CIPHER):
        return strdup("open a copy on a machine that can (cryptsetup open, or Windows) to be sure");
    case R(NO_ESCROWABLE_PROTECTOR):
        return strdup(is_bitlocker(v) ? "only the machine's own hardware opens it: add a recovery "
                                        "password in the guest (manage-bde -protectors -add X: -rp)"
                                      : "no keyslot is left: only a header backup from before can "
                                        "help");
    case R(PROTECTION_SUSPENDED):
        return strdup("its key lies in the clear beside the data, so whoever has the image has "
                      "them: resume protection (manage-bde -protectors -enable X:)");
    case R(CONVERSION_IN_PROGRESS):
        return strdup("it opens as it is; take another image when the conversion has ended");
    default:
        return strdup("the proof could not be made: see above, and try again");
    }
}

static int end_volume(struct prove_volume *v)
{
    v->reason = reason_of(v);
    v->advice = advise(v);
    return v->advice && (v->text || set(&v->text, "") == 0) ? 0 : -ENOMEM;
}

/* ---- one image ---- */

static bool is_clear(const Sp__Volume *v)
{
    return v->kind == SP__VOLUME_KIND__VOLUME_KIND_CLEAR;
}

static int prove_volumes(const struct run *run, struct prove_result *ret)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < ret->count; i++) {
        struct prove_volume *v = &ret->volumes[i];
        v->clear = is_clear(v->volume);
        if (!v->clear)
            r = try_keys(run, v);
        if (r == 0 && !v->clear)
            r = end_volume(v);
    }
    return r;
}

/* A header that was kept apart makes the whole image one volume. */
static int detached_volume(struct run *run, Sp__Volume **ret, struct sp_why *why)
{
    char *bytes = NULL;
    size_t size = 0;
    int r = sp_file_read(run->options->header, HEADER_MOST_BYTES, &bytes, &size);
    if (r < 0)
        return sp_why_set(why, r, "the header %s cannot be read: %s", run->options->header,
                          strerror(-r));
    bool luks = size > 8 && memcmp(bytes, "LUKS\xba\xbe", 6) == 0;
    Sp__Volume *v = luks ? calloc(1, sizeof(*v)) : NULL;
    Sp__VolumeExtent *e = v ? calloc(1, sizeof(*e)) : NULL;
    Sp__DiskExtent *on = e ? calloc(1, sizeof(*on)) : NULL;
    Sp__VolumeExtent **list = on ? calloc(1, sizeof(Sp__VolumeExtent *)) : NULL;
    run->header = list ? calloc(1, sizeof(*run->header)) : NULL;
    if (!run->header) {
        free(bytes);
        free(v);
        free(e);
        free(on);
        free(list);
        return luks ? -ENOMEM
                    : sp_why_set(why, -EINVAL, "%s is no LUKS header", run->options->header);
    }
    sp__volume__init(v);
    sp__volume_extent__init(e);
    sp__disk_extent__init(on);
    sp__captured_header__init(run->header);
    run->header->bytes = (ProtobufCBinaryData){.data = (uint8_t *)bytes, .len = size};
    v->kind =
        bytes[7] == 1 ? SP__VOLUME_KIND__VOLUME_KIND_LUKS1 : SP__VOLUME_KIND__VOLUME_KIND_LUKS2;
    on->disk_id = strdup(run->disk->disk_id);
    on->length_bytes = v->size_bytes = run->disk->size_bytes;
    e->on = on;
    list[0] = e;
    v->extents = list;
    v->n_extents = 1;
    *ret = v;
    return on->disk_id ? 0 : -ENOMEM;
}

static int take_volumes(struct run *run, Sp__LookResponse *l, struct prove_result *ret,
                        struct sp_why *why)
{
    size_t count = run->options->header ? 1 : l->n_volumes;
    ret->volumes = calloc(count + 1, sizeof(*ret->volumes));
    if (!ret->volumes)
        return -ENOMEM;
    if (run->options->header) {
        int r = detached_volume(run, &ret->volumes[0].volume, why);
        ret->count = ret->volumes[0].volume != NULL;
        return r;
    }
    for (; ret->count < count; ret->count++) {
        ret->volumes[ret->count].volume = l->volumes[ret->count];
        l->volumes[ret->count] = NULL;
    }
    l->n_volumes = 0;
    if (!count)
        return sp_why_set(
            why, -ENODATA,
            "nothing was recognised on it: no volume, no file system. It may be plain "
            "dm-crypt, or encrypted under a header that lies elsewhere (--header)");
    return 0;
}

static int prove_opened(struct run *run, struct prove_result *ret, struct sp_why *why)
{
    Sp__LookResponse *l = NULL;
    int r = look(run, &l, why);
    if (r == 0)
        r = take_volumes(run, l, ret, why);
    if (r == 0)
        r = prove_volumes(run, ret);
    if (l)
        sp__look_response__free_unpacked(l, NULL);
    if (run->header)
        sp__captured_header__free_unpacked(run->header, NULL);
    return r;
}

int prove_run(const struct prove_options *options, const char *image, const struct prove_keys *keys,
              struct prove_result *ret)
{
    struct sp_why why = {0};
    struct prove_image *opened = NULL;
    *ret = (struct prove_result){.image = image};
    int r = prove_image_open(image, &opened, &why);
    if (r == 0) {
        Sp__LookDisk disk = SP__LOOK_DISK__INIT;
        disk.disk_id = (char[]){"image"};
        disk.size_bytes = prove_image_size(opened);
        disk.logical_sector_bytes = 512;
        struct run run = {.options = options, .image = opened, .keys = keys, .disk = &disk};
        r = prove_opened(&run, ret, &why);
        prove_image_close(opened);
    }
    if (r < 0 && !(ret->error = strdup(why.text[0] ? why.text : strerror(-r))))
        return cli_fail(CLI_ERROR, "no memory");
    return CLI_OK;
}

void prove_result_free(struct prove_result *r)
{
    for (size_t i = 0; i < r->count; i++) {
        struct prove_volume *v = &r->volumes[i];
        if (v->volume)
            sp__volume__free_unpacked(v->volume, NULL);
        if (v->content)
            sp__content__free_unpacked(v->content, NULL);
        free(v->key);
        free(v->protector);
        free(v->method);
        free(v->text);
        free(v->advice);
    }
    free(r->volumes);
    free(r->error);
}
