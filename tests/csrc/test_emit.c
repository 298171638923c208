/* sf_emit: mapped-ram pages as records, built in windows that know nothing of each
 * other, against records written one after another. */
#include "guest.h"
#include "sf_emit.h"

#define WINDOW (512u * 1024)
#define LONG_MS 60000u

struct scene {
    struct guest guest;
    struct sf_pages pages[GUEST_BLOCKS];
    struct sf_emit_block blocks[GUEST_BLOCKS];
    struct sf_file *source;
    struct sf_table *tables[GUEST_BLOCKS];
    uint64_t *key;
    struct wire records; /* what must come out */
};

static void set_up(struct scene *scene, uint32_t page_size, uint64_t npages,
                   uint64_t third, unsigned flags)
{
    struct dice dice = {30 + page_size};

    guest_init(&scene->guest, page_size, npages, third);
    guest_fill(&scene->guest, &dice);
    scene->source = guest_file(&scene->guest, flags, scene->pages);
    scene->key = random_key(&dice);
    guest_tables(&scene->guest, scene->tables);
    scene->records = (struct wire){0};
    guest_records(&scene->guest, &scene->records);
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        scene->blocks[i] =
            (struct sf_emit_block){scene->guest.names[i], scene->pages[i],
                                   (uint32_t)strlen(scene->guest.names[i]), 0};
    }
}

static void tear_down(struct scene *scene)
{
    wire_free(&scene->records);
    free_tables(scene->tables);
    free(scene->key);
    sf_file_free(scene->source);
    guest_free(&scene->guest);
}

static struct sf_emit *new_emit(struct scene *scene, bool summing)
{
    struct sf_emit *emit = NULL;
    struct sf_err err;

    CHECK_OK(sf_emit_new(scene->source, scene->blocks, GUEST_BLOCKS,
                         summing ? scene->tables : NULL, summing ? scene->key : NULL,
                         &emit, &err),
             &err);
    CHECK_EQ(sf_emit_length(emit), scene->records.len);
    return emit;
}

/* To a file, from offsets that are no friends of any window. */
static void test_to_a_file(uint32_t page_size, uint64_t npages, unsigned flags)
{
    static const uint64_t offsets[] = {0, 1, WINDOW - 1, WINDOW, 3 * WINDOW + 4097};
    const struct leftovers before = look_around();
    struct scene scene;
    struct sf_err err;

    set_up(&scene, page_size, npages, 5, flags);
    for (unsigned i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        struct sf_emit *emit = new_emit(&scene, i == 0);
        struct sf_file *target = scratch_file(0, flags);
        struct sf_job *job = NULL;
        struct sf_progress progress;
        CHECK_OK(sf_emit_write_start(emit, target, offsets[i],
                                     i == 2 ? 2 * WINDOW : WINDOW, i, &job, &err),
                 &err);
        CHECK_EQ(sf_job_wait(job, LONG_MS, &progress), SF_OK);
        CHECK_EQ(progress.done, scene.records.len);
        CHECK_EQ(progress.total, scene.records.len);
        CHECK_OK(sf_job_finish(job, &err), &err);
        uint8_t *now = slurp(target, offsets[i], scene.records.len);
        CHECK(memcmp(now, scene.records.data, scene.records.len) == 0);
        CHECK_EQ(sf_file_read(target, now, 1, offsets[i] + scene.records.len, &err),
                 SF_E_TRUNCATED);
        free(now);
        sf_emit_free(emit);
        sf_file_free(target);
    }
    check_sums(&scene.guest, scene.tables, scene.key);
    tear_down(&scene);
    check_clean(&before);
}

static enum sf_status drink(struct sf_ring *ring, struct wire *wire, struct sf_err *err)
{
    for (;;) {
        uint8_t *data = NULL;
        size_t len = 0;
        const enum sf_status status = sf_ring_next(ring, 10, &data, &len, err);
        if (status == SF_AGAIN) {
            continue;
        }
        if (status != SF_OK || len == 0) {
            return status;
        }
        wire_bytes(wire, data, len);
    }
}

static void test_in_order(uint32_t page_size, uint64_t npages)
{
    const struct leftovers before = look_around();
    struct scene scene;
    struct sf_err err;

    set_up(&scene, page_size, npages, 5, 0);
    for (unsigned nthreads = 0; nthreads < 5; nthreads++) {
        struct sf_emit *emit = new_emit(&scene, nthreads == 1);
        struct sf_ring *ring = NULL;
        struct wire wire = {0};
        CHECK_OK(sf_emit_ring_start(emit, WINDOW, nthreads, &ring, &err), &err);
        CHECK_OK(drink(ring, &wire, &err), &err);
        CHECK_EQ(wire.len, scene.records.len);
        CHECK(memcmp(wire.data, scene.records.data, wire.len) == 0);
        sf_ring_finish(ring);
        sf_emit_free(emit);
        wire_free(&wire);
    }
    check_sums(&scene.guest, scene.tables, scene.key);
    tear_down(&scene);
    check_clean(&before);
}

/* Nothing but zeros: no page is read; and nothing but data. */
static void test_all_or_nothing(void)
{
    struct scene scene;
    struct sf_err err;

    for (unsigned full = 0; full < 2; full++) {
        set_up(&scene, 4096, 9000, 1, 0);
        memset(scene.guest.bitmaps[0], full ? 0xff : 0, bitmap_length(9000));
        scene.records.len = 0;
        guest_records(&scene.guest, &scene.records);
        if (full) { /* so that what was stale is not */
            CHECK_OK(sf_file_write(scene.source, scene.guest.content[0], 9000 * 4096,
                                   scene.pages[0].offset, &err),
                     &err);
        }
        struct sf_emit *emit = new_emit(&scene, false);
        struct sf_ring *ring = NULL;
        struct wire wire = {0};
        CHECK_OK(sf_emit_ring_start(emit, WINDOW, 3, &ring, &err), &err);
        CHECK_OK(drink(ring, &wire, &err), &err);
        CHECK_EQ(wire.len, scene.records.len);
        CHECK(memcmp(wire.data, scene.records.data, wire.len) == 0);
        sf_ring_finish(ring);
        sf_emit_free(emit);
        wire_free(&wire);
        tear_down(&scene);
    }
}

static void test_no_pages_at_all(void)
{
    struct sf_file *file = scratch_file(0, 0);
    struct sf_emit *emit = NULL;
    struct sf_ring *ring = NULL;
    struct sf_job *job = NULL;
    struct sf_err err;
    struct wire wire = {0};

    CHECK_OK(sf_emit_new(file, NULL, 0, NULL, NULL, &emit, &err), &err);
    CHECK_EQ(sf_emit_length(emit), 0);
    CHECK_OK(sf_emit_ring_start(emit, WINDOW, 3, &ring, &err), &err);
    CHECK_OK(drink(ring, &wire, &err), &err);
    CHECK_EQ(wire.len, 0);
    sf_ring_finish(ring);
    CHECK_OK(sf_emit_write_start(emit, file, 55, WINDOW, 3, &job, &err), &err);
    CHECK_OK(sf_job_finish(job, &err), &err);
    sf_emit_free(emit);
    sf_emit_free(NULL);
    sf_file_free(file);
}

static void test_cancel_in_the_middle(void)
{
    const struct leftovers before = look_around();
    struct scene scene;
    struct sf_progress progress = {0, 0};
    struct sf_job *job = NULL;
    struct sf_err err = {0};

    set_up(&scene, 4096, 4000, 1, 0);
    struct sf_emit *emit = new_emit(&scene, true);
    struct sf_file *target = scratch_file(0, 0);
    fault_slow(2);
    CHECK_OK(sf_emit_write_start(emit, target, 9, WINDOW, 2, &job, &err), &err);
    while (progress.done == 0) {
        (void)sf_job_wait(job, 1, &progress);
    }
    sf_job_cancel(job);
    CHECK_EQ(sf_job_finish(job, &err), SF_E_CANCELLED);
    struct sf_ring *ring = NULL;
    uint8_t *data;
    size_t len;
    CHECK_OK(sf_emit_ring_start(emit, WINDOW, 2, &ring, &err), &err);
    while (sf_ring_next(ring, 1, &data, &len, &err) == SF_AGAIN) {
    }
    sf_ring_finish(ring);
    fault_off();
    sf_emit_free(emit);
    sf_file_free(target);
    tear_down(&scene);
    check_clean(&before);
}

static void test_makers_arguments(void)
{
    struct scene scene;
    struct sf_err err = {0};
    struct sf_job *job = NULL;
    struct sf_ring *ring = NULL;

    set_up(&scene, 4096, 10, 1, 0);
    struct sf_emit *emit = new_emit(&scene, false);
    CHECK_EQ(sf_emit_write_start(emit, scene.source, 0, WINDOW / 2, 1, &job, &err),
             SF_E_RANGE);
    CHECK_EQ(sf_emit_ring_start(emit, WINDOW + 1, 1, &ring, &err), SF_E_RANGE);
    CHECK(job == NULL && ring == NULL);
    sf_emit_free(emit);
    emit = NULL;
    scene.blocks[1].name_length = 256;
    CHECK_EQ(
        sf_emit_new(scene.source, scene.blocks, GUEST_BLOCKS, NULL, NULL, &emit, &err),
        SF_E_RANGE);
    CHECK(emit == NULL);
    tear_down(&scene);
}

static enum sf_status write_all(void *context, struct sf_err *err)
{
    struct scene *scene = context;
    struct sf_file *target = NULL;
    struct sf_emit *emit = NULL;
    struct sf_job *job = NULL;
    const int fd = scratch_fd(0);
    enum sf_status status = sf_file_adopt(fd, SF_OPEN_WRITE, &target, err);

    close(fd);
    if (status == SF_OK) {
        status = sf_emit_new(scene->source, scene->blocks, GUEST_BLOCKS, scene->tables,
                             scene->key, &emit, err);
    }
    if (status == SF_OK) {
        status = sf_emit_write_start(emit, target, 77, WINDOW, 3, &job, err);
    }
    if (status == SF_OK) {
        status = sf_job_finish(job, err);
    }
    sf_emit_free(emit);
    sf_file_free(target);
    return status;
}

static enum sf_status drink_all(void *context, struct sf_err *err)
{
    struct scene *scene = context;
    struct sf_emit *emit = NULL;
    struct sf_ring *ring = NULL;
    struct wire wire = {0};
    enum sf_status status = sf_emit_new(scene->source, scene->blocks, GUEST_BLOCKS,
                                        scene->tables, scene->key, &emit, err);

    if (status == SF_OK) {
        status = sf_emit_ring_start(emit, WINDOW, 3, &ring, err);
    }
    if (status == SF_OK) {
        status = drink(ring, &wire, err);
    }
    CHECK(status != SF_OK || wire.len == scene->records.len);
    sf_ring_finish(ring);
    sf_emit_free(emit);
    wire_free(&wire);
    return status;
}

static void test_everything_that_fails(void)
{
    struct scene scene;

    set_up(&scene, 4096, 400, 1, 0);
    starve_each(write_all, &scene);
    fail_each(FAULT_THREAD, EAGAIN, SF_E_OS, write_all, &scene);
    fail_each(FAULT_READ, EIO, SF_E_OS, write_all, &scene);
    fail_each(FAULT_WRITE, ENOSPC, SF_E_OS, write_all, &scene);
    starve_each(drink_all, &scene);
    fail_each(FAULT_THREAD, EAGAIN, SF_E_OS, drink_all, &scene);
    fail_each(FAULT_READ, EIO, SF_E_OS, drink_all, &scene);
    tear_down(&scene);
}

int main(void)
{
    test_to_a_file(512, 9000, 0); /* more than two rank steps */
    test_to_a_file(512, 8192, 0);
    test_to_a_file(4096, 1200, 0);
    test_to_a_file(4096, 1200, SF_OPEN_DIRECT);
    test_to_a_file(65536, 50, 0);
    test_to_a_file(512, GUEST_FAR_APART, 0);
    test_in_order(1024, 4500);
    test_in_order(4096, 1200);
    test_in_order(1024, GUEST_FAR_APART);
    test_all_or_nothing();
    test_no_pages_at_all();
    test_cancel_in_the_middle();
    test_makers_arguments();
    test_everything_that_fails();
    return 0;
}
