/* Read the pages of a sequential stream without keeping them: where each one's last
 * content lies (index), or its sum. */
#ifndef SF_TALLY_H
#define SF_TALLY_H

#include "sf_scan.h"
#include "sf_sum.h"

/* What an index table says of a page; any other entry is the stream offset of its data
 * plus SF_INDEX_BASE. */
enum { SF_INDEX_ABSENT = 0, SF_INDEX_ZERO = 1, SF_INDEX_DELTA = 2, SF_INDEX_BASE = 3 };

struct sf_tally;

/* With KEY: sums.  Without: index.  TABLES has one table a block; all is borrowed. */
enum sf_status sf_tally_new(struct sf_scan *scan, uint32_t page_size,
                            struct sf_table **tables, const uint64_t *key,
                            struct sf_tally **out, struct sf_err *err);
void sf_tally_free(struct sf_tally *tally);
/* Consume RAM payload, as sf_scan_feed().  A delta under a key is CONTENT. */
enum sf_status sf_tally_feed(struct sf_tally *tally, const uint8_t *buf, size_t len,
                             size_t *used, bool *done, struct sf_err *err);

/* The first run at or after FROM of pages of one kind: both ABSENT, ZERO or DELTA, or
 * data whose offsets grow by a constant *STRIDE from *OFFSET. */
bool sf_index_next_run(const struct sf_table *index, uint64_t npages,
                       uint32_t page_size, uint64_t from, struct sf_run *run,
                       uint64_t *kind, uint64_t *offset, uint64_t *stride);

#endif
