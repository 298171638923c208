/* Cells: pointers that own what a maker wrote into them.
 *
 * For Python, which may be interrupted between any two calls: the cell is there before
 * the thing is made, and one call ends the thing and empties the cell. */
#ifndef SF_CELL_H
#define SF_CELL_H

#include "sf_append.h"
#include "sf_emit.h"
#include "sf_index.h"
#include "sf_job.h"
#include "sf_many.h"
#include "sf_map.h"
#include "sf_ring.h"
#include "sf_scatter.h"
#include "sf_tally.h"

#define SF_DROP(kind, end)                                                             \
    static inline void kind##_drop(struct kind **cell)                                 \
    {                                                                                  \
        struct kind *content = *cell;                                                  \
        *cell = NULL;                                                                  \
        end(content);                                                                  \
    }

SF_DROP(sf_append, sf_append_finish)
SF_DROP(sf_emit, sf_emit_free)
SF_DROP(sf_file, sf_file_free)
SF_DROP(sf_index, sf_index_free)
SF_DROP(sf_many, sf_many_free)
SF_DROP(sf_map, sf_map_free)
SF_DROP(sf_ring, sf_ring_finish)
SF_DROP(sf_scan, sf_scan_free)
SF_DROP(sf_scatter, sf_scatter_finish)
SF_DROP(sf_table, sf_table_free)
SF_DROP(sf_tally, sf_tally_free)

#undef SF_DROP

/* A pointer to a file that counts as a user of it: the file stays open, even if it is
 * closed meanwhile. */
struct sf_hold;

static inline enum sf_status sf_hold_start(struct sf_file *file, struct sf_hold **cell,
                                           struct sf_err *err)
{
    const enum sf_status status = sf_file_acquire(file, err);

    if (status == SF_OK) {
        *cell = (struct sf_hold *)file;
    }
    return status;
}

static inline void sf_hold_drop(struct sf_hold **cell)
{
    struct sf_file *file = (struct sf_file *)*cell;

    *cell = NULL;
    if (file != NULL) {
        sf_file_release(file);
    }
}

/* Wait for all of a job and say how it went. */
static inline enum sf_status sf_job_end(struct sf_job **cell, struct sf_err *err)
{
    struct sf_job *job = *cell;

    *cell = NULL;
    return sf_job_finish(job, err);
}

/* End a job that nobody wants any more, if there is one. */
static inline void sf_job_drop(struct sf_job **cell)
{
    if (*cell != NULL) {
        sf_job_cancel(*cell);
        (void)sf_job_end(cell, NULL);
    }
}

#endif
