/* Pages that hold certain bytes. */
#include "sf_watch.h"

#include <string.h>

void sf_watch_page(struct sf_watch *watch, const uint8_t *page, uint64_t offset)
{
    if (watch == NULL || memcmp(page + watch->at, watch->bytes, watch->length) != 0) {
        return;
    }
    const uint32_t number = __atomic_fetch_add(&watch->count, 1, __ATOMIC_RELAXED);
    if (number < watch->capacity) {
        watch->hits[number] = offset;
    } else { /* must not wrap around */
        __atomic_fetch_sub(&watch->count, 1, __ATOMIC_RELAXED);
    }
}
