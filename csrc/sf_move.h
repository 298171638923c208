/* Jobs over the pages of a mapped-ram file: read, sum, copy to another such file. */
#ifndef SF_MOVE_H
#define SF_MOVE_H

#include "sf_job.h"
#include "sf_pages.h"
#include "sf_sum.h"
#include "sf_watch.h"

/* The files are held until sf_job_finish(), and all else that is pointed to is borrowed
 * until then. */
struct sf_move {
    struct sf_file *source;
    const struct sf_pages *from;    /* NBLOCKS of them */
    struct sf_file *target;         /* NULL: only read */
    const uint64_t *target_offsets; /* of pages in a fresh target, and for WATCH */
    struct sf_table **sums;         /* one table a block, or NULL */
    const uint64_t *key;            /* for the sums */
    struct sf_watch *watch;         /* looks at the pages with content, or NULL */
    uint32_t nblocks;
    uint32_t nthreads;
    uint64_t window; /* bytes, at least 8 pages; one, where they are only read */
};

enum sf_status sf_move_start(const struct sf_move *move, struct sf_job **out,
                             struct sf_err *err);

#endif
