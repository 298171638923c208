/* Small helpers around pthreads: deadlines, and the first failure of many threads. */
#ifndef SF_SYNC_H
#define SF_SYNC_H

#include "sf_err.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

/* The first error wins; later ones are dropped. */
struct sf_failure {
    atomic_int state; /* 0 none, 1 being written, 2 there */
    struct sf_err err;
};

static inline void sf_failure_init(struct sf_failure *failure)
{
    atomic_init(&failure->state, 0);
}

static inline void sf_failure_set(struct sf_failure *failure, const struct sf_err *err)
{
    int none = 0;
    if (atomic_compare_exchange_strong(&failure->state, &none, 1)) {
        failure->err = *err;
        atomic_store(&failure->state, 2);
    }
}

static inline enum sf_status sf_failure_get(const struct sf_failure *failure,
                                            struct sf_err *err)
{
    if (atomic_load(&failure->state) != 2) {
        return SF_OK;
    }
    if (err != NULL) {
        *err = failure->err;
    }
    return failure->err.status;
}

static inline void sf_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(cond, &attr);
    (void)pthread_condattr_destroy(&attr);
}

static inline void sf_deadline(unsigned timeout_ms, struct timespec *out)
{
    (void)clock_gettime(CLOCK_MONOTONIC, out);
    out->tv_sec += timeout_ms / 1000;
    out->tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (out->tv_nsec >= 1000000000) {
        out->tv_sec++;
        out->tv_nsec -= 1000000000;
    }
}

/* False once the deadline has passed. */
static inline bool sf_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock,
                                const struct timespec *deadline)
{
    return pthread_cond_timedwait(cond, lock, deadline) == 0;
}

#endif
