/* sf_fill: every present page gets content, no two the same, and holes stay holes. */
#include "guest.h"
#include "sf_fill.h"

#define WINDOW (512u * 1024)
#define LONG_MS 60000u

struct scene {
    struct guest guest;
    struct sf_pages pages[GUEST_BLOCKS];
    struct sf_file *file;
    uint64_t window;
};

static void set_up(struct scene *scene, uint32_t page_size, uint64_t npages,
                   uint64_t window)
{
    struct dice dice = {31 + page_size};

    guest_init(&scene->guest, page_size, npages, 13);
    guest_fill(&scene->guest, &dice);
    scene->window = window;
    scene->file = scratch_file(guest_place(&scene->guest, 1u << 20, scene->pages),
                               SF_OPEN_DIRECT);
}

static void tear_down(struct scene *scene)
{
    sf_file_free(scene->file);
    guest_free(&scene->guest);
}

static enum sf_status run(void *context, struct sf_err *err)
{
    struct scene *scene = context;
    struct sf_progress progress;
    struct sf_job *job = NULL;
    enum sf_status status = sf_fill_start(scene->file, scene->pages, GUEST_BLOCKS,
                                          scene->window, 3, &job, err);

    CHECK((status == SF_OK) == (job != NULL));
    if (status == SF_OK) {
        CHECK_EQ(sf_job_wait(job, LONG_MS, &progress), SF_OK);
        status = sf_job_finish(job, err);
        if (status == SF_OK) {
            CHECK_EQ(progress.done, progress.total);
            CHECK_EQ(progress.total,
                     guest_present(&scene->guest) * scene->guest.page_size);
        }
    }
    return status;
}

/* The stamp of a page tells its place, so no two are equal. */
static void check_pages(const struct scene *scene)
{
    const uint32_t page_size = scene->guest.page_size;

    for (unsigned block = 0; block < GUEST_BLOCKS; block++) {
        const struct sf_pages *pages = &scene->pages[block];
        uint8_t *now =
            slurp(scene->file, pages->offset, (size_t)(pages->count * page_size));
        for (uint64_t page = 0; page < pages->count; page++) {
            const uint8_t *at = now + page * page_size;
            if (sf_bit_test(pages->bitmap, page)) {
                CHECK_EQ(sf_be64(at), pages->offset + page * page_size + 1);
                CHECK(!sf_page_is_zero(at + 8, page_size - 8));
            } else {
                CHECK(sf_page_is_zero(at, page_size));
            }
        }
        free(now);
    }
}

static void test_pages(uint32_t page_size, uint64_t npages, uint64_t window)
{
    const struct leftovers before = look_around();
    struct scene scene;
    struct sf_err err;

    set_up(&scene, page_size, npages, window);
    CHECK_OK(run(&scene, &err), &err);
    check_pages(&scene);
    tear_down(&scene);
    check_clean(&before);
}

static void test_nothing_to_do(void)
{
    struct sf_file *file = scratch_file(0, 0);
    struct sf_job *job = NULL;
    struct sf_err err;

    CHECK_OK(sf_fill_start(file, NULL, 0, WINDOW, 1, &job, &err), &err);
    CHECK_OK(sf_job_finish(job, &err), &err);
    sf_file_free(file);
}

static void test_odd_windows(void)
{
    static const uint64_t windows[] = {0, 128, 2048, WINDOW + 4096, 3u << 20};
    const struct sf_pages pages = {.page_size = 4096};
    struct sf_job *job = NULL;
    struct sf_err err;

    for (unsigned i = 0; i < sizeof windows / sizeof windows[0]; i++) {
        CHECK_EQ(sf_fill_start(NULL, &pages, 1, windows[i], 1, &job, &err), SF_E_RANGE);
        CHECK(job == NULL);
    }
}

static void test_failures(void)
{
    struct scene scene;

    set_up(&scene, 4096, 700, WINDOW);
    fail_each(FAULT_WRITE, ENOSPC, SF_E_OS, run, &scene);
    fail_each(FAULT_MEMORY, ENOMEM, SF_E_NOMEM, run, &scene);
    tear_down(&scene);
}

int main(void)
{
    test_pages(4096, 3000, WINDOW);
    test_pages(65536, 50, WINDOW);
    test_pages(512, 5000, WINDOW);
    for (uint64_t window = 4096; window < WINDOW; window *= 2) {
        test_pages(4096, 300, window); /* of less than 8 pages, too */
    }
    test_nothing_to_do();
    test_odd_windows();
    test_failures();
    return 0;
}
