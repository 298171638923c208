/* Items done by threads: each once, up to the first failure or the cancel.
 *
 * Input: threads, items, the one that fails, whether to cancel. */
#include "fuzz.h"
#include "sf_job.h"

#include <stdatomic.h>

#define MOST 300u
#define BUFFER 32u

struct work {
    atomic_uint done[MOST];
    uint64_t failing;
    unsigned destroyed;
};

static enum sf_status run(void *context, uint64_t item, uint8_t *buffer,
                          uint64_t *worth, struct sf_err *err)
{
    struct work *work = context;

    memset(buffer, (int)item, BUFFER);
    if (item == work->failing) {
        return sf_err_set(err, SF_E_FORMAT, item, "as told");
    }
    for (size_t i = 0; i < BUFFER; i++) {
        CHECK(buffer[i] == (uint8_t)item);
    }
    atomic_fetch_add(&work->done[item], 1);
    *worth = item;
    return SF_OK;
}

static void destroy(void *context)
{
    struct work *work = context;
    work->destroyed++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct work work;
    static const struct sf_job_ops ops = {run, destroy, BUFFER};
    struct fuzz_input input = {data, size};
    const unsigned nthreads = (unsigned)fuzz_below(&input, 1, 8);
    const uint64_t nitems = fuzz_below(&input, 2, MOST);
    struct sf_progress progress = {0, 0};
    struct sf_job *job = NULL;
    struct sf_err err = {0};
    uint64_t sum = 0;

    memset(&work, 0, sizeof work);
    work.failing = fuzz_take(&input, 2);
    const bool cancel = fuzz_take(&input, 1) & 1;
    CHECK(sf_job_start(&ops, &work, nitems, 12345, nthreads, &job, &err) == SF_OK);
    if (cancel) {
        sf_job_cancel(job);
    }
    while (sf_job_wait(job, 1000, &progress) == SF_AGAIN) {
    }
    CHECK(progress.total == 12345);
    const enum sf_status status = sf_job_finish(job, &err);
    for (uint64_t i = 0; i < MOST; i++) {
        const unsigned count = atomic_load(&work.done[i]);
        CHECK(count <= 1 && (count == 0 || i < nitems));
        CHECK(status != SF_OK || count == (i < nitems));
        sum += count * i;
    }
    CHECK(work.destroyed == 1 && progress.done == sum);
    if (status == SF_E_FORMAT) {
        CHECK(err.offset == work.failing && work.failing < nitems);
    } else {
        CHECK(status == (cancel ? SF_E_CANCELLED : SF_OK));
        CHECK(cancel || work.failing >= nitems);
    }
    return 0;
}
