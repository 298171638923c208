/* sf_move: present pages summed and copied to another file, by many threads. */
#include "guest.h"
#include "sf_move.h"

#define WINDOW (512u * 1024)
#define LONG_MS 60000u

struct scene {
    struct guest guest;
    struct sf_pages pages[GUEST_BLOCKS];
    uint64_t target_offsets[GUEST_BLOCKS];
    uint64_t target_length;
    struct sf_file *source;
    struct sf_file *target;
    struct sf_table *tables[GUEST_BLOCKS];
    uint64_t *key;
    struct sf_move move;
};

static void set_up(struct scene *scene, uint32_t page_size, uint64_t npages,
                   unsigned flags)
{
    struct dice dice = {20 + page_size};
    struct sf_pages places[GUEST_BLOCKS];

    guest_init(&scene->guest, page_size, npages, 13);
    guest_fill(&scene->guest, &dice);
    scene->source = guest_file(&scene->guest, flags, scene->pages);
    scene->target_length = guest_place(&scene->guest, 5u << 20, places);
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        scene->target_offsets[i] = places[i].offset;
    }
    scene->target = scratch_file(scene->target_length, flags);
    scene->key = random_key(&dice);
    guest_tables(&scene->guest, scene->tables);
    scene->move = (struct sf_move){scene->source,
                                   scene->pages,
                                   scene->target,
                                   scene->target_offsets,
                                   scene->tables,
                                   scene->key,
                                   NULL,
                                   GUEST_BLOCKS,
                                   4,
                                   WINDOW};
}

static void tear_down(struct scene *scene)
{
    free_tables(scene->tables);
    free(scene->key);
    sf_file_free(scene->source);
    sf_file_free(scene->target);
    guest_free(&scene->guest);
}

static enum sf_status run(const struct sf_move *move, struct sf_err *err)
{
    struct sf_job *job = NULL;
    enum sf_status status = sf_move_start(move, &job, err);

    CHECK((status == SF_OK) == (job != NULL));
    if (status == SF_OK) {
        CHECK_EQ(sf_job_wait(job, LONG_MS, NULL), SF_OK);
        status = sf_job_finish(job, err);
    }
    return status;
}

static void check_target(const struct scene *scene)
{
    for (unsigned block = 0; block < GUEST_BLOCKS; block++) {
        const size_t len =
            (size_t)(scene->guest.counts[block] * scene->guest.page_size);
        uint8_t *now = slurp(scene->target, scene->target_offsets[block], len);
        CHECK(memcmp(now, scene->guest.content[block], len) == 0);
        free(now);
    }
}

static void test_copy_and_sum(uint32_t page_size, uint64_t npages, unsigned flags)
{
    const struct leftovers before = look_around();
    struct scene scene;
    struct sf_progress progress;
    struct sf_job *job = NULL;
    struct sf_err err;

    set_up(&scene, page_size, npages, flags);
    CHECK_OK(sf_move_start(&scene.move, &job, &err), &err);
    CHECK_EQ(sf_job_wait(job, LONG_MS, &progress), SF_OK);
    CHECK_EQ(progress.total, guest_present(&scene.guest) * page_size);
    CHECK_EQ(progress.done, progress.total);
    CHECK_OK(sf_job_finish(job, &err), &err);
    check_target(&scene);
    check_sums(&scene.guest, scene.tables, scene.key);
    tear_down(&scene);
    check_clean(&before);
}

static void test_only_reading(void)
{
    struct scene scene;
    struct sf_err err;

    set_up(&scene, 4096, 700, 0);
    scene.move.target = NULL;
    scene.move.target_offsets = NULL;
    fault_off();
    CHECK_OK(run(&scene.move, &err), &err);
    CHECK_EQ(fault_writes(), 0);
    check_sums(&scene.guest, scene.tables, scene.key);
    scene.move.sums = NULL;
    scene.move.key = NULL;
    CHECK_OK(run(&scene.move, &err), &err);
    scene.move.nblocks = 0;
    CHECK_OK(run(&scene.move, &err), &err);
    tear_down(&scene);
}

/* Pages that are present and zero stay holes in a fresh target. */
static void test_zeros_are_not_written(void)
{
    struct scene scene;
    struct sf_err err;

    set_up(&scene, 4096, 300, 0);
    for (unsigned block = 0; block < GUEST_BLOCKS; block++) {
        struct guest *guest = &scene.guest;
        const size_t len = (size_t)guest->counts[block] * 4096;
        memset(guest->content[block], 0, len);
        memset(guest->bitmaps[block], 0xff, bitmap_length(guest->counts[block]));
        CHECK_OK(sf_file_write(scene.source, guest->content[block], len,
                               scene.pages[block].offset, &err),
                 &err);
    }
    fault_off();
    CHECK_OK(run(&scene.move, &err), &err);
    CHECK_EQ(fault_writes(), 0);
    check_target(&scene);
    tear_down(&scene);
}

static void test_stuttering_files(void)
{
    struct scene scene;
    struct sf_err err;

    set_up(&scene, 4096, 500, SF_OPEN_DIRECT);
    fault_stutter();
    CHECK_OK(run(&scene.move, &err), &err);
    fault_off();
    check_target(&scene);
    check_sums(&scene.guest, scene.tables, scene.key);
    tear_down(&scene);
}

static void test_cancel_in_the_middle(void)
{
    const struct leftovers before = look_around();
    struct scene scene;
    struct sf_progress progress = {0, 0};
    struct sf_job *job = NULL;
    struct sf_err err = {0};

    set_up(&scene, 4096, 2000, 0);
    scene.move.nthreads = 2;
    fault_slow(1);
    CHECK_OK(sf_move_start(&scene.move, &job, &err), &err);
    while (progress.done == 0) {
        (void)sf_job_wait(job, 1, &progress);
    }
    sf_job_cancel(job);
    CHECK_EQ(sf_job_finish(job, &err), SF_E_CANCELLED);
    fault_off();
    tear_down(&scene);
    check_clean(&before);
}

static void test_windows(void)
{
    struct scene scene;
    struct sf_err err;

    set_up(&scene, 4096, 10, 0);
    for (uint64_t window = 0; window < WINDOW; window = 2 * window + 4096) {
        scene.move.window = window;
        CHECK_EQ(run(&scene.move, &err), SF_E_RANGE);
    }
    scene.move.window = WINDOW + 1;
    CHECK_EQ(run(&scene.move, &err), SF_E_RANGE);
    tear_down(&scene);
}

/* Windows of a page and more, as long as nothing is written or watched. */
static void test_small_windows_only_read(void)
{
    struct scene scene;
    struct sf_watch watch = {0};
    struct sf_err err;

    set_up(&scene, 4096, 700, SF_OPEN_DIRECT);
    scene.move.target = NULL;
    for (uint64_t window = 4096; window < WINDOW; window *= 2) {
        for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
            memset(sf_table_entries(scene.tables[i]), 0,
                   (size_t)scene.guest.counts[i] * sizeof(uint64_t));
        }
        scene.move.window = window;
        CHECK_OK(run(&scene.move, &err), &err);
        check_sums(&scene.guest, scene.tables, scene.key);
    }
    scene.move.watch = &watch;
    CHECK_EQ(run(&scene.move, &err), SF_E_RANGE);
    scene.move.watch = NULL;
    scene.move.window = 2048;
    CHECK_EQ(run(&scene.move, &err), SF_E_RANGE);
    tear_down(&scene);
}

/* The file ends before the pages it promises. */
static void test_truncated_source(void)
{
    struct scene scene;
    struct sf_err err = {0};

    set_up(&scene, 4096, 700, 0);
    sf_bit_set(scene.guest.bitmaps[2], 12);
    scene.pages[2].offset += 8192;
    CHECK_EQ(run(&scene.move, &err), SF_E_TRUNCATED);
    CHECK_EQ(err.offset, scene.pages[2].offset - 8192 + 13 * 4096);
    tear_down(&scene);
}

static enum sf_status run_scene(void *context, struct sf_err *err)
{
    const struct scene *scene = context;
    return run(&scene->move, err);
}

static void test_everything_that_fails(void)
{
    struct scene scene;

    set_up(&scene, 4096, 400, 0);
    starve_each(run_scene, &scene);
    fail_each(FAULT_THREAD, EAGAIN, SF_E_OS, run_scene, &scene);
    fail_each(FAULT_READ, EIO, SF_E_OS, run_scene, &scene);
    fail_each(FAULT_WRITE, ENOSPC, SF_E_OS, run_scene, &scene);
    check_target(&scene);
    tear_down(&scene);
}

int main(void)
{
    test_copy_and_sum(512, 3000, 0);
    test_copy_and_sum(4096, 1500, 0);
    test_copy_and_sum(4096, 1500, SF_OPEN_DIRECT);
    test_copy_and_sum(65536, 60, SF_OPEN_DIRECT);
    test_copy_and_sum(512, GUEST_FAR_APART, 0);
    test_only_reading();
    test_zeros_are_not_written();
    test_stuttering_files();
    test_cancel_in_the_middle();
    test_windows();
    test_small_windows_only_read();
    test_truncated_source();
    test_everything_that_fails();
    return 0;
}
