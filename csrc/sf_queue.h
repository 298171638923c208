/* Write-behind: filled windows wait in a bounded queue for writer threads. */
#ifndef SF_QUEUE_H
#define SF_QUEUE_H

#include "sf_pages.h"

/* One buffer on its way to the file: either LEN plain bytes at OFFSET, or, with
 * page_size set, the pages of a window. */
struct sf_parcel {
    uint8_t *buffer;
    uint64_t offset;
    size_t len;
    uint32_t page_size;
    uint32_t npages;
    uint8_t *data_bits;  /* pages to write */
    uint8_t *fill_bits;  /* pages that may be overwritten with zeros */
    uint8_t *punch_bits; /* pages to turn into holes */
    uint64_t last_used;  /* these two are for callers that keep parcels open */
    uint32_t place;
    bool has_data;
    bool has_punch;
    struct sf_parcel *next;
};

struct sf_queue;

/* NBUFFERS parcels of WINDOW bytes each exist in all; PAGE_SIZE 0 leaves out the bits.
 */
enum sf_status sf_queue_start(struct sf_file *file, size_t window, uint32_t page_size,
                              unsigned nbuffers, unsigned nthreads,
                              struct sf_queue **out, struct sf_err *err);
/* An empty parcel; AGAIN when none came free within TIMEOUT_MS, or the first error. */
enum sf_status sf_queue_take(struct sf_queue *queue, unsigned timeout_ms,
                             struct sf_parcel **out, struct sf_err *err);
/* Hand a parcel over to the writers. */
void sf_queue_put(struct sf_queue *queue, struct sf_parcel *parcel);
/* Wait until no parcel for window offset OFFSET is queued or being written. */
enum sf_status sf_queue_settle(struct sf_queue *queue, unsigned timeout_ms,
                               uint64_t offset, struct sf_err *err);
/* Wait until everything handed over is written. */
enum sf_status sf_queue_drain(struct sf_queue *queue, unsigned timeout_ms,
                              struct sf_err *err);
/* Bytes written so far. */
uint64_t sf_queue_written(const struct sf_queue *queue);
/* Drop the queue's rest, join the threads, free. NULL is allowed. */
void sf_queue_finish(struct sf_queue *queue);

#endif
