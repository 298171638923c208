/* sf_queue and sf_append: writing behind the caller's back. */
#include "check.h"
#include "sf_append.h"
#include "sf_queue.h"

#include <signal.h>
#include <sys/resource.h>

#define WINDOW 65536u
#define PAGE 4096u
#define LONG_MS 20000u

static struct sf_queue *start(struct sf_file *file, uint32_t page_size,
                              unsigned nbuffers, unsigned nthreads)
{
    struct sf_queue *queue = NULL;
    struct sf_err err;

    CHECK_OK(sf_queue_start(file, WINDOW, page_size, nbuffers, nthreads, &queue, &err),
             &err);
    return queue;
}

static struct sf_parcel *take(struct sf_queue *queue)
{
    struct sf_parcel *parcel = NULL;
    struct sf_err err;

    CHECK_OK(sf_queue_take(queue, LONG_MS, &parcel, &err), &err);
    return parcel;
}

static void test_plain_parcels(unsigned flags)
{
    enum { COUNT = 40 };
    struct sf_file *file = scratch_file(COUNT * WINDOW, flags);
    struct sf_err err;

    for (unsigned nthreads = 0; nthreads < 5; nthreads++) {
        const struct leftovers before = look_around();
        struct sf_queue *queue = start(file, 0, nthreads + 1, nthreads);
        for (unsigned i = 0; i < COUNT; i++) {
            struct sf_parcel *parcel = take(queue);
            CHECK_EQ(parcel->len, 0);
            memset(parcel->buffer, (int)(i + nthreads), WINDOW);
            parcel->offset = (uint64_t)i * WINDOW;
            parcel->len = WINDOW - i;
            sf_queue_put(queue, parcel);
        }
        CHECK_OK(sf_queue_drain(queue, LONG_MS, &err), &err);
        CHECK_EQ(sf_queue_written(queue), COUNT * WINDOW - COUNT * (COUNT - 1) / 2);
        sf_queue_finish(queue);
        check_clean(&before);
        uint8_t *now = slurp(file, 0, COUNT * WINDOW);
        for (unsigned i = 0; i < COUNT; i++) {
            CHECK_EQ(now[i * WINDOW], i + nthreads);
            CHECK_EQ(now[(i + 1) * WINDOW - 1 - i], i + nthreads);
        }
        free(now);
    }
    sf_file_free(file);
}

static void test_pages_and_punches(void)
{
    struct sf_file *file = scratch_file(WINDOW, 0);
    struct sf_queue *queue = start(file, PAGE, 2, 2);
    struct sf_err err;

    for (unsigned round = 0; round < 2; round++) {
        struct sf_parcel *parcel = take(queue);
        CHECK(!parcel->has_data && !parcel->has_punch);
        CHECK_EQ(parcel->page_size, PAGE);
        CHECK_EQ(sf_page_count(parcel->data_bits, 0, 16), 0);
        CHECK_EQ(sf_page_count(parcel->fill_bits, 0, 16), 0);
        CHECK_EQ(sf_page_count(parcel->punch_bits, 0, 16), 0);
        memset(parcel->buffer, 'a' + (int)round, WINDOW);
        parcel->offset = 0;
        parcel->npages = 16;
        for (unsigned page = 0; page < 16; page++) {
            if (round == 0 ? page < 12 : page >= 14) {
                sf_bit_set(parcel->data_bits, page);
                parcel->has_data = true;
            } else if (round == 1 && page % 4 == 2) {
                sf_bit_set(parcel->punch_bits, page);
                parcel->has_punch = true;
            }
        }
        sf_queue_put(queue, parcel);
        CHECK_OK(sf_queue_settle(queue, LONG_MS, 0, &err), &err);
    }
    sf_queue_finish(queue);
    uint8_t *now = slurp(file, 0, WINDOW);
    for (unsigned page = 0; page < 16; page++) {
        const bool none = page == 12 || page == 13 || page % 4 == 2;
        CHECK_EQ(now[page * PAGE], page >= 14 ? 'b' : none ? 0 : 'a');
    }
    free(now);
    sf_file_free(file);
}

static void test_waits_end_in_time(void)
{
    struct sf_file *file = scratch_file(WINDOW, 0);
    struct sf_queue *queue = start(file, 0, 1, 1);
    struct sf_parcel *parcel = take(queue);
    struct sf_parcel *none = NULL;
    struct sf_err err;

    CHECK_EQ(sf_queue_take(queue, 1, &none, &err), SF_AGAIN);
    CHECK(none == NULL);
    CHECK_OK(sf_queue_drain(queue, 0, &err), &err); /* what is taken is not queued */
    parcel->offset = WINDOW;
    parcel->len = 1;
    fault_hold();
    sf_queue_put(queue, parcel);
    CHECK_EQ(sf_queue_settle(queue, 1, WINDOW, &err), SF_AGAIN);
    CHECK_OK(sf_queue_settle(queue, 1, 0, &err), &err); /* another window */
    CHECK_EQ(sf_queue_drain(queue, 1, &err), SF_AGAIN);
    fault_off();
    CHECK_OK(sf_queue_settle(queue, LONG_MS, WINDOW, &err), &err);
    CHECK_OK(sf_queue_drain(queue, LONG_MS, &err), &err);
    sf_queue_finish(queue);
    sf_file_free(file);
}

/* A failure is told by whatever comes next, and the rest is not written. */
static void test_failures_stay(void)
{
    struct sf_file *file = scratch_file(WINDOW, 0);
    struct sf_queue *queue = start(file, 0, 3, 2);
    struct sf_parcel *parcel = take(queue);
    struct sf_parcel *second = take(queue);
    struct sf_err err = {0};

    fault_at(FAULT_WRITE, 1, ENOSPC);
    parcel->offset = 17;
    parcel->len = 1;
    sf_queue_put(queue, parcel);
    CHECK_EQ(sf_queue_drain(queue, LONG_MS, &err), SF_E_OS);
    CHECK_EQ(err.errnum, ENOSPC);
    CHECK_EQ(err.offset, 17);
    fault_off();
    second->len = 1;
    sf_queue_put(queue, second);
    CHECK_EQ(sf_queue_settle(queue, LONG_MS, 0, &err), SF_E_OS);
    CHECK_EQ(sf_queue_take(queue, LONG_MS, &parcel, &err), SF_E_OS);
    CHECK_EQ(err.errnum, ENOSPC);
    CHECK_EQ(sf_queue_written(queue), 0);
    CHECK_EQ(fault_writes(), 0);
    sf_queue_finish(queue);
    sf_file_free(file);
}

/* What is still queued is dropped. */
static void test_finish_at_any_time(void)
{
    const struct leftovers before = look_around();

    for (unsigned filled = 0; filled < 8; filled++) {
        struct sf_file *file = scratch_file(0, 0);
        struct sf_queue *queue = start(file, 0, 8, 1 + filled % 3);
        fault_slow(5);
        for (unsigned i = 0; i < filled; i++) {
            struct sf_parcel *parcel = take(queue);
            parcel->len = WINDOW;
            sf_queue_put(queue, parcel);
        }
        (void)take(queue);
        sf_queue_finish(queue);
        fault_off();
        sf_file_free(file);
    }
    sf_queue_finish(NULL);
    check_clean(&before);
}

/* --- appending --- */

static enum sf_status feed_all(struct sf_append *append, const uint8_t *bytes,
                               size_t len, struct sf_err *err)
{
    enum sf_status status = SF_OK;
    size_t at = 0;

    while (at < len && status == SF_OK) {
        size_t used = 0;
        status = sf_append_feed(append, bytes + at, len - at, &used, err);
        CHECK(used <= len - at);
        at += used;
    }
    return status;
}

static enum sf_status flush(struct sf_append *append, struct sf_err *err)
{
    enum sf_status status;
    do {
        status = sf_append_flush(append, 10, err);
    } while (status == SF_AGAIN);
    return status;
}

static void test_appending_anywhere(unsigned flags)
{
    enum { LENGTH = 500000 };
    struct dice dice = {14};
    struct sf_err err;
    uint8_t *model = grab(LENGTH);

    fill_random(&dice, model, LENGTH);
    for (unsigned round = 0; round < 30; round++) {
        const struct leftovers before = look_around();
        const uint64_t offset = round % 3 ? below(&dice, 3 * WINDOW) : round * WINDOW;
        struct sf_file *file = scratch_file(0, flags);
        struct sf_append *append = NULL;
        if (round % 7 == 0) {
            fault_stutter();
        }
        CHECK_OK(sf_append_start(file, offset, WINDOW, round % 4, &append, &err), &err);
        for (size_t at = 0; at < LENGTH;) {
            const size_t piece =
                (size_t)sf_min(below(&dice, round % 2 ? 3000 : 200000), LENGTH - at);
            CHECK_OK(feed_all(append, model + at, piece, &err), &err);
            at += piece;
            if (below(&dice, 20) == 0) {
                CHECK_OK(flush(append, &err), &err);
            }
        }
        CHECK_OK(flush(append, &err), &err);
        CHECK_OK(flush(append, &err), &err);
        sf_append_finish(append);
        fault_off();
        uint8_t *now = slurp(file, offset, LENGTH);
        CHECK(memcmp(now, model, LENGTH) == 0);
        CHECK_EQ(sf_file_read(file, now, 1, offset + LENGTH, &err), SF_E_TRUNCATED);
        free(now);
        sf_file_free(file);
        check_clean(&before);
    }
    free(model);
}

/* All windows but the first begin where direct I/O wants them to. */
static void test_windows_are_aligned(void)
{
    struct sf_file *file = scratch_file(0, 0);
    struct sf_append *append = NULL;
    struct sf_err err;
    uint8_t *bytes = grab(8 * WINDOW);

    fault_off();
    CHECK_OK(sf_append_start(file, 1000, WINDOW, 2, &append, &err), &err);
    CHECK_OK(feed_all(append, bytes, 8 * WINDOW, &err), &err);
    CHECK_OK(flush(append, &err), &err);
    CHECK_EQ(fault_writes(), 9);
    CHECK_EQ(fault_ragged_writes(), 1);
    sf_append_finish(append);
    sf_file_free(file);
    free(bytes);
}

/* A slow disk makes the feed return early, so that signals are served. */
static void test_a_slow_disk(void)
{
    struct sf_file *file = scratch_file(0, 0);
    struct sf_append *append = NULL;
    struct sf_err err;
    uint8_t *bytes = grab(8 * WINDOW);
    size_t used = 0;

    fault_hold();
    CHECK_OK(sf_append_start(file, 0, WINDOW, 1, &append, &err), &err);
    CHECK_OK(sf_append_feed(append, bytes, 8 * WINDOW, &used, &err), &err);
    CHECK_EQ(used, 3 * WINDOW); /* one a thread, and two */
    CHECK_EQ(sf_append_flush(append, 1, &err), SF_AGAIN);
    fault_off();
    sf_append_finish(append); /* in the middle of it */
    sf_append_finish(NULL);
    sf_file_free(file);
    free(bytes);
}

static void test_the_disk_is_full(void)
{
    struct rlimit old;
    struct sf_err err = {0};
    struct sf_file *file = scratch_file(0, 0);
    struct sf_append *append = NULL;
    uint8_t *bytes = grab(64 * WINDOW);

    CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
    const struct rlimit limit = {3 * WINDOW + 5, old.rlim_max};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK_OK(sf_append_start(file, 0, WINDOW, 2, &append, &err), &err);
    enum sf_status status = feed_all(append, bytes, 64 * WINDOW, &err);
    if (status == SF_OK) {
        status = flush(append, &err);
    }
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
    CHECK_EQ(status, SF_E_OS);
    CHECK_EQ(err.errnum, EFBIG);
    CHECK(err.offset >= 3 * WINDOW + 5);
    CHECK_EQ(flush(append, &err), SF_E_OS);
    sf_append_finish(append);
    sf_file_free(file);
    free(bytes);
}

static enum sf_status append_all(void *context, struct sf_err *err)
{
    static const uint8_t bytes[5 * WINDOW];
    struct sf_append *append = NULL;
    enum sf_status status = sf_append_start(context, 1000, WINDOW, 2, &append, err);

    CHECK((status == SF_OK) == (append != NULL));
    if (status == SF_OK) {
        status = feed_all(append, bytes, sizeof bytes, err);
    }
    if (status == SF_OK) {
        status = flush(append, err);
    }
    sf_append_finish(append);
    return status;
}

static enum sf_status queue_pages(void *context, struct sf_err *err)
{
    struct sf_queue *queue = NULL;
    enum sf_status status = sf_queue_start(context, WINDOW, PAGE, 3, 2, &queue, err);

    CHECK((status == SF_OK) == (queue != NULL));
    for (unsigned i = 0; i < 6 && status == SF_OK; i++) {
        struct sf_parcel *parcel = NULL;
        status = sf_queue_take(queue, LONG_MS, &parcel, err);
        if (status == SF_OK) {
            parcel->offset = i * WINDOW;
            parcel->npages = 16;
            sf_bit_set(parcel->data_bits, 1);
            sf_bit_set(parcel->punch_bits, 3);
            parcel->has_data = parcel->has_punch = true;
            sf_queue_put(queue, parcel);
        }
    }
    if (status == SF_OK) {
        status = sf_queue_drain(queue, LONG_MS, err);
    }
    sf_queue_finish(queue);
    return status;
}

int main(void)
{
    struct sf_file *file = scratch_file(0, 0);

    test_plain_parcels(0);
    test_plain_parcels(SF_OPEN_DIRECT);
    test_pages_and_punches();
    test_waits_end_in_time();
    test_failures_stay();
    test_finish_at_any_time();
    test_appending_anywhere(0);
    test_appending_anywhere(SF_OPEN_DIRECT);
    test_windows_are_aligned();
    test_a_slow_disk();
    test_the_disk_is_full();
    fail_each(FAULT_MEMORY, ENOMEM, SF_E_NOMEM, append_all, file);
    fail_each(FAULT_THREAD, EAGAIN, SF_E_OS, append_all, file);
    fail_each(FAULT_WRITE, EIO, SF_E_OS, append_all, file);
    fail_each(FAULT_MEMORY, ENOMEM, SF_E_NOMEM, queue_pages, file);
    fail_each(FAULT_WRITE, EIO, SF_E_OS, queue_pages, file);
    fail_each(FAULT_PUNCH, EIO, SF_E_OS, queue_pages, file);
    sf_file_free(file);
    return 0;
}
