/* A job that writes made-up pages to their places, as a save does: for measuring. */
#ifndef SF_FILL_H
#define SF_FILL_H

#include "sf_job.h"
#include "sf_pages.h"

/* Write every page whose bit is set in one of the NBLOCKS of PAGES.  No two pages are
 * equal and none is zero, so nothing below can save work on them.  A window has room
 * for a page at least.  FILE and PAGES are borrowed until sf_job_finish(). */
enum sf_status sf_fill_start(struct sf_file *file, const struct sf_pages *pages,
                             uint32_t nblocks, uint64_t window, unsigned nthreads,
                             struct sf_job **out, struct sf_err *err);

#endif
