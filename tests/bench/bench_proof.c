/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Times proofs as the controller sees them: a real keeper over its socket, the real prover, an
 * image served from a file.
 *
 *   bench-proof IMAGE SECRET-FILE TYPE PROTECTOR MACHINES CHECKS
 *
 * The key is imported for so many machines (all have this one image), proved whole once for each,
 * then checked again CHECKS times with an unchanged header, in turn. Prints, in seconds: the median
 * of the whole proofs, the median of the checks, all checks together. Ends badly when a verdict is
 * not OPENS, or when a check was not carried over. */
#include "../integration/keeper/process.h"

#include "base/file.h"
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int image_fd;
static uint64_t image_bytes;
static struct rig *rig;
static Sp__LookDisk disk, *disks[] = {&disk};

static void need(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "bench-proof: %s\n", what);
    exit(1);
}

static int read_image(void *self, uint32_t index, uint64_t offset, void *out, uint32_t length)
{
    (void)self;
    return index ? -ENXIO : sp_pread_all(image_fd, out, length, offset);
}

static Sp__KeeperResponse *call(Sp__KeeperRequest *request)
{
    Sp__KeeperResponse *answer = NULL;
    struct sp_why why = {""};
    int r = keeper_call_reading(rig->client, request, read_image, NULL, 0, &answer, &why);
    need(r == 0, why.text);
    return answer;
}

static void machine_id(unsigned number, char out[37])
{
    snprintf(out, 37, "11111111-1111-4111-8111-%012x", number);
}

static Sp__KeeperResponse *look(void)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__LookRequest ask = SP__LOOK_REQUEST__INIT;
    ask.machine_id = (char[]){MACHINE};
    ask.point_id = (char[]){POINT};
    ask.disks = disks;
    ask.n_disks = 1;
    request.kind_case = SP__KEEPER_REQUEST__KIND_LOOK;
    request.look = &ask;
    return call(&request);
}

static void import(const char *machine, const Sp__Volume *v, const char *protector,
                   Sp__SecretType type, const char *secret)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ImportKeysRequest ask = SP__IMPORT_KEYS_REQUEST__INIT;
    Sp__ImportKey key = SP__IMPORT_KEY__INIT, *keys[] = {&key};
    key.machine = (char *)(uintptr_t)machine;
    key.volume_id = v->volume_id;
    key.protector_id = (char *)(uintptr_t)protector;
    key.material = seal_key(rig, machine, v->volume_id, protector, type, secret, NULL);
    ask.keys = keys;
    ask.n_keys = 1;
    request.kind_case = SP__KEEPER_REQUEST__KIND_IMPORT;
    request.import = &ask;
    Sp__KeeperResponse *a = rig_call(rig, &request);
    need(a->import->n_results == 1 && !*a->import->results[0]->error, "the key was not taken");
    answer_free(a);
    sp__sealed_box__free_unpacked(key.material, NULL);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Seconds. */
static double prove_once(const char *machine, Sp__Volume *v, bool carried)
{
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__ProveRequest ask = SP__PROVE_REQUEST__INIT;
    ask.machine_id = (char *)(uintptr_t)machine;
    ask.point_id = (char[]){POINT};
    ask.disks = disks;
    ask.n_disks = 1;
    ask.volume = v;
    ask.allow_carry_over = true;
    request.kind_case = SP__KEEPER_REQUEST__KIND_PROVE;
    request.prove = &ask;
    double start = now();
    Sp__KeeperResponse *a = call(&request);
    double took = now() - start;
    Sp__ProofStatement *s = sp__proof_statement__unpack(NULL, a->prove->statement->payload.len,
                                                        a->prove->statement->payload.data);
    need(s && s->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS, "the proof does not open");
    need((s->carried_from_proof_id[0] != 0) == carried, "carried over, or not, against the plan");
    sp__proof_statement__free_unpacked(s, NULL);
    answer_free(a);
    return took;
}

static int compare(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof(*values), compare);
    return count ? values[count / 2] : 0;
}

static void measure(char **argv, Sp__Volume *v, const char *secret, Sp__SecretType type)
{
    unsigned machines = (unsigned)strtoul(argv[5], NULL, 10);
    unsigned checks = (unsigned)strtoul(argv[6], NULL, 10);
    double *whole = calloc(machines, sizeof(*whole)), *again = calloc(checks + 1, sizeof(*again));
    need(whole && again, "no memory");
    char machine[37];
    for (unsigned i = 0; i < machines; i++) {
        machine_id(i, machine);
        import(machine, v, argv[4], type, secret);
        whole[i] = prove_once(machine, v, false);
    }
    double start = now();
    for (unsigned i = 0; i < checks; i++) {
        machine_id(i % machines, machine);
        again[i] = prove_once(machine, v, true);
    }
    double all = now() - start;
    printf("%.6f %.6f %.6f\n", median(whole, machines), median(again, checks), all);
    free(whole);
    free(again);
}

int main(int argc, char **argv)
{
    struct process process;
    char *secret = NULL;
    need(argc == 7, "IMAGE SECRET-FILE TYPE PROTECTOR MACHINES CHECKS");
    Sp__SecretType type = strcmp(argv[3], "recovery-password") == 0
                              ? SP__SECRET_TYPE__SECRET_TYPE_RECOVERY_PASSWORD
                              : SP__SECRET_TYPE__SECRET_TYPE_PASSPHRASE;
    need(sp_file_read(argv[2], 4096, &secret, NULL) == 0, "no secret");
    image_fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    need(image_fd >= 0, "no image");
    image_bytes = (uint64_t)lseek(image_fd, 0, SEEK_END);
    uint8_t root[32] = {0x5a};
    sp__look_disk__init(&disk);
    disk.disk_id = (char[]){DISK};
    disk.size_bytes = image_bytes;
    disk.logical_sector_bytes = 512;
    disk.disk_root = (ProtobufCBinaryData){sizeof(root), root};
    rig = process_rig(&process);
    Sp__KeeperResponse *l = look();
    need(l->look->n_volumes == 1, "not one volume");
    measure(argv, l->look->volumes[0], secret, type);
    answer_free(l);
    process_rig_free(rig, &process);
    free(secret);
    close(image_fd);
    return 0;
}
