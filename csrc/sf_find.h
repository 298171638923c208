/* Occurrences of a byte pattern with wildcards.  Pure, cannot fail. */
#ifndef SF_FIND_H
#define SF_FIND_H

#include "sf_base.h"

/* Matches where (data ^ value) & mask is zero for all LENGTH bytes.  The anchors are
 * two of its places, best rare ones, that are looked at first. */
struct sf_pattern {
    const uint8_t *value;
    const uint8_t *mask;
    size_t length;
    size_t anchors[2];
};

/* Write the offsets of PATTERN in DATA, at or after FROM, to OUT: ascending, including
 * overlapping ones, at most CAP of them. *NEXT gets the place to continue from, which
 * is LEN when all was seen. */
size_t sf_find(const struct sf_pattern *pattern, const uint8_t *data, size_t len,
               size_t from, uint64_t *out, size_t cap, size_t *next);

#endif
