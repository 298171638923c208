/* Read the pages of a sequential stream without keeping them: where each one's last
 * content lies (index), or its sum. */
#ifndef SF_TALLY_H
#define SF_TALLY_H

#include "sf_index.h"
#include "sf_scan.h"
#include "sf_sum.h"

struct sf_tally;

/* With KEY it puts sums into TABLES, without KEY the places of pages into INDEXES. The
 * one in use has an entry for each block, the other may be NULL; all is borrowed. */
enum sf_status sf_tally_new(struct sf_scan *scan, uint32_t page_size,
                            struct sf_table **tables, struct sf_index **indexes,
                            const uint64_t *key, struct sf_tally **out,
                            struct sf_err *err);
void sf_tally_free(struct sf_tally *tally);
/* Consume RAM payload, as sf_scan_feed().  A delta under a key is CONTENT. */
enum sf_status sf_tally_feed(struct sf_tally *tally, const uint8_t *buf, size_t len,
                             size_t *used, bool *done, struct sf_err *err);

#endif
