/* How long requests take. */
#include "sf_latency.h"

#include <time.h>

#define STEPS 32u /* in each doubling */
#define STEP_BITS 5u

uint64_t sf_latency_clock(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The highest bit says which doubling, and the five bits below it which step. */
static unsigned bucket_of(uint64_t nanoseconds)
{
    if (nanoseconds < STEPS) {
        return (unsigned)nanoseconds;
    }
    const unsigned shift = 63u - (unsigned)__builtin_clzll(nanoseconds) - STEP_BITS;
    const uint64_t bucket = shift * STEPS + (nanoseconds >> shift);
    return (unsigned)sf_min(bucket, SF_LATENCY_BUCKETS - 1);
}

void sf_latency_add(struct sf_latency *latency, uint64_t nanoseconds)
{
    atomic_fetch_add_explicit(&latency->counts[bucket_of(nanoseconds)], 1,
                              memory_order_relaxed);
}

void sf_latency_take(struct sf_latency *latency, uint64_t *counts)
{
    for (unsigned i = 0; i < SF_LATENCY_BUCKETS; i++) {
        counts[i] =
            atomic_exchange_explicit(&latency->counts[i], 0, memory_order_relaxed);
    }
}

uint64_t sf_latency_most(unsigned bucket)
{
    if (bucket < STEPS) {
        return bucket;
    }
    const unsigned shift = bucket / STEPS - 1;
    return ((uint64_t)(bucket - shift * STEPS + 1) << shift) - 1;
}
