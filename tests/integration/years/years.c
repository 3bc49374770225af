/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Seven years of backups, new keys every 90 days, a new KEK each year, a provider that forgets all
 * but its last 10 versions, a keystore that moves to another machine half-way. Then each point that
 * is kept is proved again, with the key of its day. A backup each quarter; each month with
 * SEALPOINT_LONG. world.h says what is simulated. */
#include "world.h"

#include "controller/message.h"
#include <string.h>

enum { YEARS = 7, MOST = YEARS * 12 + 2, KEY_DAYS = 90, KEK_DAYS = 365 };

/* Of a year, of all years, kept, of the last year (which is enough of db1). */
static unsigned yearly, points, kept, of_db;

/* What a point rested on when it was made. */
struct made {
    char point_id[37];
    unsigned proofs;
    struct {
        char volume_id[64], record_id[37], version[12];
        uint32_t generation;
    } by[2];
    bool proved_again;
};
static struct made web[MOST], db[12];
static unsigned rollovers;

/* ---- the years ---- */

static void roll_over(struct world *w)
{
    rollovers++;
    for (int i = 0; i < VOLUMES; i++) {
        struct guest_volume *v = &guest_volumes[i];
        char next[40];
        snprintf(next, sizeof(next), "%s, key number %u", v->disk, rollovers);
        guests_roll_over(v, next);
        if (v->escrow)
            escrow_put(v->escrow, next);
        else
            import_key(w->rig, v->machine_id, v->volume_id, "", next, NULL);
    }
}

static Sp__Manifest *manifest_of(struct world *w, const char *point_id)
{
    Sp__Signed *sealed = NULL;
    Sp__Manifest *m = NULL;
    bool is_sealed = false;
    struct sp_why why = {""};
    if (engine_manifest(w->engine, point_id, &sealed, &m, &is_sealed, &why) < 0)
        fail_msg("%s", why.text);
    assert_true(is_sealed);
    message_free(sealed);
    return m;
}

static void read_proofs(struct world *w, const char *point_id, struct made *out)
{
    Sp__Manifest *m = manifest_of(w, point_id);
    snprintf(out->point_id, sizeof(out->point_id), "%s", point_id);
    for (size_t i = 0; i < m->n_proofs; i++) {
        Sp__ProofStatement *s =
            engine_statement(w->engine, m->proofs[i], m->machine_id, m->point_id, NULL);
        assert_non_null(s);
        if (s->verdict == SP__PROOF_VERDICT__PROOF_VERDICT_OPENS) {
            assert_true(out->proofs < SP_COUNT(out->by));
            assert_string_equal(s->content->type, "ext4");
            snprintf(out->by[out->proofs].volume_id, 64, "%s", s->volume_id);
            snprintf(out->by[out->proofs].record_id, 37, "%s", s->record->record_id);
            snprintf(out->by[out->proofs].version, 12, "%s", s->record->version);
            out->by[out->proofs++].generation = s->record->generation;
        }
        sp__proof_statement__free_unpacked(s, NULL);
    }
    message_free(m);
}

static void fail_job(const Sp__Job *job)
{
    for (size_t i = 0; i < job->n_findings; i++)
        print_error("%s\n", job->findings[i]->text);
    fail_msg("%s of %s ended in state %d", job->kind, job->machine_name, (int)job->state);
}

static void back_up(struct world *w, const char *machine, struct made *out)
{
    Sp__Job *job = world_back_up(w, machine);
    if (job->state != STATE(VALID))
        fail_job(job);
    read_proofs(w, job->point_id, out);
    message_free(job);
}

static void seven_years(struct world *w)
{
    unsigned day = 0, key_day = 0, kek_day = 0;
    uint64_t removed = 0;
    roll_over(w);
    for (unsigned i = 0; i < points; i++) {
        w->event_count = 0;
        back_up(w, "web1", &web[i]);
        if (i >= points - of_db)
            back_up(w, "db1", &db[i - (points - of_db)]);
        if (i % yearly == 0 || i + 1 == points)
            removed += world_collect(w);
        if (i == points / 2)
            world_move_keystore(w);
        const unsigned until = (i + 1) * 36525 / 100 / yearly;
        while (day < until) {
            const unsigned next_key = key_day + KEY_DAYS, next_kek = kek_day + KEK_DAYS;
            const unsigned next = next_key < next_kek ? next_key : next_kek;
            world_live(w, (next < until ? next : until) - day);
            day = next < until ? next : until;
            if (day == next_key) {
                roll_over(w);
                key_day = day;
            }
            if (day == next_kek) {
                world_change_kek(w);
                kek_day = day;
            }
        }
    }
    removed += world_collect(w);
    assert_int_equal(removed, points - kept);
}

/* ---- what is left of them ---- */

static void check_rests(void)
{
    /* Other keys over time, and both volumes each time. */
    for (unsigned i = 0; i < points; i++)
        assert_int_equal(web[i].proofs, 2);
    assert_string_not_equal(web[0].by[0].record_id, web[points - 1].by[0].record_id);
    assert_true(rollovers >= YEARS * 365 / KEY_DAYS);
    /* The provider has forgotten what the oldest kept points rest on. */
    const struct escrow *pruning = guest_volumes[DATA].escrow;
    assert_int_equal(pruning->current, rollovers);
    assert_null(pruning->versions[1]);
    assert_non_null(pruning->versions[pruning->current - PRUNED_TO + 1]);
}

static void check_records(struct world *w)
{
    Sp__ListKeysResponse *l = world_records(w);
    unsigned of[VOLUMES] = {0};
    for (size_t i = 0; i < l->n_records; i++)
        for (int v = 0; v < VOLUMES; v++)
            of[v] += strcmp(l->records[i]->volume_id, guest_volumes[v].volume_id) == 0;
    assert_int_equal(of[SYSTEM], rollovers);
    assert_in_range(of[DATA], rollovers - 1, rollovers); /* the newest may have no point yet */
    sp__list_keys_response__free_unpacked(l, NULL);
    Sp__KeeperRequest request = SP__KEEPER_REQUEST__INIT;
    Sp__CheckKeystoreRequest ask = SP__CHECK_KEYSTORE_REQUEST__INIT;
    request.kind_case = SP__KEEPER_REQUEST__KIND_CHECK;
    request.check = &ask;
    ANSWER a = rig_call(w->rig, &request);
    for (size_t i = 0; i < a->check->n_problems; i++)
        fail_msg("%s", a->check->problems[i]);
}

static struct made *find(const char *point_id)
{
    for (unsigned i = 0; i < points; i++)
        if (strcmp(web[i].point_id, point_id) == 0)
            return &web[i];
    for (unsigned i = 0; i < of_db; i++)
        if (strcmp(db[i].point_id, point_id) == 0)
            return &db[i];
    fail_msg("nobody made the point %s", point_id);
    return NULL;
}

static void same_keys(struct world *w, const struct made *then)
{
    struct made now = {0};
    read_proofs(w, then->point_id, &now);
    assert_int_equal(now.proofs, then->proofs);
    for (unsigned i = 0; i < now.proofs; i++) {
        assert_string_equal(now.by[i].volume_id, then->by[i].volume_id);
        assert_string_equal(now.by[i].record_id, then->by[i].record_id);
        assert_int_equal(now.by[i].generation, then->by[i].generation);
    }
}

/* One cycle, at the rate that the configuration allows: one a minute here. */
static unsigned prove_all_again(struct world *w, const char *deleted_version)
{
    unsigned count = 0;
    w->event_count = 0;
    for (Sp__Job *job; (job = world_reproof(w)); count++) {
        assert_string_equal(job->kind, "verify");
        struct made *m = find(job->point_id);
        assert_false(m->proved_again);
        m->proved_again = true;
        bool lost = m >= db && m < db + of_db && strcmp(m->by[0].version, deleted_version) == 0;
        if (job->state != (lost ? STATE(AT_RISK) : STATE(VALID)))
            fail_job(job);
        if (!lost)
            same_keys(w, m);
        message_free(job);
        assert_null(world_reproof(w)); /* too soon for another */
        world_pass_seconds(3600 / REPROOFS_PER_HOUR);
    }
    return count;
}

static unsigned count_events(const struct world *w, Sp__PointState state)
{
    unsigned found = 0;
    for (size_t i = 0; i < w->event_count; i++)
        found += w->events[i].state == state;
    return found;
}

static void test_every_kept_point_is_proved_again_with_its_own_key(void **state)
{
    (void)state;
    yearly = getenv("SEALPOINT_LONG") ? 12 : 4;
    kept = YEARS * yearly;
    points = kept + 2;
    of_db = yearly;
    struct world *w = world_new(kept);
    seven_years(w);
    check_rests();
    check_records(w);

    /* All that the mirrored provider had, and one version of the other, are deleted there. */
    struct escrow *pruning = guest_volumes[DATA].escrow, *strict = guest_volumes[DB].escrow;
    for (unsigned i = 1; i <= pruning->current; i++)
        escrow_delete(pruning, i);
    const char *deleted = db[of_db / 2].by[0].version;
    assert_true((unsigned)atoi(deleted) < strict->current);
    escrow_delete(strict, (unsigned)atoi(deleted));
    unsigned lost = 0;
    for (unsigned i = 0; i < of_db; i++)
        lost += strcmp(db[i].by[0].version, deleted) == 0;
    assert_in_range(lost, 1, 4);

    world_live(w, REPROOF_AFTER_DAYS);
    assert_int_equal(prove_all_again(w, deleted), kept + of_db);
    for (unsigned i = 0; i < points; i++)
        assert_int_equal(web[i].proved_again, i >= points - kept);
    assert_int_equal(count_events(w, STATE(AT_RISK)), lost);
    assert_int_equal(count_events(w, STATE(VALID)), kept + of_db - lost);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kept_point_is_proved_again_with_its_own_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
