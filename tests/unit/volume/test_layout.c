/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What lies on what: partition tables, LVM2, MD, nesting, and what is accounted for. */
#include "support.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB       ((uint64_t)1 << 20)
#define UUID_FS   "0f0f0f0f-1111-4222-8333-444444444444"
#define UUID_LUKS "66666666-7777-4888-9999-aaaaaaaaaaaa"
#define UUID_SWAP "77777777-1111-4222-8333-444444444444"

static struct image ext4, luks;

static int make_images(void **state)
{
    (void)state;
    image_empty(&ext4, 4 * MIB);
    image_empty(&luks, 20 * MIB);
    tool(NULL, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-b", "1024", "-U", UUID_FS,
         image_path(&ext4), "4096", NULL);
    tool("key", "cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2",
         "--pbkdf-force-iterations", "1000", "--uuid", UUID_LUKS, image_path(&luks), "-", NULL);
    return 0;
}

static int drop_images(void **state)
{
    (void)state;
    image_close(&ext4);
    image_close(&luks);
    return 0;
}

static void put32(uint8_t *at, uint32_t v)
{
    sp_put_le32(at, v);
}

static void put64(uint8_t *at, uint64_t v)
{
    sp_put_le64(at, v);
}

/* ---- GPT ---- */

struct part {
    uint64_t at, length; /* MiB */
    const char *type;    /* GUID bytes in hexadecimal, NULL: Linux data */
};

static const uint8_t linux_data[16] = {0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47,
                                       0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4};

static void gpt_header(uint8_t *h, uint64_t mine, uint64_t other, uint64_t entries,
                       uint64_t sectors, const uint8_t *table)
{
    memset(h, 0, 512);
    memcpy(h, "EFI PART\0\0\1\0", 12);
    put32(h + 12, 92);
    put64(h + 24, mine);
    put64(h + 32, other);
    put64(h + 40, 34);
    put64(h + 48, sectors - 34);
    memset(h + 56, 0x42, 16);
    put64(h + 72, entries);
    put32(h + 80, 128);
    put32(h + 84, 128);
    put32(h + 88, volume_crc32(table, 128 * 128));
    put32(h + 16, volume_crc32(h, 92));
}

static void protective_mbr(const struct image *disk)
{
    uint8_t s[512] = {0};
    s[446 + 4] = 0xee;
    put32(s + 446 + 8, 1);
    put32(s + 446 + 12, (uint32_t)(disk->size / 512 - 1));
    s[510] = 0x55;
    s[511] = 0xaa;
    image_put(disk, 0, s, sizeof s);
}

static void make_gpt(const struct image *disk, const struct part *parts, size_t count)
{
    static uint8_t table[128 * 128];
    uint8_t h[512];
    uint64_t sectors = disk->size / 512;
    memset(table, 0, sizeof table);
    for (size_t i = 0; i < count; i++) {
        uint8_t *e = table + i * 128;
        if (parts[i].type)
            assert_int_equal(sp_unhex(parts[i].type, e, 16), 0);
        else
            memcpy(e, linux_data, 16);
        memset(e + 16, (int)(i + 1), 16);
        put64(e + 32, parts[i].at * 2048);
        put64(e + 40, (parts[i].at + parts[i].length) * 2048 - 1);
        e[56] = 'p';
    }
    protective_mbr(disk);
    gpt_header(h, 1, sectors - 1, 2, sectors, table);
    image_put(disk, 512, h, 512);
    image_put(disk, 1024, table, sizeof table);
    gpt_header(h, sectors - 1, 1, sectors - 33, sectors, table);
    image_put(disk, (sectors - 33) * 512, table, sizeof table);
    image_put(disk, (sectors - 1) * 512, h, 512);
}

static void test_gpt_accounts_for_all_but_the_unknown(void **state)
{
    (void)state;
    struct image disk;
    struct volume_look look;
    image_empty(&disk, 64 * MIB);
    const struct part parts[] = {{1, 1, "4861682149646f6e744e656564454649"}, /* BIOS boot */
                                 {2, 4, NULL},
                                 {8, 20, NULL},
                                 {40, 10, NULL}};
    make_gpt(&disk, parts, 4);
    image_put(&disk, 1 * MIB, "grub", 4);
    image_put_image(&disk, 2 * MIB, &ext4);
    image_put_image(&disk, 8 * MIB, &luks);
    image_put(&disk, 40 * MIB, "who knows", 9); /* a closed plain volume, perhaps */
    look_at(&disk, &look);
    assert_int_equal(look.volume_count, 2);
    assert_int_equal(look.finding_count, 0);
    assert_string_equal(range_at(&look, "disk", 0)->what, "gpt");
    assert_string_equal(range_at(&look, "disk", 1024)->what, "gpt");
    assert_string_equal(range_at(&look, "disk", 100 << 10)->what, "gap");
    assert_string_equal(range_at(&look, "disk", MIB)->what, "boot code");
    assert_string_equal(range_at(&look, "disk", 2 * MIB)->what, "ext4");
    assert_string_equal(range_at(&look, "disk", 2 * MIB)->volume_id, "clear:" UUID_FS);
    assert_string_equal(range_at(&look, "disk", 7 * MIB)->what, "gap"); /* 2 MiB between two */
    assert_string_equal(range_at(&look, "disk", 27 * MIB)->what, "luks2");
    assert_null(range_at(&look, "disk", 30 * MIB)); /* 12 MiB between two */
    assert_null(range_at(&look, "disk", 40 * MIB)); /* in a partition, and unknown */
    assert_string_equal(range_at(&look, "disk", 64 * MIB - 1)->what, "gpt");
    const Sp__Volume *v = volume_named(&look, "luks:" UUID_LUKS);
    assert_int_equal(v->size_bytes, 20 * MIB);
    assert_int_equal(v->extents[0]->on->offset_bytes, 8 * MIB);
    volume_look_free(&look);
    image_close(&disk);
}

static void test_one_gpt_copy_is_enough(void **state)
{
    (void)state;
    struct image disk;
    struct volume_look look;
    image_empty(&disk, 32 * MIB);
    const struct part part = {2, 20, NULL};
    make_gpt(&disk, &part, 1);
    image_put_image(&disk, 2 * MIB, &luks);
    static const struct {
        uint64_t offsets[2];
        const char *problem;
        bool damaged;
    } cases[] = {
        {{512 + 60, 0}, "first copy", false},
        {{1024 + 40, 0}, "first copy", false}, /* its entries */
        {{32 * MIB - 512 + 60, 0}, "second copy", false},
        {{512 + 60, 32 * MIB - 512 + 60}, "neither copy", true},
    };
    for (size_t i = 0; i < SP_COUNT(cases); i++) {
        struct altered a = {.masks = {1, 1}, .count = cases[i].offsets[1] ? 2 : 1};
        memcpy(a.offsets, cases[i].offsets, sizeof cases[i].offsets);
        struct image altered = disk;
        altered.reader = altered_reader(&a, &disk.reader, disk.size);
        look_at(&altered, &look);
        assert_int_equal(look.volume_count, !cases[i].damaged);
        Sp__Reason reason = cases[i].damaged ? SP__REASON__REASON_UNIDENTIFIED_CONTENT
                                             : SP__REASON__REASON_HEADER_DAMAGED;
        const Sp__Finding *found = finding_of(&look, reason, "");
        assert_non_null(found);
        assert_non_null(strstr(found->text, cases[i].problem));
        assert_int_equal(found->note, !cases[i].damaged);
        volume_look_free(&look);
    }
    image_close(&disk);
}

static void test_4k_sectors(void **state)
{
    (void)state;
    struct image disk;
    struct volume_look look;
    static uint8_t table[128 * 128];
    uint8_t h[4096] = {0};
    image_empty(&disk, 32 * MIB);
    protective_mbr(&disk);
    memset(table, 0, sizeof table);
    memcpy(table, linux_data, 16);
    memset(table + 16, 7, 16);
    put64(table + 32, 2 * 256);
    put64(table + 40, 22 * 256 - 1);
    gpt_header(h, 1, disk.size / 4096 - 1, 2, disk.size / 4096, table);
    image_put(&disk, 4096, h, sizeof h);
    image_put(&disk, 2 * 4096, table, sizeof table);
    image_put_image(&disk, 2 * MIB, &luks);
    look_at(&disk, &look); /* says 512, is 4096 */
    assert_int_equal(look.volume_count, 1);
    assert_int_equal(look.volumes[0]->extents[0]->on->offset_bytes, 2 * MIB);
    volume_look_free(&look);
    image_close(&disk);
}

/* ---- MBR ---- */

static void mbr_entry(uint8_t *sector, unsigned i, uint8_t type, uint32_t start, uint32_t count)
{
    uint8_t *e = sector + 446 + 16 * i;
    e[4] = type;
    put32(e + 8, start);
    put32(e + 12, count);
    sector[510] = 0x55;
    sector[511] = 0xaa;
}

static void test_mbr_with_logical_partitions(void **state)
{
    (void)state;
    struct image disk;
    struct volume_look look;
    uint8_t s[512] = {0};
    image_empty(&disk, 64 * MIB);
    mbr_entry(s, 0, 0x83, 2048, 4 * 2048);
    mbr_entry(s, 1, 0x05, 10 * 2048, 50 * 2048);
    image_put(&disk, 0, s, 512);
    memset(s, 0, 512);
    mbr_entry(s, 0, 0x83, 2048, 20 * 2048);
    mbr_entry(s, 1, 0x05, 30 * 2048, 20 * 2048); /* relative to the extended one */
    image_put(&disk, 10 * MIB, s, 512);
    memset(s, 0, 512);
    mbr_entry(s, 0, 0x83, 2048, 4 * 2048);
    mbr_entry(s, 1, 0x05, 1, 1); /* leads back: must not loop */
    image_put(&disk, 40 * MIB, s, 512);
    image_put_image(&disk, MIB, &ext4);
    image_put_image(&disk, 11 * MIB, &luks);
    image_put_image(&disk, 41 * MIB, &ext4);
    look_at(&disk, &look);
    assert_int_equal(look.volume_count, 3);
    assert_int_equal(volume_named(&look, "luks:" UUID_LUKS)->extents[0]->on->offset_bytes,
                     11 * MIB);
    /* A second one with the same UUID gets a name from its place. */
    assert_non_null(volume_named(&look, "clear:disk+42991616"));
    assert_string_equal(range_at(&look, "disk", 10 * MIB)->what, "dos");
    assert_string_equal(range_at(&look, "disk", 40 * MIB)->what, "dos");
    assert_non_null(
        strstr(finding_of(&look, SP__REASON__REASON_HEADER_DAMAGED, "")->text, "leads astray"));
    volume_look_free(&look);
    image_close(&disk);
}

static void test_old_gpt_under_a_new_mbr_is_dead(void **state)
{
    (void)state;
    struct image disk;
    struct volume_look look;
    uint8_t s[512] = {0};
    image_empty(&disk, 32 * MIB);
    const struct part part = {20, 4, NULL};
    make_gpt(&disk, &part, 1);
    mbr_entry(s, 0, 0x83, 2048, 4 * 2048);
    image_put(&disk, 0, s, 512);
    image_put_image(&disk, MIB, &ext4);
    look_at(&disk, &look);
    assert_int_equal(look.volume_count, 1);
    assert_int_equal(look.volumes[0]->extents[0]->on->offset_bytes, MIB);
    volume_look_free(&look);
    image_close(&disk);
}

/* ---- whole disks, file systems ---- */

static void test_content_and_its_size(void **state)
{
    (void)state;
    struct image disk;
    struct volume_look look;
    Sp__Content *content;
    bool ambiguous;
    /* A file system that fills half of its place: the rest is not vouched for. */
    image_empty(&disk, 16 * MIB);
    image_put_image(&disk, 0, &ext4);
    image_put(&disk, 10 * MIB, "hidden", 6);
    assert_int_equal(volume_content(&disk.reader, &content, &ambiguous), 0);
    assert_string_equal(content->type, "ext4");
    assert_string_equal(content->uuid, UUID_FS);
    assert_string_equal(content->usage, "filesystem");
    sp__content__free_unpacked(content, NULL);
    look_at(&disk, &look);
    assert_string_equal(range_at(&look, "disk", 4 * MIB - 1)->what, "ext4");
    assert_null(range_at(&look, "disk", 4 * MIB));
    assert_null(range_at(&look, "disk", 10 * MIB));
    volume_look_free(&look);
    image_close(&disk);

    image_empty(&disk, 16 * MIB);
    tool(NULL, "mkswap", "-U", UUID_SWAP, "-L", "s", image_path(&disk), NULL);
    look_at(&disk, &look);
    const Sp__Volume *v = volume_named(&look, "clear:" UUID_SWAP);
    assert_int_equal(v->kind, SP__VOLUME_KIND__VOLUME_KIND_CLEAR);
    assert_string_equal(v->content->type, "swap");
    assert_string_equal(v->content->label, "s");
    assert_string_equal(range_at(&look, "disk", 16 * MIB - 1)->what, "swap");
    volume_look_free(&look);
    image_close(&disk);

    image_empty(&disk, 400 * MIB);
    tool(NULL, "mkfs.xfs", "-q", "-L", "x", image_path(&disk), NULL);
    assert_int_equal(volume_content(&disk.reader, &content, &ambiguous), 0);
    assert_string_equal(content->type, "xfs");
    assert_int_equal(volume_content_size(&disk.reader, "xfs"), 400 * MIB);
    sp__content__free_unpacked(content, NULL);
    image_close(&disk);
}

static void test_ambiguous_content_is_nobodys(void **state)
{
    (void)state;
    struct image xfs;
    struct volume_look look;
    Sp__Content *content;
    bool ambiguous;
    uint8_t super[1024];
    image_empty(&xfs, 400 * MIB);
    tool(NULL, "mkfs.xfs", "-q", image_path(&xfs), NULL);
    assert_int_equal(volume_read(&ext4.reader, 1024, super, sizeof super), 0);
    image_put(&xfs, 1024, super, sizeof super); /* both begin here, by their superblocks */
    assert_int_equal(volume_content(&xfs.reader, &content, &ambiguous), 0);
    assert_true(ambiguous);
    assert_null(content);
    look_at(&xfs, &look);
    assert_int_equal(look.volume_count, 0);
    assert_int_equal(look.range_count, 0);
    assert_non_null(finding_of(&look, SP__REASON__REASON_UNIDENTIFIED_CONTENT, ""));
    volume_look_free(&look);
    image_close(&xfs);
}

static void test_many_tib_are_cheap(void **state)
{
    (void)state;
    struct image disk;
    struct volume_look look;
    image_empty(&disk, (uint64_t)16 << 40);
    const struct part parts[] = {{1, 1 << 20, NULL}, {2 << 20, 4 << 20, NULL}};
    make_gpt(&disk, parts, 2);
    image_put_image(&disk, MIB, &ext4);
    image_put_image(&disk, (uint64_t)2 << 40, &luks);
    look_at(&disk, &look);
    assert_int_equal(volume_named(&look, "luks:" UUID_LUKS)->size_bytes, (uint64_t)4 << 40);
    volume_look_free(&look);
    image_close(&disk);
}

/* ---- LVM2 ---- */

static void read_fixture(const char *name, struct image *pv)
{
    char path[600];
    const char *source = getenv("SEALPOINT_SOURCE");
    snprintf(path, sizeof path, "xz -dc '%s/tests/unit/volume/%s' > '%s'", source ? source : ".",
             name, image_path(pv));
    tool(NULL, "sh", "-c", path, NULL);
    assert_int_equal(ftruncate(pv->fd, (off_t)pv->size), 0);
}

static void expect_extent(const Sp__Volume *v, size_t i, uint64_t at, const char *disk,
                          uint64_t offset, uint64_t length)
{
    assert_true(i < v->n_extents);
    assert_int_equal(v->extents[i]->volume_offset_bytes, at);
    assert_string_equal(v->extents[i]->on->disk_id, disk);
    assert_int_equal(v->extents[i]->on->offset_bytes, offset);
    assert_int_equal(v->extents[i]->on->length_bytes, length);
}

static void two_disks(struct volume_disk *disks, const struct image *one, const struct image *two)
{
    disks[0] = (struct volume_disk){.disk_id = "one", .reader = one->reader};
    disks[1] = (struct volume_disk){.disk_id = "two", .reader = two->reader};
}

/* The group that LVM2 itself made (make-lvm2); extents of 1 MiB, the first at 1 MiB:
 *     linear   one:0-9 one:27-40    striped (2 × 64 KiB) one:10-19 two:0-9
 *     span     two:10-62 one:20-26 */
static void test_lvm2_of_real_tools(void **state)
{
    (void)state;
    struct image one, two;
    struct volume_disk disks[2];
    struct volume_look look;
    image_empty(&one, 64 * MIB);
    image_empty(&two, 64 * MIB);
    read_fixture("lvm2-pv1.img.xz", &one);
    read_fixture("lvm2-pv2.img.xz", &two);
    /* On the linear one LUKS, cut in two by the hole; on the striped one ext4; on span swap. */
    uint8_t *bytes = malloc(20 * MIB);
    assert_non_null(bytes);
    assert_int_equal(volume_read(&luks.reader, 0, bytes, 20 * MIB), 0);
    image_put(&one, 1 * MIB, bytes, 10 * MIB);
    image_put(&one, 28 * MIB, bytes + 10 * MIB, 10 * MIB);
    assert_int_equal(volume_read(&ext4.reader, 0, bytes, 4 * MIB), 0);
    for (uint64_t chunk = 0; chunk < 64; chunk++)
        image_put(chunk % 2 ? &two : &one,
                  (chunk % 2 ? 1 * MIB : 11 * MIB) + chunk / 2 * (64 << 10), bytes + chunk * 65536,
                  65536);
    struct image swap;
    image_empty(&swap, 60 * MIB);
    tool(NULL, "mkswap", "-U", UUID_SWAP, image_path(&swap), NULL);
    assert_int_equal(volume_read(&swap.reader, 0, bytes, 4096), 0);
    image_put(&two, 11 * MIB, bytes, 4096);
    free(bytes);

    two_disks(disks, &one, &two);
    assert_int_equal(volume_look(disks, 2, false, &look), 0);
    assert_int_equal(look.volume_count, 3);
    const Sp__Volume *v = volume_named(&look, "luks:" UUID_LUKS);
    assert_int_equal(v->size_bytes, 24 * MIB);
    assert_int_equal(v->n_extents, 2);
    expect_extent(v, 0, 0, "one", 1 * MIB, 10 * MIB);
    expect_extent(v, 1, 10 * MIB, "one", 28 * MIB, 14 * MIB);
    v = volume_named(&look, "clear:" UUID_FS);
    assert_int_equal(v->size_bytes, 20 * MIB);
    assert_int_equal(v->n_extents, 320);
    expect_extent(v, 0, 0, "one", 11 * MIB, 65536);
    expect_extent(v, 1, 65536, "two", 1 * MIB, 65536);
    expect_extent(v, 2, 2 * 65536, "one", 11 * MIB + 65536, 65536);
    v = volume_named(&look, "clear:" UUID_SWAP);
    assert_int_equal(v->n_extents, 2);
    expect_extent(v, 0, 0, "two", 11 * MIB, 53 * MIB);
    expect_extent(v, 1, 53 * MIB, "one", 21 * MIB, 7 * MIB);
    /* 4 MiB of ext4 over two stripes: 2 MiB on each disk, one range each. */
    const Sp__RangeUse *r = range_at(&look, "one", 11 * MIB);
    assert_string_equal(r->what, "ext4");
    assert_int_equal(r->on->length_bytes, 2 * MIB);
    r = range_at(&look, "two", 1 * MIB);
    assert_string_equal(r->what, "ext4");
    assert_int_equal(r->on->length_bytes, 2 * MIB);
    assert_string_equal(range_at(&look, "one", 4096)->what, "lvm2 metadata");
    assert_string_equal(range_at(&look, "one", 28 * MIB)->volume_id, "luks:" UUID_LUKS);
    assert_null(range_at(&look, "one", 50 * MIB)); /* free extents */

    /* The volume's extents read back as the volume. */
    struct volume_reader reader;
    void *store;
    v = volume_named(&look, "clear:" UUID_FS);
    assert_int_equal(volume_reader_of_extents(disks, 2, v->extents, v->n_extents, &reader, &store),
                     0);
    uint8_t got[3000], want[3000];
    assert_int_equal(volume_read(&reader, 65536 * 3 - 1500, got, sizeof got), 0);
    assert_int_equal(volume_read(&ext4.reader, 65536 * 3 - 1500, want, sizeof want), 0);
    assert_memory_equal(got, want, sizeof got);
    assert_int_equal(volume_read(&reader, 20 * MIB - 10, got, 11), -ERANGE);
    volume_reader_free(store);
    volume_look_free(&look);

    /* One of the two disks alone: what is whole on it is found, the rest is named. */
    assert_int_equal(volume_look(disks, 1, false, &look), 0);
    assert_int_equal(look.volume_count, 1);
    assert_non_null(volume_named(&look, "luks:" UUID_LUKS));
    const Sp__Finding *found = finding_of(&look, SP__REASON__REASON_UNIDENTIFIED_CONTENT, "");
    assert_non_null(strstr(found->text, "group/striped"));
    volume_look_free(&look);

    /* Its copy on the other disk serves when the metadata on one is damaged. */
    image_put(&one, 4096 + 2, "\xff\xff", 2);
    assert_int_equal(volume_look(disks, 2, true, &look), 0);
    assert_int_equal(look.volume_count, 3);
    assert_true(finding_of(&look, SP__REASON__REASON_HEADER_DAMAGED, "")->note);
    volume_look_free(&look);
    image_close(&swap);
    image_close(&one);
    image_close(&two);
}

static void test_lvm2_text(void **state)
{
    (void)state;
    struct volume_vg *vg = NULL;
    static const char good[] =
        "# comment\nvg { id = \"a-b\" seqno = 7 extent_size = 8 status = [\"A\", \"B\",]\n"
        "physical_volumes { pv0 { id = \"x-y\" pe_start = 2048 pe_count = 3 } }\n"
        "logical_volumes { lv { id = \"l\" status = [ \"VISIBLE\" ] segment_count = 1\n"
        " segment1 { start_extent = 0 extent_count = 3 type = \"striped\" stripe_count = 1\n"
        "  stripes = [ \"pv0\", 0 ] } } } }\nversion = 1\ndescription = \"q \\\" }\"\n";
    assert_int_equal(volume_vg_parse(good, sizeof good, &vg), 0);
    assert_int_equal(vg->sequence, 7);
    assert_int_equal(vg->extent_bytes, 4096);
    assert_string_equal(vg->pvs[0].id, "xy");
    assert_true(vg->lvs[0].visible);
    assert_string_equal(vg->lvs[0].segments[0].stripes[0].on, "pv0");
    volume_vg_free(vg);
    static const char *const malformed[] = {
        "",
        "vg {",
        "vg }",
        "vg { id = }",
        "vg { id = \"a }",
        "vg { id = [ 1, }",
        "vg { id = \"a\" seqno = 99999999999999999999 extent_size = 1 }",
        "vg { id = \"a\" seqno = 1 extent_size = 0 }",
        "a{b{c{d{e{f{g{h{i{j{k{l{m{}}}}}}}}}}}}}",
        "vg { id = \"a\" seqno = 1 extent_size = 8 logical_volumes { l { } } }",
        "= = =",
    };
    for (size_t i = 0; i < SP_COUNT(malformed); i++)
        assert_int_equal(volume_vg_parse(malformed[i], strlen(malformed[i]), &vg), -EBADMSG);
    for (size_t cut = 0; cut + 1 < sizeof good; cut++) {
        vg = NULL;
        int rc = volume_vg_parse(good, cut, &vg);
        assert_true(rc == 0 || rc == -EBADMSG);
        volume_vg_free(vg);
    }
}

/* ---- MD ---- */

struct md_member {
    unsigned minor;
    int32_t level;
    uint32_t disks, number;
    uint16_t role;
    uint64_t events, data_offset, data_size, used_size; /* sectors */
    uint32_t chunk, features;                           /* sectors */
    uint32_t layout;
};

static void make_md(const struct image *disk, const struct md_member *m)
{
    uint8_t s[4096] = {0};
    uint64_t sectors = disk->size / 512;
    uint64_t at = m->minor == 1 ? 0 : m->minor == 2 ? 8 : (sectors - 16) & ~(uint64_t)7;
    put32(s, 0xa92b4efc);
    put32(s + 4, 1);
    put32(s + 8, m->features);
    memset(s + 16, 0x5a, 16);
    memcpy(s + 32, "guest:0", 7);
    put32(s + 72, (uint32_t)m->level);
    put32(s + 76, m->layout);
    put64(s + 80, m->used_size);
    put32(s + 88, m->chunk);
    put32(s + 92, m->disks);
    put64(s + 128, m->data_offset);
    put64(s + 136, m->data_size);
    put64(s + 144, at);
    put32(s + 160, m->number);
    put64(s + 200, m->events);
    put32(s + 220, 16);
    for (unsigned i = 0; i < 16; i++) {
        uint16_t role = i == m->number ? m->role : 0xfffe;
        s[256 + 2 * i] = (uint8_t)role;
        s[257 + 2 * i] = (uint8_t)(role >> 8);
    }
    uint64_t sum = 0;
    for (unsigned i = 0; i < 256 + 32; i += 4)
        sum += i == 216 ? 0 : sp_le32(s + i);
    put32(s + 216, (uint32_t)(sum + (sum >> 32)));
    image_put(disk, at * 512, s, sizeof s);
}

static void test_md_raid1(void **state)
{
    (void)state;
    for (unsigned minor = 0; minor <= 2; minor++) {
        struct image one, two, three;
        struct volume_look look;
        uint64_t data = minor == 0 ? 0 : 2048;
        struct md_member m = {.minor = minor,
                              .level = 1,
                              .disks = 2,
                              .events = 9,
                              .data_offset = data,
                              .data_size = 20 * 2048,
                              .used_size = 20 * 2048};
        image_empty(&one, 24 * MIB);
        image_empty(&two, 24 * MIB);
        image_empty(&three, 24 * MIB);
        make_md(&one, &m);
        m.number = m.role = 1;
        make_md(&two, &m);
        m.events = 3; /* dropped out long ago */
        make_md(&three, &m);
        image_put_image(&one, data * 512, &luks);
        image_put_image(&two, data * 512, &luks);
        image_put(&three, data * 512, "old", 3);
        struct volume_disk disks[3];
        two_disks(disks, &one, &two);
        disks[2] = (struct volume_disk){.disk_id = "three", .reader = three.reader};
        assert_int_equal(volume_look(disks, 3, false, &look), 0);
        assert_int_equal(look.volume_count, 1); /* not once for each leg */
        const Sp__Volume *v = volume_named(&look, "luks:" UUID_LUKS);
        assert_int_equal(v->n_extents, 1);
        expect_extent(v, 0, 0, "one", data * 512, 20 * MIB);
        assert_string_equal(range_at(&look, "one", data * 512)->what, "luks2");
        assert_string_equal(range_at(&look, "two", data * 512)->volume_id, "luks:" UUID_LUKS);
        assert_null(range_at(&look, "three", data * 512));
        const Sp__Finding *found = finding_of(&look, SP__REASON__REASON_UNIDENTIFIED_CONTENT, "");
        assert_string_equal(found->disk_id, "three");
        assert_non_null(strstr(found->text, "not in sync"));
        volume_look_free(&look);
        image_close(&one);
        image_close(&two);
        image_close(&three);
    }
}

/* Bytes of `from` over members: `count` of them, striped by `chunk` bytes. */
static void put_striped(struct image *const *members, size_t count, uint64_t data, uint64_t chunk,
                        const struct image *from)
{
    uint8_t *bytes = malloc(chunk);
    assert_non_null(bytes);
    for (uint64_t i = 0; i * chunk < from->size; i++) {
        assert_int_equal(volume_read(&from->reader, i * chunk, bytes, (uint32_t)chunk), 0);
        image_put(members[i % count], data + i / count * chunk, bytes, chunk);
    }
    free(bytes);
}

static void test_md_raid0_and_linear(void **state)
{
    (void)state;
    struct image one, two;
    struct image *const members[] = {&two, &one}; /* role 0 is the second disk */
    struct volume_disk disks[2];
    struct volume_look look;
    image_empty(&one, 12 * MIB);
    image_empty(&two, 12 * MIB);
    struct md_member m = {.minor = 2,
                          .level = 0,
                          .disks = 2,
                          .events = 1,
                          .data_offset = 2048,
                          .data_size = 10 * 2048,
                          .chunk = 128,
                          .number = 1,
                          .role = 1};
    make_md(&one, &m);
    m.number = m.role = 0;
    make_md(&two, &m);
    put_striped(members, 2, MIB, 65536, &luks);
    two_disks(disks, &one, &two);
    assert_int_equal(volume_look(disks, 2, false, &look), 0);
    const Sp__Volume *v = volume_named(&look, "luks:" UUID_LUKS);
    assert_int_equal(v->size_bytes, 20 * MIB);
    expect_extent(v, 0, 0, "two", MIB, 65536);
    expect_extent(v, 1, 65536, "one", MIB, 65536);
    assert_int_equal(range_at(&look, "one", MIB)->on->length_bytes, 10 * MIB);
    volume_look_free(&look);
    /* Half of it is nothing. */
    assert_int_equal(volume_look(disks, 1, false, &look), 0);
    assert_int_equal(look.volume_count, 0);
    assert_non_null(
        strstr(finding_of(&look, SP__REASON__REASON_UNIDENTIFIED_CONTENT, "")->text, "raid0"));
    volume_look_free(&look);

    m.level = -1;
    make_md(&two, &m);
    m.number = m.role = 1;
    make_md(&one, &m);
    uint8_t *bytes = malloc(20 * MIB);
    assert_non_null(bytes);
    assert_int_equal(volume_read(&luks.reader, 0, bytes, 20 * MIB), 0);
    image_put(&two, MIB, bytes, 10 * MIB);
    image_put(&one, MIB, bytes + 10 * MIB, 10 * MIB);
    free(bytes);
    assert_int_equal(volume_look(disks, 2, false, &look), 0);
    v = volume_named(&look, "luks:" UUID_LUKS);
    assert_int_equal(v->n_extents, 2);
    expect_extent(v, 1, 10 * MIB, "one", MIB, 10 * MIB);
    volume_look_free(&look);

    m.level = 5; /* named, not followed */
    make_md(&one, &m);
    assert_int_equal(volume_look(disks, 2, false, &look), 0);
    assert_int_equal(look.volume_count, 0);
    volume_look_free(&look);
    image_close(&one);
    image_close(&two);
}

/* Zones: beyond the smaller member only the larger one goes on. */
static void test_md_raid0_zones(void **state)
{
    (void)state;
    struct image one, two;
    struct volume_disk disks[2];
    struct volume_look look;
    image_empty(&one, 8 * MIB);
    image_empty(&two, 16 * MIB);
    struct md_member m = {.minor = 2,
                          .level = 0,
                          .disks = 2,
                          .events = 1,
                          .data_offset = 2048,
                          .data_size = 6 * 2048,
                          .chunk = 128,
                          .features = 0};
    make_md(&one, &m);
    m.number = m.role = 1;
    m.data_size = 14 * 2048;
    make_md(&two, &m);
    two_disks(disks, &one, &two);
    /* Layout 0 (not said): later zones are not followed. */
    assert_int_equal(volume_look(disks, 2, false, &look), 0);
    assert_int_equal(look.volume_count, 0);
    assert_non_null(finding_of(&look, SP__REASON__REASON_UNIDENTIFIED_CONTENT, ""));
    volume_look_free(&look);
    /* Layout 2: 12 MiB over both, then 8 MiB on the larger one. */
    m.layout = 2;
    make_md(&two, &m);
    m.number = m.role = 0;
    m.data_size = 6 * 2048;
    make_md(&one, &m);
    for (uint64_t chunk = 0; chunk < 192; chunk++) {
        uint8_t bytes[65536];
        assert_int_equal(volume_read(&luks.reader, chunk * 65536, bytes, sizeof bytes), 0);
        image_put(chunk % 2 ? &two : &one, MIB + chunk / 2 * 65536, bytes, sizeof bytes);
    }
    assert_int_equal(volume_look(disks, 2, false, &look), 0);
    const Sp__Volume *v = volume_named(&look, "luks:" UUID_LUKS);
    assert_int_equal(v->size_bytes, 20 * MIB);
    expect_extent(v, v->n_extents - 1, 12 * MIB - 65536, "two", 7 * MIB - 65536,
                  8 * MIB + 65536); /* the last chunk on the second joins its zone */
    volume_look_free(&look);
    image_close(&one);
    image_close(&two);
}

/* ---- all at once ---- */

/* disk ─ GPT ─ partition ─ RAID1 ─ LVM2 would need a PV made for it; a table in an array will do.
 */
static void test_nesting(void **state)
{
    (void)state;
    struct image disk, inner;
    struct volume_look look;
    image_empty(&disk, 40 * MIB);
    const struct part outer[] = {{1, 36, NULL}};
    make_gpt(&disk, outer, 1);
    struct image member;
    image_empty(&member, 36 * MIB);
    const struct md_member m = {.minor = 2,
                                .level = 1,
                                .disks = 1,
                                .events = 1,
                                .data_offset = 2048,
                                .data_size = 34 * 2048,
                                .used_size = 34 * 2048};
    make_md(&member, &m);
    image_empty(&inner, 34 * MIB);
    const struct part parts[] = {{2, 20, NULL}, {24, 4, NULL}};
    make_gpt(&inner, parts, 2);
    image_put_image(&inner, 2 * MIB, &luks);
    image_put_image(&inner, 24 * MIB, &ext4);
    image_put_image(&member, MIB, &inner);
    image_put_image(&disk, MIB, &member);
    look_at(&disk, &look);
    assert_int_equal(look.volume_count, 2);
    assert_int_equal(volume_named(&look, "luks:" UUID_LUKS)->extents[0]->on->offset_bytes,
                     (1 + 1 + 2) * MIB);
    assert_string_equal(range_at(&look, "disk", (1 + 1 + 24) * MIB)->what, "ext4");
    assert_string_equal(range_at(&look, "disk", 2 * MIB)->what, "gpt");
    assert_string_equal(range_at(&look, "disk", MIB + 4096)->what, "md metadata");
    volume_look_free(&look);
    image_close(&disk);
    image_close(&inner);
    image_close(&member);
}

/* A partition that holds a partition that is the same bytes again: ends at the bounded depth. */
static void test_depth_is_bounded(void **state)
{
    (void)state;
    struct image disk;
    struct volume_look look;
    image_empty(&disk, 64 * MIB);
    for (uint32_t i = 0; i < 60; i++) {
        uint8_t s[512] = {0};
        mbr_entry(s, 0, 0x83, 2048, 2048 * 60);
        image_put(&disk, i * MIB, s, 512);
    }
    look_at(&disk, &look);
    assert_non_null(
        strstr(finding_of(&look, SP__REASON__REASON_UNIDENTIFIED_CONTENT, "")->text, "too deep"));
    volume_look_free(&look);
    image_close(&disk);
}

static void test_same_uuid_twice(void **state)
{
    (void)state;
    struct volume_look look;
    struct volume_disk disks[2];
    two_disks(disks, &luks, &luks);
    assert_int_equal(volume_look(disks, 2, true, &look), 0);
    assert_int_equal(look.volume_count, 2);
    assert_string_equal(look.volumes[0]->volume_id, "luks:" UUID_LUKS);
    /* The clone has its place in its name, and everything about it bears that name. */
    char clone[120];
    snprintf(clone, sizeof clone, "luks:" UUID_LUKS "@%s+0", disks[1].disk_id);
    assert_string_equal(look.volumes[1]->volume_id, clone);
    assert_true(finding_of(&look, SP__REASON__REASON_INVENTORY_MISMATCH, clone)->note);
    size_t own = 0;
    for (size_t i = 0; i < look.range_count; i++) {
        bool on_clone = strcmp(look.ranges[i]->on->disk_id, disks[1].disk_id) == 0;
        if (*look.ranges[i]->volume_id)
            assert_int_equal(strcmp(look.ranges[i]->volume_id, clone) == 0, on_clone);
        own += on_clone;
    }
    assert_true(own > 0);
    volume_look_free(&look);
}

static void test_extents_are_checked(void **state)
{
    (void)state;
    struct volume_disk disks[2];
    struct volume_reader reader;
    void *store;
    two_disks(disks, &ext4, &luks);
    Sp__DiskExtent on[2] = {SP__DISK_EXTENT__INIT, SP__DISK_EXTENT__INIT};
    Sp__VolumeExtent e[2] = {SP__VOLUME_EXTENT__INIT, SP__VOLUME_EXTENT__INIT};
    Sp__VolumeExtent *const list[] = {&e[0], &e[1]};
    e[0].on = &on[0];
    e[1].on = &on[1];
    on[0].disk_id = (char[]){"one"};
    on[1].disk_id = (char[]){"two"};
    on[0].length_bytes = on[1].length_bytes = MIB;
    e[1].volume_offset_bytes = MIB;
    assert_int_equal(volume_reader_of_extents(disks, 2, list, 2, &reader, &store), 0);
    assert_int_equal(reader.size_bytes, 2 * MIB);
    volume_reader_free(store);
    e[1].volume_offset_bytes = MIB - 1; /* overlap */
    assert_int_equal(volume_reader_of_extents(disks, 2, list, 2, &reader, &store), -EINVAL);
    e[1].volume_offset_bytes = 3 * MIB; /* a hole, which cannot be read */
    assert_int_equal(volume_reader_of_extents(disks, 2, list, 2, &reader, &store), 0);
    uint8_t byte;
    assert_int_equal(volume_read(&reader, 2 * MIB, &byte, 1), -ERANGE);
    assert_int_equal(volume_read(&reader, 3 * MIB, &byte, 1), 0);
    volume_reader_free(store);
    on[0].offset_bytes = UINT64_MAX;
    assert_int_equal(volume_reader_of_extents(disks, 2, list, 2, &reader, &store), -EINVAL);
    on[0].offset_bytes = 4 * MIB;
    assert_int_equal(volume_reader_of_extents(disks, 2, list, 2, &reader, &store), -ERANGE);
    on[0].offset_bytes = 0;
    on[1].disk_id = (char[]){"none"};
    assert_int_equal(volume_reader_of_extents(disks, 2, list, 2, &reader, &store), -ENOENT);
    assert_int_equal(volume_reader_of_extents(disks, 2, list, 0, &reader, &store), -EINVAL);
}

static void test_windows(void **state)
{
    (void)state;
    struct volume_window store;
    struct volume_reader window = volume_reader_window(&store, &ext4.reader, 1024, 100);
    uint8_t magic[2];
    assert_int_equal(volume_read(&window, 56, magic, 2), 0);
    assert_memory_equal(magic, "\x53\xef", 2);
    assert_int_equal(volume_read(&window, 99, magic, 2), -ERANGE);
    window = volume_reader_window(&store, &ext4.reader, ext4.size - 10, 100);
    assert_int_equal(window.size_bytes, 10);
    window = volume_reader_window(&store, &ext4.reader, UINT64_MAX, 100);
    assert_int_equal(window.size_bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt_accounts_for_all_but_the_unknown),
        cmocka_unit_test(test_one_gpt_copy_is_enough),
        cmocka_unit_test(test_4k_sectors),
        cmocka_unit_test(test_mbr_with_logical_partitions),
        cmocka_unit_test(test_old_gpt_under_a_new_mbr_is_dead),
        cmocka_unit_test(test_content_and_its_size),
        cmocka_unit_test(test_ambiguous_content_is_nobodys),
        cmocka_unit_test(test_many_tib_are_cheap),
        cmocka_unit_test(test_lvm2_of_real_tools),
        cmocka_unit_test(test_lvm2_text),
        cmocka_unit_test(test_md_raid1),
        cmocka_unit_test(test_md_raid0_and_linear),
        cmocka_unit_test(test_md_raid0_zones),
        cmocka_unit_test(test_nesting),
        cmocka_unit_test(test_depth_is_bounded),
        cmocka_unit_test(test_same_uuid_twice),
        cmocka_unit_test(test_extents_are_checked),
        cmocka_unit_test(test_windows),
    };
    return cmocka_run_group_tests_name("volume-layout", tests, make_images, drop_images);
}
