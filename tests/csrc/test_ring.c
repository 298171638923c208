/* sf_ring: windows in order however they are made, and a file read ahead. */
#include "check.h"
#include "sf_ring.h"

#include <stdatomic.h>

#define BUFFER 512u
#define LONG_MS 20000u

struct maker {
    atomic_uint destroyed;
    uint64_t failing; /* windows from this one on fail */
    long nap_ms;
    atomic_bool shut; /* nothing is made meanwhile */
};

/* Window N holds N % 100 + 1 bytes of value N, from N % 7 on. */
static enum sf_status fill(void *context, uint64_t number, uint8_t *buffer,
                           uint8_t *scratch, size_t *start, size_t *len,
                           struct sf_err *err)
{
    const struct maker *maker = context;

    memset(scratch, (int)number, BUFFER);
    memset(buffer, (int)number, BUFFER);
    nap(number % 3 ? 0 : maker->nap_ms);
    while (atomic_load(&maker->shut)) {
        nap(1);
    }
    if (number >= maker->failing) {
        return sf_err_set(err, SF_E_FORMAT, number, "window");
    }
    *start = number % 7;
    *len = number % 100 + 1;
    return SF_OK;
}

static void destroy(void *context)
{
    struct maker *maker = context;
    atomic_fetch_add(&maker->destroyed, 1);
}

static const struct sf_ring_ops ops = {fill, destroy, BUFFER, BUFFER};

static struct sf_ring *start(struct maker *maker, uint64_t nwindows, unsigned nthreads)
{
    struct sf_ring *ring = NULL;
    struct sf_err err;

    CHECK_OK(sf_ring_start(&ops, maker, nwindows, nthreads, &ring, &err), &err);
    return ring;
}

/* The next window, however long it takes. */
static enum sf_status next(struct sf_ring *ring, uint8_t **data, size_t *len,
                           struct sf_err *err)
{
    enum sf_status status;
    do {
        status = sf_ring_next(ring, 10, data, len, err);
    } while (status == SF_AGAIN);
    return status;
}

static void check_window(const uint8_t *data, size_t len, uint64_t number)
{
    CHECK_EQ(len, number % 100 + 1);
    for (size_t i = 0; i < len; i++) {
        CHECK_EQ(data[i], (uint8_t)number);
    }
}

static void test_windows_come_in_order(void)
{
    static const unsigned threads[] = {0, 1, 2, 5, 64, 100};
    struct sf_err err;

    for (unsigned i = 0; i < sizeof threads / sizeof *threads; i++) {
        const struct leftovers before = look_around();
        struct maker maker = {.failing = UINT64_MAX, .nap_ms = 1};
        struct sf_ring *ring = start(&maker, 150, threads[i]);
        uint8_t *data = NULL;
        size_t len = 1;
        for (uint64_t number = 0; number < 150; number++) {
            CHECK_OK(next(ring, &data, &len, &err), &err);
            if (number % 40 == 0) {
                nap(2); /* a slow consumer: the ring must not run over it */
            }
            check_window(data, len, number);
        }
        for (unsigned more = 0; more < 2; more++) {
            CHECK_OK(next(ring, &data, &len, &err), &err);
            CHECK_EQ(len, 0);
        }
        sf_ring_finish(ring);
        CHECK_EQ(atomic_load(&maker.destroyed), 1);
        check_clean(&before);
    }
}

static void test_errors_come_in_order(void)
{
    for (uint64_t failing = 0; failing < 20; failing++) {
        struct maker maker = {.failing = failing, .nap_ms = 1};
        struct sf_ring *ring = start(&maker, 150, 4);
        struct sf_err err = {0};
        uint8_t *data;
        size_t len;
        for (uint64_t number = 0; number < failing; number++) {
            CHECK_OK(next(ring, &data, &len, &err), &err);
            check_window(data, len, number);
        }
        for (unsigned more = 0; more < 2; more++) {
            CHECK_EQ(next(ring, &data, &len, &err), SF_E_FORMAT);
            CHECK_EQ(err.offset, failing);
        }
        sf_ring_finish(ring);
        CHECK_EQ(atomic_load(&maker.destroyed), 1);
    }
}

static void test_no_windows(void)
{
    struct maker maker = {.failing = 0};
    struct sf_ring *ring = start(&maker, 0, 3);
    struct sf_err err;
    uint8_t *data;
    size_t len = 1;

    CHECK_OK(sf_ring_next(ring, LONG_MS, &data, &len, &err), &err);
    CHECK_EQ(len, 0);
    sf_ring_finish(ring);
    sf_ring_finish(NULL);
}

static void test_the_wait_ends_in_time(void)
{
    struct maker maker = {.failing = UINT64_MAX, .shut = true};
    struct sf_ring *ring = start(&maker, 1, 1);
    struct sf_err err;
    uint8_t *data;
    size_t len;

    CHECK_EQ(sf_ring_next(ring, 1, &data, &len, &err), SF_AGAIN);
    atomic_store(&maker.shut, false);
    CHECK_OK(sf_ring_next(ring, LONG_MS, &data, &len, &err), &err);
    check_window(data, len, 0);
    sf_ring_finish(ring);
}

static void test_finish_at_any_time(void)
{
    const struct leftovers before = look_around();

    for (uint64_t taken = 0; taken < 20; taken++) {
        struct maker maker = {.failing = taken % 2 ? taken + 1 : UINT64_MAX};
        struct sf_ring *ring = start(&maker, 1000, 4);
        struct sf_err err;
        uint8_t *data;
        size_t len;
        for (uint64_t number = 0; number < taken; number++) {
            CHECK_OK(next(ring, &data, &len, &err), &err);
        }
        sf_ring_finish(ring);
        CHECK_EQ(atomic_load(&maker.destroyed), 1);
    }
    check_clean(&before);
}

/* --- a file --- */

static void check_range(struct sf_file *file, const uint8_t *model, uint64_t offset,
                        uint64_t end, size_t window, unsigned nthreads)
{
    struct sf_ring *ring = NULL;
    struct sf_err err;
    uint64_t at = offset;

    CHECK_OK(sf_read_start(file, offset, end, window, nthreads, &ring, &err), &err);
    for (;;) {
        uint8_t *data = NULL;
        size_t len = 0;
        CHECK_OK(next(ring, &data, &len, &err), &err);
        if (len == 0) {
            break;
        }
        CHECK(at + len <= end);
        CHECK(memcmp(data, model + at, len) == 0);
        CHECK(at == offset || at % window == 0);
        at += len;
    }
    CHECK_EQ(at, end);
    sf_ring_finish(ring);
}

static void test_reading_any_range(unsigned flags)
{
    enum { LENGTH = 200001 };
    struct dice dice = {13};
    struct sf_err err;
    struct sf_file *file = scratch_file(0, flags);
    uint8_t *model = grab(LENGTH);

    fill_random(&dice, model, LENGTH);
    CHECK_OK(sf_file_write(file, model, LENGTH, 0, &err), &err);
    for (unsigned i = 0; i < 150; i++) {
        const uint64_t end = i % 5 ? below(&dice, LENGTH + 1) : LENGTH;
        const uint64_t offset = below(&dice, end + 1);
        if (i % 10 == 0) {
            fault_stutter();
        }
        check_range(file, model, offset, end, (size_t)1 << (9 + i % 9), i % 5);
        fault_off();
    }
    free(model);
    sf_file_free(file);
}

static void test_impossible_ranges(void)
{
    struct sf_file *file = scratch_file(100, 0);
    struct sf_ring *ring = NULL;
    struct sf_err err;

    CHECK_EQ(sf_read_start(file, 5, 4, 4096, 1, &ring, &err), SF_E_RANGE);
    CHECK_EQ(sf_read_start(file, 0, 4, 4095, 1, &ring, &err), SF_E_RANGE);
    CHECK_EQ(sf_read_start(file, 0, 4, 0, 1, &ring, &err), SF_E_RANGE);
    CHECK_EQ(sf_read_start(file, 0, UINT64_MAX, 4096, 1, &ring, &err), SF_E_RANGE);
    CHECK(ring == NULL);
    sf_file_free(file);
}

static void test_the_file_became_shorter(void)
{
    struct sf_file *file = scratch_file(10000, 0);
    struct sf_ring *ring = NULL;
    struct sf_err err = {0};
    uint8_t *data;
    size_t len;

    CHECK_OK(sf_read_start(file, 100, 20000, 4096, 2, &ring, &err), &err);
    CHECK_OK(next(ring, &data, &len, &err), &err);
    CHECK_OK(next(ring, &data, &len, &err), &err);
    CHECK_EQ(next(ring, &data, &len, &err), SF_E_TRUNCATED);
    CHECK_EQ(err.offset, 10000);
    sf_ring_finish(ring);
    sf_file_free(file);
}

static enum sf_status read_all(void *context, struct sf_err *err)
{
    struct sf_ring *ring = NULL;
    uint8_t *data;
    size_t len = 1;
    enum sf_status status = sf_read_start(context, 100, 100000, 4096, 3, &ring, err);

    CHECK((status == SF_OK) == (ring != NULL));
    while (status == SF_OK && len != 0) {
        status = next(ring, &data, &len, err);
    }
    sf_ring_finish(ring);
    return status;
}

static enum sf_status make_all(void *context, struct sf_err *err)
{
    struct maker maker = {.failing = UINT64_MAX};
    struct sf_ring *ring = NULL;
    uint8_t *data;
    size_t len = 1;
    enum sf_status status = sf_ring_start(&ops, &maker, 100, 3, &ring, err);

    (void)context;
    CHECK((status == SF_OK) == (ring != NULL));
    while (status == SF_OK && len != 0) {
        status = next(ring, &data, &len, err);
    }
    sf_ring_finish(ring);
    CHECK_EQ(atomic_load(&maker.destroyed), 1);
    return status;
}

int main(void)
{
    struct sf_file *file = scratch_file(100000, 0);

    test_windows_come_in_order();
    test_errors_come_in_order();
    test_no_windows();
    test_the_wait_ends_in_time();
    test_finish_at_any_time();
    test_reading_any_range(0);
    test_reading_any_range(SF_OPEN_DIRECT);
    test_impossible_ranges();
    test_the_file_became_shorter();
    starve_each(make_all, NULL);
    fail_each(FAULT_THREAD, EAGAIN, SF_E_OS, make_all, NULL);
    fail_each(FAULT_MEMORY, ENOMEM, SF_E_NOMEM, read_all, file);
    fail_each(FAULT_READ, EIO, SF_E_OS, read_all, file);
    sf_file_free(file);
    return 0;
}
