/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "agent/inspect_volume.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include <string.h>
#include <time.h>

const char *inspect_size(uint64_t bytes, char out[24])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < SP_COUNT(units))
        value /= 1024, unit++;
    snprintf(out, 24, unit == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return out;
}

const char *inspect_kind(const Sp__Volume *volume)
{
    switch (volume->kind) {
    case SP__VOLUME_KIND__VOLUME_KIND_CLEAR:
        return "not encrypted";
    case SP__VOLUME_KIND__VOLUME_KIND_LUKS1:
        return "LUKS1";
    case SP__VOLUME_KIND__VOLUME_KIND_LUKS2:
        return "LUKS2";
    case SP__VOLUME_KIND__VOLUME_KIND_PLAIN:
        return "plain dm-crypt";
    case SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER:
        return "BitLocker";
    case SP__VOLUME_KIND__VOLUME_KIND_VERACRYPT:
        return "VeraCrypt or TrueCrypt";
    case SP__VOLUME_KIND__VOLUME_KIND_FILEVAULT2:
        return "FileVault 2";
    default:
        return "unknown";
    }
}

bool inspect_is_encrypted(const Sp__Volume *volume)
{
    return volume->kind != SP__VOLUME_KIND__VOLUME_KIND_CLEAR &&
           volume->kind != SP__VOLUME_KIND__VOLUME_KIND_UNKNOWN;
}

void inspect_content(const Sp__Content *content, FILE *out)
{
    static const struct {
        const char *type, *words;
    } names[] = {{"LVM2_member", "LVM2 physical volume"},
                 {"linux_raid_member", "member of a Linux RAID"},
                 {"crypto_LUKS", "LUKS"},
                 {"DM_integrity", "dm-integrity"},
                 {"DM_verity_hash", "dm-verity hashes"}};
    const char *type = content->type;
    for (size_t i = 0; i < SP_COUNT(names); i++)
        if (strcmp(names[i].type, type) == 0)
            type = names[i].words;
    fprintf(out, "%s", type);
    if (content->label[0])
        fprintf(out, " \"%s\"", content->label);
}

/* ---- protectors ---- */

static const char *protector_words(const Sp__Protector *p)
{
    switch (p->type) {
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_LUKS_KEYSLOT:
        return "keyslot";
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_PLAIN_KEY:
        return "key";
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_CLEAR_KEY:
        return "CLEAR KEY on the volume itself";
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM:
        return "TPM of this machine";
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM_PIN:
        return "TPM of this machine with a PIN";
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_STARTUP_KEY:
        return "startup key (.BEK file)";
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_RECOVERY_PASSWORD:
        return "recovery password";
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_PASSWORD:
        return "password";
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_SMART_CARD:
        return "smart card";
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_TPM_STARTUP_KEY:
        return "TPM of this machine with a startup key";
    case SP__PROTECTOR_TYPE__PROTECTOR_TYPE_VOLUME_KEY:
        return "volume key";
    default:
        return "protector of an unknown kind";
    }
}

static void print_date(uint64_t unix_ms, FILE *out)
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm date;
    char text[32];
    if (unix_ms && gmtime_r(&seconds, &date) && strftime(text, sizeof(text), "%Y-%m-%d", &date))
        fprintf(out, ", made %s", text);
}

static void print_kdf(const Sp__Protector *p, FILE *out)
{
    if (!p->kdf[0] || p->type != SP__PROTECTOR_TYPE__PROTECTOR_TYPE_LUKS_KEYSLOT)
        return;
    fprintf(out, ", %s", p->kdf);
    if (p->hash[0])
        fprintf(out, " with %s", p->hash);
    if (p->kdf_memory_kib)
        fprintf(out, " in %s", INSPECT_SIZE(p->kdf_memory_kib * 1024));
    fprintf(out, ", %llu %s", (unsigned long long)p->kdf_iterations,
            p->kdf_memory_kib ? "passes" : "iterations");
}

static void print_protectors(const Sp__HeaderFacts *header, FILE *out)
{
    for (size_t i = 0; i < header->n_protectors; i++) {
        const Sp__Protector *p = header->protectors[i];
        bool slot = p->type == SP__PROTECTOR_TYPE__PROTECTOR_TYPE_LUKS_KEYSLOT;
        fprintf(out, "  opened by   %s %s", protector_words(p), p->id);
        if (p->description[0])
            fprintf(out, " \"%s\"", p->description);
        print_kdf(p, out);
        print_date(p->created_unix_ms, out);
        if (slot && p->priority == 0)
            fprintf(out, ", used only when named");
        if (slot && p->priority == 2)
            fprintf(out, ", tried first");
        if (!p->usable)
            fprintf(out, ", BUT it opens nothing: its key is not the volume's");
        fprintf(out, "\n");
    }
    if (header->n_protectors == 0 && header->fingerprint.len && !header->damaged)
        fprintf(out, "  opened by   NOTHING: no key is left\n");
}

static void print_tokens(const Sp__HeaderFacts *header, FILE *out)
{
    for (size_t i = 0; i < header->n_tokens; i++) {
        const Sp__Token *t = header->tokens[i];
        fprintf(out, "  token %-5u %s", t->number, t->type);
        for (size_t n = 0; n < t->n_keyslots; n++)
            fprintf(out, "%s%u", n ? ", " : " for keyslot ", t->keyslots[n]);
        fprintf(out, "\n");
    }
}

/* ---- header ---- */

static void print_cipher(const Sp__HeaderFacts *header, FILE *out)
{
    if (!header->cipher[0])
        return;
    fprintf(out, "  cipher      %s", header->cipher);
    if (header->key_bits)
        fprintf(out, ", %u-bit key", header->key_bits);
    if (header->hash[0])
        fprintf(out, ", %s", header->hash);
    if (header->sector_bytes)
        fprintf(out, ", sectors of %u bytes", header->sector_bytes);
    if (header->integrity[0])
        fprintf(out, ", integrity %s", header->integrity);
    fprintf(out, "\n");
}

static void print_copies(const Sp__HeaderFacts *header, bool has_seqid, FILE *out)
{
    static const char *const words[] = {"unknown", "good", "DAMAGED", "absent", "older"};
    if (header->n_copies < 2)
        return;
    fprintf(out, "  header      ");
    for (size_t i = 0; i < header->n_copies; i++) {
        const Sp__HeaderCopy *c = header->copies[i];
        const char *health = (unsigned)c->health < SP_COUNT(words) ? words[c->health] : words[0];
        fprintf(out, "%scopy at %s %s", i ? ", " : "", INSPECT_SIZE(c->offset_bytes), health);
        if (has_seqid && c->sequence)
            fprintf(out, " (seqid %llu)", (unsigned long long)c->sequence);
    }
    fprintf(out, "\n");
}

static void print_state(const Sp__Volume *volume, FILE *out)
{
    const Sp__HeaderFacts *header = volume->header;
    fprintf(out, "  state       ");
    if (header && header->damaged)
        fprintf(out, "DAMAGED");
    else if (header && header->state[0])
        fprintf(out, "%s", header->state);
    else
        fprintf(out, "encrypted");
    if (header && header->conversion_in_progress) {
        fprintf(out, ", conversion under way");
        if (header->conversion_percent)
            fprintf(out, " (%u %%)", header->conversion_percent);
    }
    if (header && header->protection_suspended)
        fprintf(out, ", protection SUSPENDED");
    if (volume->open)
        fprintf(out, ", open as %s", volume->mapped_name);
    if (volume->ephemeral)
        fprintf(out, ", with a new random key at every boot");
    fprintf(out, "\n");
}

static void print_header(const Sp__Volume *volume, FILE *out)
{
    const Sp__HeaderFacts *header = volume->header;
    if (header->label[0])
        fprintf(out, "  label       %s\n", header->label);
    if (header->subsystem[0])
        fprintf(out, "  subsystem   %s\n", header->subsystem);
    if (header->description[0])
        fprintf(out, "  description %s\n", header->description);
    print_cipher(header, out);
    print_copies(header, volume->kind == SP__VOLUME_KIND__VOLUME_KIND_LUKS2, out);
    if (header->detached)
        fprintf(out, "  header      detached: it lies apart from the data\n");
    for (size_t i = 0; i < header->n_requirements; i++)
        fprintf(out, "  requires    %s\n", header->requirements[i]);
    print_protectors(header, out);
    print_tokens(header, out);
}

static void print_place(const Sp__Volume *volume, FILE *out)
{
    enum { SHOWN = 4 };
    for (size_t i = 0; i < volume->n_extents && i < SHOWN; i++) {
        const Sp__DiskExtent *on = volume->extents[i]->on;
        fprintf(out, "%s %s of disk %s at byte %llu", i ? "\n             " : "  lies on    ",
                INSPECT_SIZE(on->length_bytes), on->disk_id, (unsigned long long)on->offset_bytes);
    }
    if (volume->n_extents > SHOWN)
        fprintf(out, "\n              and %zu more pieces", volume->n_extents - SHOWN);
    if (volume->n_extents)
        fprintf(out, "\n");
}

void inspect_volume(const Sp__Volume *volume, FILE *out)
{
    fprintf(out, "%s\n", volume->volume_id);
    fprintf(out, "  is          %s, %s%s%s\n", inspect_kind(volume),
            INSPECT_SIZE(volume->size_bytes), volume->device[0] ? ", on " : "", volume->device);
    if (inspect_is_encrypted(volume))
        print_state(volume, out);
    const Sp__PlainParameters *plain = volume->plain;
    if (plain && plain->cipher[0])
        fprintf(out,
                "  cipher      %s, %u-bit key, sectors of %u bytes, offset %llu, skip %llu%s%s\n",
                plain->cipher, plain->key_bits, plain->sector_bytes,
                (unsigned long long)plain->offset_sectors, (unsigned long long)plain->skip_sectors,
                plain->hash[0] ? ", passphrase hashed by " : "", plain->hash);
    if (volume->header)
        print_header(volume, out);
    if (volume->content) {
        fprintf(out, "  holds       ");
        inspect_content(volume->content, out);
        fprintf(out, "\n");
    }
    print_place(volume, out);
}

/* ---- findings ---- */

size_t inspect_findings(Sp__Finding *const *findings, size_t count, FILE *out)
{
    size_t faults = 0;
    for (int notes = 0; notes < 2; notes++)
        for (size_t i = 0; i < count; i++) {
            const Sp__Finding *f = findings[i];
            if ((f->note != 0) != notes)
                continue;
            fprintf(out, "  %s %s%s%s\n", notes ? "note:" : "!",
                    f->volume_id[0] ? f->volume_id : "", f->volume_id[0] ? ": " : "", f->text);
            faults += !notes;
        }
    return faults;
}
