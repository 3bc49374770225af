/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which disks a QEMU has, and what a person needs to build the machine again. */
#include "controller/mover/source/qemu.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"

#include <errno.h>
#include <string.h>

enum { MAX_DISKS = 256, MAX_NVRAM = 16 << 20, MAX_DEVICE_DEPTH = 8 };

/* ── Names ── */

void qemu_tag(const char *point_id, char out[QEMU_TAG])
{
    char hex[65];
    size_t n = 0;
    if (sp_uuid_valid(point_id)) {
        for (const char *p = point_id; *p && n < QEMU_TAG - 1; p++) {
            if (*p != '-')
                hex[n++] = *p;
        }
    } else {
        uint8_t hash[32] = {0};
        sp_sha256_of(point_id, strlen(point_id), hash);
        sp_hex(hex, hash, sizeof hash);
    }
    memcpy(out, hex, QEMU_TAG - 1);
    out[QEMU_TAG - 1] = 0;
}

char *qemu_name(char out[QEMU_NAME], char kind, const char *tag, size_t n)
{
    snprintf(out, QEMU_NAME, "sp%c-%.20s-%u", kind, tag, (unsigned)n % 1000);
    return out;
}

bool qemu_is_ours(const char *name, char kind, const char *tag)
{
    if (!name || strlen(name) < 3 + QEMU_TAG + 2 || strncmp(name, "sp", 2) || name[3] != '-' ||
        name[3 + QEMU_TAG] != '-')
        return false;
    if (kind ? name[2] != kind : !strchr("cfae", name[2]))
        return false;
    return !tag || strncmp(name + 4, tag, QEMU_TAG - 1) == 0;
}

/* ── Graph ── */

json_object *qemu_node(json_object *nodes, const char *name)
{
    for (size_t i = 0; name && i < qmp_length(nodes); i++) {
        const char *is = qmp_string(qmp_at(nodes, i), "node-name");
        if (is && !strcmp(is, name))
            return qmp_at(nodes, i);
    }
    return NULL;
}

int qemu_node_below(json_object *graph, const char *filter, char **ret)
{
    json_object *nodes = qmp_get_array(graph, "nodes"), *edges = qmp_get_array(graph, "edges");
    uint64_t parent = 0, child = 0;
    for (size_t i = 0; i < qmp_length(nodes); i++) {
        json_object *n = qmp_at(nodes, i);
        const char *name = qmp_string(n, "name"), *type = qmp_string(n, "type");
        if (name && type && !strcmp(type, "block-driver") && !strcmp(name, filter))
            parent = qmp_number(n, "id");
    }
    for (size_t i = 0; parent && i < qmp_length(edges); i++) {
        json_object *e = qmp_at(edges, i);
        const char *name = qmp_string(e, "name");
        if (name && !strcmp(name, "file") && qmp_number(e, "parent") == parent)
            child = qmp_number(e, "child");
    }
    for (size_t i = 0; child && i < qmp_length(nodes); i++) {
        json_object *n = qmp_at(nodes, i);
        const char *name = qmp_string(n, "name");
        if (name && qmp_number(n, "id") == child)
            return (*ret = strdup(name)) ? 0 : -ENOMEM;
    }
    return -ENOENT;
}

/* ── One disk ── */

static void disk_free(struct qemu_disk *d)
{
    free(d->qdev);
    free(d->top_node);
    free(d->node);
    free(d->source_name);
    free(d->serial);
    free(d->disk_id);
    free(d->format);
    free(d->file);
    free(d->pci_path);
}

void qemu_disks_free(struct qemu_disks *d)
{
    for (size_t i = 0; i < d->count; i++)
        disk_free(&d->all[i]);
    free(d->all);
    json_object_put(d->query_block);
    json_object_put(d->nodes);
    *d = (struct qemu_disks){0};
}

static char *copy_of(const char *text)
{
    return strdup(text ? text : "");
}

/* A property as text or number; "" and 0 when the device has none of that name. */
static int property(struct qmp *q, const char *path, const char *name, char **ret_text,
                    uint64_t *ret_number)
{
    QMP_JSON json_object *value = NULL;
    int r = qmp_call(q, "qom-get", qmp_object("path=s,property=s", path, name), &value, NULL);
    if (r && r != -EREMOTEIO)
        return r;
    if (ret_number) {
        int64_t n = json_object_is_type(value, json_type_int) ? json_object_get_int64(value) : 0;
        *ret_number = n > 0 ? (uint64_t)n : 0;
    }
    if (ret_text)
        *ret_text = copy_of(
            json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL);
    return ret_text && !*ret_text ? -ENOMEM : 0;
}

void qemu_disk_from_node(struct qemu_disk *d, json_object *node)
{
    json_object *image = qmp_get_object(node, "image");
    const char *driver = qmp_string(node, "drv"), *file = qmp_string(node, "file");
    free(d->format);
    free(d->file);
    d->format = copy_of(driver);
    d->file = copy_of(file);
    d->size_bytes = qmp_number(image, "virtual-size");
    d->read_only = qmp_flag(node, "ro");
}

/* Whether the device, or the controller it hangs on, runs in an iothread. */
static int find_iothread(struct qmp *q, struct qemu_disk *d)
{
    SP_FREE char *path = strdup(d->qdev);
    for (unsigned depth = 0; path && *path && depth < MAX_DEVICE_DEPTH; depth++) {
        SP_FREE char *thread = NULL, *bus = NULL;
        int r = property(q, path, "iothread", &thread, NULL);
        r = r ? r : property(q, path, "parent_bus", &bus, NULL);
        if (r)
            return r;
        d->in_iothread |= *thread != 0;
        char *last = strrchr(bus, '/');
        if (last)
            *last = 0;
        free(path);
        path = strdup(bus);
    }
    return path ? 0 : -ENOMEM;
}

/* The -device id, else the -drive id, else the node's name, else the QOM path. */
static char *source_name_of(const char *qdev, const char *backend, const char *node)
{
    static const char named[] = "/machine/peripheral/";
    if (!strncmp(qdev, named, sizeof named - 1)) {
        const char *id = qdev + sizeof named - 1;
        return strndup(id, strcspn(id, "/"));
    }
    if (*qdev != '/')
        return strdup(qdev);
    if (backend && *backend)
        return strdup(backend);
    return strdup(node && *node && *node != '#' ? node : qdev);
}

static int classify(struct qmp *q, struct qemu_disk *d, json_object *entry)
{
    SP_FREE char *type = NULL;
    int r = property(q, d->qdev, "type", &type, NULL);
    if (r)
        return r;
    if (!strcmp(type, "scsi-cd") || !strcmp(type, "ide-cd"))
        d->skipped = "a CD drive";
    else if (!strcmp(type, "floppy"))
        d->skipped = "a floppy drive";
    else if (!strcmp(type, "cfi.pflash01")) {
        d->skipped = "firmware, kept with the machine's definition";
        d->is_firmware = true;
    } else if (qmp_flag(entry, "removable") && !qmp_get_object(entry, "inserted"))
        d->skipped = "no medium in it";
    else if (d->read_only)
        d->skipped = "read-only for the guest";
    else if (!d->size_bytes)
        d->skipped = "of size 0";
    return 0;
}

/* The device's own part: what has to be asked for one by one. */
static int disk_ask(struct qmp *q, struct qemu_disk *d, json_object *entry, bool has_iothreads)
{
    uint64_t sector;
    d->source_name = source_name_of(d->qdev, qmp_string(entry, "device"), d->node);
    if (!d->source_name)
        return -ENOMEM;
    int r = property(q, d->qdev, "serial", &d->serial, NULL);
    r = r ? r : property(q, d->qdev, "logical_block_size", NULL, &sector);
    r = r ? r : classify(q, d, entry);
    r = r || !has_iothreads ? r : find_iothread(q, d);
    if (!r)
        d->sector_bytes = sector >= 512 && sector <= 65536 ? (uint32_t)sector : 512;
    return r;
}

static int disk_load(struct qemu_disk *d, json_object *entry, json_object *nodes,
                     json_object *graph)
{
    json_object *inserted = qmp_get_object(entry, "inserted");
    const char *qdev = qmp_string(entry, "qdev"), *top = qmp_string(inserted, "node-name");
    d->qdev = copy_of(qdev);
    d->top_node = copy_of(top);
    if (!d->qdev || !d->top_node)
        return -ENOMEM;
    if (!qemu_is_ours(top, 'c', NULL) || qemu_node_below(graph, top, &d->node))
        d->node = copy_of(top);
    json_object *node = qemu_node(nodes, d->node);
    qemu_disk_from_node(d, node ? node : inserted);
    return d->node && d->format && d->file ? 0 : -ENOMEM;
}

/* ── All of them ── */

static void find_pci(json_object *devices, struct qemu_disk *d, unsigned depth)
{
    for (size_t i = 0; depth < MAX_DEVICE_DEPTH && i < qmp_length(devices); i++) {
        json_object *p = qmp_at(devices, i);
        const char *id = qmp_string(p, "qdev_id");
        if (id && *id && !d->pci_path && !strcmp(id, d->source_name))
            d->pci_path = sp_format("0000:%02x:%02x.%x", (unsigned)qmp_number(p, "bus") & 0xff,
                                    (unsigned)qmp_number(p, "slot") & 0xff,
                                    (unsigned)qmp_number(p, "function") & 7);
        find_pci(qmp_get_array(qmp_get_object(p, "pci_bridge"), "devices"), d, depth + 1);
    }
}

/* The serial names a disk as long as no other has the same. */
static int name_disks(struct qemu_disks *d)
{
    for (size_t i = 0; i < d->count; i++) {
        const char *name = d->all[i].serial ? d->all[i].serial : "";
        for (size_t j = 0; j < d->count; j++) {
            if (j != i && d->all[j].serial && strcmp(d->all[j].serial, name) == 0)
                name = "";
        }
        d->all[i].disk_id = copy_of(*name ? name : d->all[i].source_name);
        if (!d->all[i].disk_id)
            return -ENOMEM;
    }
    return 0;
}

static int ask_all(struct qmp *q, struct qemu_disks *d)
{
    QMP_JSON json_object *pci = NULL, *threads = NULL;
    int r = qmp_call(q, "query-pci", NULL, &pci, NULL);
    r = !r || r == -EREMOTEIO ? qmp_call(q, "query-iothreads", NULL, &threads, NULL) : r;
    r = r == -EREMOTEIO ? 0 : r;
    for (size_t i = 0, n = 0; !r && i < qmp_length(d->query_block); i++) {
        json_object *entry = qmp_at(d->query_block, i);
        const char *qdev = qmp_string(entry, "qdev");
        if (!qdev || !*qdev)
            continue;
        r = disk_ask(q, &d->all[n], entry, qmp_length(threads) > 0);
        for (size_t bus = 0; !r && bus < qmp_length(pci); bus++)
            find_pci(qmp_get_array(qmp_at(pci, bus), "devices"), &d->all[n], 0);
        n++;
    }
    return r ? r : name_disks(d);
}

int qemu_disks_load(struct qmp *q, bool only_nodes, struct qemu_disks *ret, struct sp_why *why)
{
    QMP_JSON json_object *graph = NULL;
    *ret = (struct qemu_disks){0};
    int r = qmp_call(q, "query-block", NULL, &ret->query_block, why);
    r = r ? r : qmp_call(q, "query-named-block-nodes", qmp_object("flat=b", 1), &ret->nodes, why);
    if (r)
        return r;
    /* Only there to see through our own filters; a QEMU without it shows them as disks. */
    r = qmp_call(q, "x-debug-query-block-graph", NULL, &graph, NULL);
    if (r && r != -EREMOTEIO)
        return sp_why_set(why, r, "QEMU did not describe its disks");
    size_t count = qmp_length(ret->query_block);
    if (count > MAX_DISKS)
        return sp_why_set(why, -EPROTO, "QEMU names %zu drives, more than %d", count, MAX_DISKS);
    ret->all = calloc(count + 1, sizeof *ret->all);
    if (!ret->all)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        json_object *entry = qmp_at(ret->query_block, i);
        const char *qdev = qmp_string(entry, "qdev");
        if (!qdev || !*qdev)
            continue; /* a back end without a device: the guest does not see it */
        r = disk_load(&ret->all[ret->count++], entry, ret->nodes, graph);
        if (r)
            return r;
    }
    r = only_nodes ? 0 : ask_all(q, ret);
    return r ? sp_why_set(why, r, "QEMU did not describe its disks") : 0;
}

/* ── The answer ── */

static int set_text(char **at, const char *text)
{
    if (!text || !*text)
        return 0;
    return (*at = strdup(text)) ? 0 : -ENOMEM;
}

int qemu_disk_to_message(const struct qemu_disk *d, Sp__SourceDisk *m)
{
    m->size_bytes = d->size_bytes;
    m->logical_sector_bytes = d->sector_bytes;
    m->skipped = d->skipped != NULL;
    int r = set_text(&m->disk_id, d->disk_id);
    r = r ? r : set_text(&m->source_name, d->source_name);
    r = r ? r : set_text(&m->serial, d->serial);
    r = r ? r : set_text(&m->format, d->format);
    r = r ? r : set_text(&m->file, d->file);
    r = r ? r : set_text(&m->pci_path, d->pci_path);
    return r ? r : set_text(&m->skipped_why, d->skipped);
}

/* What helps to build the machine again, as QEMU tells it. */
static int definition_text(struct qmp *q, const struct qemu_disks *disks, char **ret)
{
    static const char *const queries[] = {
        "query-version",
        "query-name",
        "query-uuid",
        "query-status",
        "query-memory-size-summary",
        "query-cpus-fast",
        "query-current-machine",
        "query-pci",
        "query-tpm",
        "query-chardev",
        "query-iothreads",
    };
    QMP_JSON json_object *all = json_object_new_object();
    if (!all || json_object_object_add(all, "query-block", json_object_get(disks->query_block)) ||
        json_object_object_add(all, "query-named-block-nodes", json_object_get(disks->nodes)))
        return -ENOMEM;
    for (size_t i = 0; i < SP_COUNT(queries); i++) {
        json_object *answer = NULL;
        int r = qmp_call(q, queries[i], NULL, &answer, NULL);
        if (r && r != -EREMOTEIO) /* a query that this QEMU lacks is left out */
            return r;
        if (!r && json_object_object_add(all, queries[i], answer)) {
            json_object_put(answer);
            return -ENOMEM;
        }
    }
    *ret = strdup(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PRETTY));
    return *ret ? 0 : -ENOMEM;
}

static int define(struct qmp *q, const struct qemu_disks *disks, Sp__MachineDefinition *m)
{
    int r = set_text(&m->source, "qemu");
    r = r ? r : definition_text(q, disks, &m->text);
    QMP_JSON json_object *tpm = NULL;
    if (r || (r = qmp_call(q, "query-tpm", NULL, &tpm, NULL), r && r != -EREMOTEIO))
        return r;
    m->lacks_vtpm = qmp_length(tpm) > 0;
    for (size_t i = 0; i < disks->count; i++) {
        const struct qemu_disk *d = &disks->all[i];
        if (!d->is_firmware || d->read_only || m->nvram.len)
            continue;
        char *data;
        size_t size;
        if (sp_file_read(d->file, MAX_NVRAM, &data, &size))
            m->lacks_nvram = true;
        else
            m->nvram = (ProtobufCBinaryData){.data = (uint8_t *)data, .len = size};
    }
    return 0;
}

static int fill(struct qmp *q, const struct qemu_disks *disks, Sp__DescribeResponse *m,
                struct sp_why *why)
{
    m->disks = calloc(disks->count + 1, sizeof *m->disks);
    m->definition = calloc(1, sizeof *m->definition);
    if (!m->disks || !m->definition)
        return -ENOMEM;
    sp__machine_definition__init(m->definition);
    for (size_t i = 0; i < disks->count; i++) {
        Sp__SourceDisk *d = m->disks[i] = malloc(sizeof *d);
        if (!d)
            return -ENOMEM;
        sp__source_disk__init(d);
        m->n_disks = i + 1;
        int r = qemu_disk_to_message(&disks->all[i], d);
        if (r)
            return r;
    }
    QMP_JSON json_object *status = NULL;
    int r = qmp_call(q, "query-status", NULL, &status, why);
    if (r)
        return r;
    m->running = qmp_flag(status, "running");
    uint32_t v = qmp_version(q);
    m->version = sp_format("QEMU %u.%u.%u", v / 1000000, v / 1000 % 1000, v % 1000);
    return m->version ? define(q, disks, m->definition) : -ENOMEM;
}

int qemu_describe_on(struct qmp *q, Sp__DescribeResponse **ret, struct sp_why *why)
{
    __attribute__((cleanup(qemu_disks_free))) struct qemu_disks disks = {0};
    int r = qemu_disks_load(q, false, &disks, why);
    Sp__DescribeResponse *m = r ? NULL : malloc(sizeof *m);
    if (!m)
        return r ? r : -ENOMEM;
    sp__describe_response__init(m);
    r = fill(q, &disks, m, why);
    if (r) {
        sp__describe_response__free_unpacked(m, NULL);
        return r;
    }
    *ret = m;
    return 0;
}

int qemu_describe(const Sp__DescribeRequest *request, Sp__DescribeResponse **ret,
                  struct sp_why *why)
{
    QMP_CLOSE struct qmp *q = NULL;
    int r = qmp_open(request->source->qemu->qmp_socket, 0, &q, why);
    return r ? r : qemu_describe_on(q, ret, why);
}
