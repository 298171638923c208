/* The two descriptors of one file: a buffered one, and a direct one for what is
 * aligned; and the rings by which several requests can be under way. */
#ifndef SF_DESCRIPTORS_H
#define SF_DESCRIPTORS_H

#include "sf_extents.h"
#include "sf_latency.h"
#include "sf_uring.h"

#include <stdatomic.h>

struct sf_descriptors {
    int fd;
    int direct_fd;
    atomic_uint align;           /* 0 once direct I/O was refused */
    struct sf_uring_pool *rings; /* NULL: one request after the other */
    struct sf_latency *latency;  /* NULL: requests are not timed; else the file's */
    size_t small_write;          /* what is shorter goes through the page cache */
};

void sf_descriptors_init(struct sf_descriptors *two);
/* Take a copy of FD, which stays the caller's. */
enum sf_status sf_descriptors_open(struct sf_descriptors *two, int fd,
                                   struct sf_err *err);
/* Use direct I/O where it is granted. */
void sf_descriptors_add_direct(struct sf_descriptors *two, bool write);
/* Use io_uring; false where it is not granted. */
bool sf_descriptors_add_rings(struct sf_descriptors *two);
/* Harmless when repeated. */
void sf_descriptors_close(struct sf_descriptors *two);

/* Move pieces, at once where that is possible; DONE[i] < LEN for those that the file's
 * end cuts, which only a read may meet. */
enum sf_status sf_descriptors_move(struct sf_descriptors *two, bool write,
                                   const struct sf_piece *pieces, unsigned count,
                                   size_t *done, struct sf_err *err);

#endif
