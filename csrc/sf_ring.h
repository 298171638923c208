/* Windows produced in parallel and consumed in order: read-ahead of a file, or the
 * bytes of a stream that is being built. */
#ifndef SF_RING_H
#define SF_RING_H

#include "sf_err.h"

struct sf_ring;
struct sf_file;

struct sf_ring_ops {
    /* Produce window NUMBER in BUFFER; *START and *LEN say where its bytes are. */
    enum sf_status (*fill)(void *context, uint64_t number, uint8_t *buffer,
                           uint8_t *scratch, size_t *start, size_t *len,
                           struct sf_err *err);
    void (*destroy)(void *context);
    size_t buffer_length;
    size_t scratch_length; /* per thread; 0 = none */
};

/* CONTEXT is the ring's from here on, also on failure. */
enum sf_status sf_ring_start(const struct sf_ring_ops *ops, void *context,
                             uint64_t nwindows, unsigned nthreads, struct sf_ring **out,
                             struct sf_err *err);

/* Read [OFFSET, END) of FILE ahead in aligned windows of WINDOW bytes. */
enum sf_status sf_read_start(struct sf_file *file, uint64_t offset, uint64_t end,
                             size_t window, unsigned nthreads, struct sf_ring **out,
                             struct sf_err *err);

/* The next window, valid until the next call; AGAIN after TIMEOUT_MS.  *LEN = 0 is the
 * end. */
enum sf_status sf_ring_next(struct sf_ring *ring, unsigned timeout_ms, uint8_t **data,
                            size_t *len, struct sf_err *err);
/* Stop, join and free; NULL is allowed. */
void sf_ring_finish(struct sf_ring *ring);

#endif
