/* Mapped-ram pages as sequential page records.
 *
 * The bitmaps alone give the length of every record, so the place of each page in the
 * output is known beforehand and windows of output are built independently. */
#ifndef SF_EMIT_H
#define SF_EMIT_H

#include "sf_job.h"
#include "sf_pages.h"
#include "sf_ring.h"
#include "sf_sum.h"

struct sf_emit_block {
    const char *name; /* not NUL-terminated */
    struct sf_pages pages;
    uint32_t name_length;
    uint32_t reserved;
};

struct sf_emit;

/* SOURCE, names, bitmaps, tables and key are borrowed until sf_emit_free().  SUMS (one
 * table a block) may be NULL. */
enum sf_status sf_emit_new(struct sf_file *source, const struct sf_emit_block *blocks,
                           uint32_t nblocks, struct sf_table **sums,
                           const uint64_t *key, struct sf_emit **out,
                           struct sf_err *err);
void sf_emit_free(struct sf_emit *emit);
/* Bytes of all records. */
uint64_t sf_emit_length(const struct sf_emit *emit);

/* Write all records to TARGET from OFFSET on.  EMIT is borrowed until finish. */
enum sf_status sf_emit_write_start(struct sf_emit *emit, struct sf_file *target,
                                   uint64_t offset, size_t window, unsigned nthreads,
                                   struct sf_job **out, struct sf_err *err);
/* Produce all records in order.  EMIT is borrowed until finish. */
enum sf_status sf_emit_ring_start(struct sf_emit *emit, size_t window,
                                  unsigned nthreads, struct sf_ring **out,
                                  struct sf_err *err);

#endif
