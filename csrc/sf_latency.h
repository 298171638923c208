/* How long requests take: a histogram that many threads add to. */
#ifndef SF_LATENCY_H
#define SF_LATENCY_H

#include "sf_base.h"

#include <stdatomic.h>

/* 32 buckets for each doubling: no value is off by more than 3 %.  The last one is for
 * all that takes longer than half an hour. */
#define SF_LATENCY_BUCKETS 1184u

struct sf_latency {
    atomic_uint_fast64_t counts[SF_LATENCY_BUCKETS];
};

/* Nanoseconds since some moment. */
uint64_t sf_latency_clock(void);
void sf_latency_add(struct sf_latency *latency, uint64_t nanoseconds);
/* Copy the counts out and begin again. */
void sf_latency_take(struct sf_latency *latency, uint64_t *counts);
/* The most nanoseconds that fall into BUCKET. */
uint64_t sf_latency_most(unsigned bucket);

#endif
