/* Occurrences of a byte pattern with wildcards. */
#include "sf_find.h"

#define STEP 64

/* Whether the anchors fit at one of STEP neighbouring places.  Without a branch inside,
 * so that compilers make vector instructions of it. */
static bool any_candidate(const uint8_t *one, const uint8_t *two, const uint8_t *value,
                          const uint8_t *mask)
{
    uint8_t any = 0;

    for (unsigned i = 0; i < STEP; i++) {
        const uint8_t miss = (uint8_t)(((one[i] ^ value[0]) & mask[0]) |
                                       ((two[i] ^ value[1]) & mask[1]));
        any |= (uint8_t)(miss == 0);
    }
    return any != 0;
}

static bool matches(const struct sf_pattern *pattern, const uint8_t *data)
{
    for (size_t i = 0; i < pattern->length; i++) {
        if (((data[i] ^ pattern->value[i]) & pattern->mask[i]) != 0) {
            return false;
        }
    }
    return true;
}

size_t sf_find(const struct sf_pattern *pattern, const uint8_t *data, size_t len,
               size_t from, uint64_t *out, size_t cap, size_t *next)
{
    const size_t *anchors = pattern->anchors;
    const uint8_t value[2] = {pattern->value[anchors[0]], pattern->value[anchors[1]]};
    const uint8_t mask[2] = {pattern->mask[anchors[0]], pattern->mask[anchors[1]]};
    const size_t end = len < pattern->length ? 0 : len - pattern->length + 1;
    size_t count = 0;
    size_t at = from;

    while (at < end && count < cap) {
        size_t stop = at + 1;
        if (end - at >= STEP) {
            if (!any_candidate(data + at + anchors[0], data + at + anchors[1], value,
                               mask)) {
                at += STEP;
                continue;
            }
            stop = at + STEP;
        }
        for (; at < stop && count < cap; at++) {
            if (((data[at + anchors[0]] ^ value[0]) & mask[0]) == 0 &&
                matches(pattern, data + at)) {
                out[count++] = at;
            }
        }
    }
    *next = at < end ? at : len;
    return count;
}
