/* Where the pages of one RAM block lie in a mapped-ram file, and moving some of them.
 *
 * Page k of the block is at OFFSET + k * PAGE_SIZE if its bit is set; if its bit is
 * clear, the page is zero and the file may hold anything there. */
#ifndef SF_PAGES_H
#define SF_PAGES_H

#include "sf_file.h"
#include "sf_page.h"

struct sf_pages {
    uint8_t *bitmap; /* canonical bit order; borrowed */
    uint64_t count;  /* pages */
    uint64_t offset; /* in the file */
    uint32_t page_size;
    uint32_t reserved;
};

/* What may be fetched or written in one go, in bytes of guest memory.  A span this long
 * is hardly touched where pages lie far apart, but so many of them are on their way at
 * once; see sf_buffer_thin(). */
#define SF_MAX_SPAN ((uint64_t)256 << 20)
/* How long spans may be, at least WINDOW: no longer than that where long buffers are
 * not free. */
uint64_t sf_span_room(uint64_t window);

/* How many pages from FIRST on to fetch at a time: one or more steps of STEP pages, as
 * many as do not take more than ROOM pages of memory nor reach farther than LIMIT
 * pages. */
uint64_t sf_pages_span(const struct sf_pages *pages, uint64_t first, uint64_t step,
                       uint64_t room, uint64_t limit);
/* Read the present pages of [FIRST, FIRST + COUNT) to their places in BUF; what BUF
 * holds in the place of a clear page is undefined.  The caller holds FILE. */
enum sf_status sf_pages_fetch(struct sf_file *file, const struct sf_pages *pages,
                              uint64_t first, uint64_t count, uint8_t *buf,
                              struct sf_err *err);
/* The same with clear pages as zeros, holding FILE by itself. */
enum sf_status sf_pages_read(struct sf_file *file, const struct sf_pages *pages,
                             uint64_t first, uint64_t count, uint8_t *buf,
                             struct sf_err *err);

/* Write those of COUNT pages in BUF whose bit is set in BITS (bit 0 = first page) at
 * file offset OFFSET.  Clear pages whose bit is set in FILLABLE (NULL: all of them) may
 * be overwritten with zeros where that saves a write; BUF is zeroed there.  The caller
 * holds FILE. */
enum sf_status sf_pages_write(struct sf_file *file, uint64_t offset, uint32_t page_size,
                              uint64_t count, const uint8_t *bits,
                              const uint8_t *fillable, uint8_t *buf,
                              struct sf_err *err);

#endif
