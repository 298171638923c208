/* Sequential RAM records to places in a file, in one pass.
 *
 * Pages are packed into windows of the target and written behind.  The last record of a
 * page wins; a later zero record punches earlier data out; a delta is applied to what
 * the target holds.  Bitmaps are kept in memory for the caller to use at the end. */
#ifndef SF_SCATTER_H
#define SF_SCATTER_H

#include "sf_pages.h"
#include "sf_scan.h"
#include "sf_sum.h"
#include "sf_watch.h"

/* Which pages of which block a struct sf_pages of the target takes. */
struct sf_place {
    uint64_t first;
    uint32_t block;
    uint32_t reserved;
};

struct sf_scatter_options {
    /* One for each of the target's PAGES, ascending by block and page, none of them
     * overlapping; pages without a place are dropped.  NULL: block i goes to PAGES[i].
     */
    const struct sf_place *places;
    struct sf_table **sums; /* one table a block, or NULL; not with places */
    const uint64_t *key;
    struct sf_watch *watch; /* looks at each data record's page, or NULL */
    uint64_t window;
    uint32_t nthreads;
    uint32_t reserved;
};

struct sf_scatter;

/* TARGET is fresh: it reads as zeros where the pages go.  The PAGES array is copied;
 * its bitmaps (all clear at the start), SCAN and the options' arrays are borrowed until
 * finish. */
enum sf_status sf_scatter_start(struct sf_scan *scan, struct sf_file *target,
                                const struct sf_pages *pages, uint32_t npages,
                                const struct sf_scatter_options *options,
                                struct sf_scatter **out, struct sf_err *err);
/* Consume RAM payload.  *USED may be 0 when the writers are behind: call again with the
 * same buffer, so that signals are served in between. */
enum sf_status sf_scatter_feed(struct sf_scatter *scatter, const uint8_t *buf,
                               size_t len, size_t *used, bool *done,
                               struct sf_err *err);
/* Write out everything that is still open; AGAIN until all is written. */
enum sf_status sf_scatter_flush(struct sf_scatter *scatter, unsigned timeout_ms,
                                struct sf_err *err);
/* Drop unwritten data, join the threads, free. NULL is allowed. */
void sf_scatter_finish(struct sf_scatter *scatter);

#endif
