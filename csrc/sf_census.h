/* What pages are like: their entropy, and how many are alike.  Pure, cannot fail. */
#ifndef SF_CENSUS_H
#define SF_CENSUS_H

#include "sf_base.h"

/* Write the entropy of each of COUNT pages of PAGE_SIZE bytes, in 1/31 bits a byte, so
 * that 8 bits are 248: none for a page of one byte value throughout. */
void sf_census_entropy(const uint8_t *data, size_t page_size, size_t count,
                       uint8_t *out);

/* Sort SUMS and count how many different ones there are, and how many occur once; zeros
 * do not count. */
void sf_census_distinct(uint64_t *sums, size_t count, uint64_t *distinct,
                        uint64_t *unique);

#endif
