/* sf_job: every item once, first error, cancel, and nothing left behind. */
#include "check.h"
#include "sf_job.h"

#include <stdatomic.h>

#define ITEMS 500u
#define LONG_MS 20000u

struct counter {
    atomic_uint runs[ITEMS];
    atomic_uint total;
    atomic_uint destroyed;
    unsigned failing; /* items from this one on fail, */
    bool only;        /* or it alone */
    long nap_ms;
    unsigned gate; /* items from this one on wait until it is open */
    atomic_bool open;
};

static enum sf_status run_item(void *context, uint64_t item, uint8_t *buffer,
                               uint64_t *worth, struct sf_err *err)
{
    struct counter *counter = context;

    memset(buffer, (int)item, 4096); /* two workers on one buffer would race */
    atomic_fetch_add(&counter->runs[item], 1);
    atomic_fetch_add(&counter->total, 1);
    if (counter->nap_ms) {
        nap(counter->nap_ms);
    }
    while (counter->gate && item >= counter->gate && !atomic_load(&counter->open)) {
        nap(1);
    }
    if (counter->only ? item == counter->failing : item >= counter->failing) {
        return sf_err_set(err, SF_E_FORMAT, item, "item %u", (unsigned)item);
    }
    *worth = item;
    return SF_OK;
}

static void destroy(void *context)
{
    struct counter *counter = context;
    atomic_fetch_add(&counter->destroyed, 1);
}

static const struct sf_job_ops ops = {run_item, destroy, 4096};

static struct sf_job *start(struct counter *counter, uint64_t nitems, unsigned nthreads)
{
    struct sf_job *job = NULL;
    struct sf_err err;

    CHECK_OK(sf_job_start(&ops, counter, nitems, 77, nthreads, &job, &err), &err);
    return job;
}

static void test_every_item_once(void)
{
    static const unsigned threads[] = {0, 1, 2, 3, 8, 64, 1000};
    struct sf_err err;

    for (unsigned i = 0; i < sizeof threads / sizeof *threads; i++) {
        const struct leftovers before = look_around();
        struct counter counter = {.failing = ITEMS};
        struct sf_progress progress = {0, 0};
        struct sf_job *job = start(&counter, ITEMS, threads[i]);
        CHECK_EQ(sf_job_wait(job, LONG_MS, &progress), SF_OK);
        CHECK_EQ(progress.done, ITEMS * (ITEMS - 1) / 2);
        CHECK_EQ(progress.total, 77);
        CHECK_EQ(sf_job_wait(job, 0, NULL), SF_OK);
        CHECK_OK(sf_job_finish(job, &err), &err);
        for (unsigned item = 0; item < ITEMS; item++) {
            CHECK_EQ(atomic_load(&counter.runs[item]), 1);
        }
        CHECK_EQ(atomic_load(&counter.destroyed), 1);
        check_clean(&before);
    }
}

static void test_no_items(void)
{
    struct counter counter = {.failing = 0};
    struct sf_progress progress = {9, 9};
    struct sf_err err;
    struct sf_job *job = start(&counter, 0, 4);

    CHECK_EQ(sf_job_wait(job, LONG_MS, &progress), SF_OK);
    CHECK_EQ(progress.done, 0);
    CHECK_OK(sf_job_finish(job, &err), &err);
    CHECK_EQ(atomic_load(&counter.destroyed), 1);
}

/* Not waiting at all is fine, too: finish joins. */
static void test_finish_waits(void)
{
    struct counter counter = {.failing = ITEMS};
    struct sf_err err;
    struct sf_job *job = start(&counter, ITEMS, 4);

    CHECK_OK(sf_job_finish(job, &err), &err);
    CHECK_EQ(atomic_load(&counter.total), ITEMS);
}

static void test_the_wait_ends_in_time(void)
{
    struct counter counter = {.failing = ITEMS, .gate = 2};
    struct sf_progress progress;
    struct sf_err err;
    struct sf_job *job = start(&counter, 4, 2);

    while (atomic_load(&counter.total) < 4) { /* two are done, two wait */
        CHECK_EQ(sf_job_wait(job, 1, &progress), SF_AGAIN);
        CHECK(progress.done <= 1);
    }
    CHECK_EQ(sf_job_wait(job, 0, &progress), SF_AGAIN);
    atomic_store(&counter.open, true);
    CHECK_EQ(sf_job_wait(job, LONG_MS, &progress), SF_OK);
    CHECK_EQ(progress.done, 6);
    CHECK_OK(sf_job_finish(job, &err), &err);
}

static void test_the_first_error_stops_all(void)
{
    for (unsigned failing = 0; failing < ITEMS; failing += 1 + failing) {
        const struct leftovers before = look_around();
        struct counter counter = {.failing = failing};
        struct sf_err err = {0};
        struct sf_job *job = start(&counter, ITEMS, 4);
        CHECK_EQ(sf_job_wait(job, LONG_MS, NULL), SF_OK);
        CHECK_EQ(sf_job_finish(job, &err), SF_E_FORMAT);
        CHECK(err.offset >= failing && err.offset < failing + 4);
        CHECK(strncmp(err.message, "item ", 5) == 0);
        CHECK(atomic_load(&counter.total) <= failing + 4);
        CHECK_EQ(atomic_load(&counter.destroyed), 1);
        check_clean(&before);
    }
}

/* Workers whose own items are good stop, too. */
static void test_a_single_error_stops_all(void)
{
    struct counter counter = {.failing = 5, .only = true, .nap_ms = 4};
    struct sf_err err = {0};
    struct sf_job *job = start(&counter, ITEMS, 4);

    CHECK_EQ(sf_job_finish(job, &err), SF_E_FORMAT);
    CHECK_EQ(err.offset, 5);
    CHECK(atomic_load(&counter.total) < ITEMS);
}

static void test_cancel_in_the_middle(void)
{
    for (unsigned nthreads = 1; nthreads <= 4; nthreads++) {
        const struct leftovers before = look_around();
        struct counter counter = {.failing = ITEMS, .gate = 50};
        struct sf_err err = {0};
        struct sf_job *job = start(&counter, ITEMS, nthreads);
        while (atomic_load(&counter.total) < 50) {
            CHECK_EQ(sf_job_wait(job, 1, NULL), SF_AGAIN);
        }
        sf_job_cancel(job);
        sf_job_cancel(job);
        atomic_store(&counter.open, true);
        CHECK_EQ(sf_job_finish(job, &err), SF_E_CANCELLED);
        CHECK(atomic_load(&counter.total) <= 50 + nthreads);
        CHECK_EQ(atomic_load(&counter.destroyed), 1);
        check_clean(&before);
    }
}

/* What was cancelled after it failed has failed. */
static void test_cancel_comes_second(void)
{
    struct counter counter = {.failing = 0};
    struct sf_err err = {0};
    struct sf_job *job = start(&counter, ITEMS, 2);

    CHECK_EQ(sf_job_wait(job, LONG_MS, NULL), SF_OK);
    sf_job_cancel(job);
    CHECK_EQ(sf_job_finish(job, &err), SF_E_FORMAT);
}

static enum sf_status whole_job(void *context, struct sf_err *err)
{
    struct counter counter = {.failing = ITEMS};
    struct sf_job *job = NULL;
    enum sf_status status =
        sf_job_start(&ops, &counter, ITEMS, 0, *(unsigned *)context, &job, err);

    CHECK((status == SF_OK) == (job != NULL));
    if (status == SF_OK) {
        status = sf_job_finish(job, err);
    }
    CHECK_EQ(atomic_load(&counter.destroyed), 1);
    return status;
}

int main(void)
{
    unsigned nthreads = 4;

    test_every_item_once();
    test_no_items();
    test_finish_waits();
    test_the_wait_ends_in_time();
    test_the_first_error_stops_all();
    test_a_single_error_stops_all();
    test_cancel_in_the_middle();
    test_cancel_comes_second();
    fail_each(FAULT_MEMORY, ENOMEM, SF_E_NOMEM, whole_job, &nthreads);
    fail_each(FAULT_THREAD, EAGAIN, SF_E_OS, whole_job, &nthreads);
    return 0;
}
