/* Threads over numbered items: progress, cancel, first error. */
#ifndef SF_JOB_H
#define SF_JOB_H

#include "sf_err.h"

struct sf_job;

/* Shared by everything that runs threads. */
struct sf_progress {
    uint64_t done; /* bytes finished */
    uint64_t total;
};

struct sf_job_ops {
    /* Do item ITEM with this worker's BUFFER and report the bytes it was worth. */
    enum sf_status (*run)(void *context, uint64_t item, uint8_t *buffer,
                          uint64_t *worth, struct sf_err *err);
    void (*destroy)(void *context);
    size_t buffer_length; /* per worker */
};

/* Start NTHREADS workers over items [0, NITEMS).  CONTEXT is the job's from here on,
 * also on failure. */
enum sf_status sf_job_start(const struct sf_job_ops *ops, void *context,
                            uint64_t nitems, uint64_t total, unsigned nthreads,
                            struct sf_job **out, struct sf_err *err);
/* Wait at most TIMEOUT_MS: OK when all work ended (well or not), else AGAIN. */
enum sf_status sf_job_wait(struct sf_job *job, unsigned timeout_ms,
                           struct sf_progress *progress);
void sf_job_cancel(struct sf_job *job);
/* Always joins, then frees, then reports the first error. */
enum sf_status sf_job_finish(struct sf_job *job, struct sf_err *err);

#endif
