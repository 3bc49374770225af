/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A hostile snapshot, a carried volume key: header facts, payload, decryption, libblkid on what
 * comes out, evidence. The first byte chooses the kind; the rest is the disk. No key derivation,
 * which would only be slow. */
#include "controller/keeper/prover/proof.h"
#include "base/cleanup.h"
#include "base/frame.h"
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

enum { DISK_BYTES = 5 << 20 };

struct input {
    int socket;
    const uint8_t *data;
    size_t size;
};

/* The input, zeros behind it. */
static int read_input(void *self, uint32_t disk, uint64_t offset, void *out, uint32_t length)
{
    const struct input *in = self;
    (void)disk;
    memset(out, 0, length);
    if (offset < in->size)
        memcpy(out, in->data + offset, in->size - offset < length ? in->size - offset : length);
    return 0;
}

static void *serve(void *self)
{
    struct input *in = self;
    sp_pread_serve(in->socket, -1, read_input, in);
    return NULL;
}

static void try_once(Sp__ProverProof *proof, int socket, const struct sp_secret *secret)
{
    struct sp_secret *key = NULL;
    Sp__ProverFinding *finding = NULL;
    struct sp_why why = {0};
    if (prover_prove(proof, socket, secret, &finding, &key, &why) == 0)
        sp__prover_finding__free_unpacked(finding, NULL);
    sp_secret_free(key);
}

/* The ways into BitLocker that cost no million hashes: a kept key, a VMK, the clear key. */
static void try_without_stretching(Sp__ProverProof *proof, int socket)
{
    static const uint8_t bytes[32] = {1, 2, 3};
    SP_SECRET struct sp_secret *secret = sp_secret_copy(bytes, sizeof(bytes));
    proof->header_opened_before = true;
    try_once(proof, socket, secret);
    proof->header_opened_before = false;
    try_once(proof, socket, secret);
    try_once(proof, socket, NULL);
}

static void prove(int socket, Sp__VolumeKind kind)
{
    static char disk_name[] = "disk0", cipher[] = "aes-cbc-essiv:sha256", type[] = "ext4";
    Sp__LookDisk disk = SP__LOOK_DISK__INIT, *disks[] = {&disk};
    disk.disk_id = disk_name;
    disk.size_bytes = DISK_BYTES;
    Sp__DiskExtent on = SP__DISK_EXTENT__INIT;
    on.disk_id = disk_name;
    on.length_bytes = DISK_BYTES;
    Sp__VolumeExtent extent = SP__VOLUME_EXTENT__INIT, *extents[] = {&extent};
    extent.on = &on;
    Sp__Volume volume = SP__VOLUME__INIT;
    volume.kind = kind;
    volume.extents = extents;
    volume.n_extents = 1;
    Sp__PlainParameters plain = SP__PLAIN_PARAMETERS__INIT;
    plain.cipher = cipher;
    plain.key_bits = 256;
    Sp__Content expected = SP__CONTENT__INIT;
    expected.type = type;
    Sp__ProverProof proof = SP__PROVER_PROOF__INIT;
    proof.volume = &volume;
    proof.disks = disks;
    proof.n_disks = 1;
    proof.plain = &plain;
    proof.expected = &expected;
    proof.secret_type = SP__SECRET_TYPE__SECRET_TYPE_VOLUME_KEY;
    proof.header_opened_before = kind != SP__VOLUME_KIND__VOLUME_KIND_PLAIN;
    if (kind == SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER) {
        try_without_stretching(&proof, socket);
        return;
    }
    static const uint8_t zeros[64] = {1};
    for (size_t bytes = 32; bytes <= 64; bytes += 32) {
        SP_SECRET struct sp_secret *secret = sp_secret_copy(zeros, bytes);
        try_once(&proof, socket, secret);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const Sp__VolumeKind kinds[] = {
        SP__VOLUME_KIND__VOLUME_KIND_LUKS1, SP__VOLUME_KIND__VOLUME_KIND_LUKS2,
        SP__VOLUME_KIND__VOLUME_KIND_PLAIN, SP__VOLUME_KIND__VOLUME_KIND_BITLOCKER};
    int pair[2];
    pthread_t thread;
    if (!size || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return 0;
    struct input in = {.socket = pair[1], .data = data + 1, .size = size - 1};
    if (pthread_create(&thread, NULL, serve, &in) == 0) {
        prove(pair[0], kinds[data[0] % SP_COUNT(kinds)]);
        close(pair[0]);
        pthread_join(thread, NULL);
    } else {
        close(pair[0]);
    }
    close(pair[1]);
    return 0;
}
