/* Threads over numbered items. */
#include "sf_job.h"

#include "sf_buffer.h"
#include "sf_file.h"
#include "sf_sync.h"

#include <stdatomic.h>
#include <stdlib.h>

struct worker {
    struct sf_job *job;
    pthread_t thread;
    uint8_t *buffer;
};

struct sf_job {
    struct sf_job_ops ops;
    void *context;
    uint64_t nitems;
    uint64_t total;
    atomic_uint_fast64_t next;
    atomic_uint_fast64_t done;
    atomic_bool stop;
    struct sf_failure failure;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    unsigned running; /* under lock */
    unsigned nthreads;
    struct worker workers[SF_MAX_THREADS];
};

static void *work(void *argument)
{
    struct worker *worker = argument;
    struct sf_job *job = worker->job;
    struct sf_err err;

    while (!atomic_load(&job->stop)) {
        const uint64_t item = atomic_fetch_add(&job->next, 1);
        uint64_t worth = 0;
        if (item >= job->nitems) {
            break;
        }
        if (job->ops.run(job->context, item, worker->buffer, &worth, &err) != SF_OK) {
            sf_failure_set(&job->failure, &err);
            atomic_store(&job->stop, true);
            break;
        }
        atomic_fetch_add(&job->done, worth);
    }
    pthread_mutex_lock(&job->lock);
    job->running--;
    pthread_cond_broadcast(&job->ended);
    pthread_mutex_unlock(&job->lock);
    return NULL;
}

enum sf_status sf_job_start(const struct sf_job_ops *ops, void *context,
                            uint64_t nitems, uint64_t total, unsigned nthreads,
                            struct sf_job **out, struct sf_err *err)
{
    struct sf_job *job = calloc(1, sizeof *job);
    if (job == NULL) {
        ops->destroy(context);
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "job");
    }
    job->ops = *ops;
    job->context = context;
    job->nitems = nitems;
    job->total = total;
    atomic_init(&job->next, 0);
    atomic_init(&job->done, 0);
    atomic_init(&job->stop, false);
    sf_failure_init(&job->failure);
    (void)pthread_mutex_init(&job->lock, NULL);
    sf_cond_init(&job->ended);

    nthreads = (unsigned)sf_max(1, sf_min(sf_min(nthreads, SF_MAX_THREADS), nitems));
    for (unsigned i = 0; i < nthreads; i++) {
        struct worker *worker = &job->workers[i];
        worker->job = job;
        worker->buffer = sf_buffer_alloc(ops->buffer_length);
        if (worker->buffer == NULL) {
            (void)sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "%zu bytes of buffer",
                             ops->buffer_length);
            goto fail;
        }
        pthread_mutex_lock(&job->lock);
        job->running++;
        pthread_mutex_unlock(&job->lock);
        const int failed = pthread_create(&worker->thread, NULL, work, worker);
        if (failed) {
            sf_buffer_free(worker->buffer, ops->buffer_length);
            pthread_mutex_lock(&job->lock);
            job->running--;
            pthread_mutex_unlock(&job->lock);
            (void)sf_err_os(err, failed, SF_NO_OFFSET, "start thread");
            goto fail;
        }
        job->nthreads++;
    }
    *out = job;
    return SF_OK;

fail:
    sf_job_cancel(job);
    (void)sf_job_finish(job, NULL);
    return err != NULL ? err->status : SF_E_NOMEM;
}

enum sf_status sf_job_wait(struct sf_job *job, unsigned timeout_ms,
                           struct sf_progress *progress)
{
    struct timespec deadline;
    bool ended;

    sf_deadline(timeout_ms, &deadline);
    pthread_mutex_lock(&job->lock);
    while (job->running != 0 && sf_cond_wait(&job->ended, &job->lock, &deadline)) {
    }
    ended = job->running == 0;
    pthread_mutex_unlock(&job->lock);
    if (progress != NULL) {
        progress->done = atomic_load(&job->done);
        progress->total = job->total;
    }
    return ended ? SF_OK : SF_AGAIN;
}

void sf_job_cancel(struct sf_job *job)
{
    struct sf_err err;

    (void)sf_err_set(&err, SF_E_CANCELLED, SF_NO_OFFSET, "cancelled");
    sf_failure_set(&job->failure, &err);
    atomic_store(&job->stop, true);
}

enum sf_status sf_job_finish(struct sf_job *job, struct sf_err *err)
{
    enum sf_status status;

    for (unsigned i = 0; i < job->nthreads; i++) {
        (void)pthread_join(job->workers[i].thread, NULL);
        sf_buffer_free(job->workers[i].buffer, job->ops.buffer_length);
    }
    status = sf_failure_get(&job->failure, err);
    job->ops.destroy(job->context);
    (void)pthread_cond_destroy(&job->ended);
    (void)pthread_mutex_destroy(&job->lock);
    free(job);
    return status;
}
