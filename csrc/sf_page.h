/* Page predicates: zero test, bitmap runs and counts.  Pure, cannot fail.
 *
 * A bitmap here is always canonical: page k is bit k % 8 of byte k / 8. */
#ifndef SF_PAGE_H
#define SF_PAGE_H

#include "sf_base.h"

struct sf_run {
    uint64_t first;
    uint64_t count;
};

bool sf_page_is_zero(const void *p, size_t len);

/* Find the first run of set bits at or after FROM; false if there is no such run. */
bool sf_page_next_run(const uint8_t *bitmap, uint64_t npages, uint64_t from,
                      struct sf_run *run);

/* Count the set bits among pages [FIRST, FIRST + COUNT). */
uint64_t sf_page_count(const uint8_t *bitmap, uint64_t first, uint64_t count);

static inline bool sf_bit_test(const uint8_t *bitmap, uint64_t page)
{
    return (bitmap[page >> 3] >> (page & 7)) & 1;
}

static inline void sf_bit_set(uint8_t *bitmap, uint64_t page)
{
    bitmap[page >> 3] = (uint8_t)(bitmap[page >> 3] | 1u << (page & 7));
}

static inline void sf_bit_clear(uint8_t *bitmap, uint64_t page)
{
    bitmap[page >> 3] = (uint8_t)(bitmap[page >> 3] & ~(1u << (page & 7)));
}

#endif
