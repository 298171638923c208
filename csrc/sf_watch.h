/* Pages that hold certain bytes at a certain place, noted while they go by. */
#ifndef SF_WATCH_H
#define SF_WATCH_H

#include "sf_base.h"

/* All that is pointed to is borrowed. */
struct sf_watch {
    const uint8_t *bytes;
    uint64_t *hits;    /* offsets in the file that the pages go to, in no order */
    uint32_t length;   /* of BYTES */
    uint32_t at;       /* in a page; AT + LENGTH is at most SF_MIN_PAGE */
    uint32_t capacity; /* of HITS; what comes later is dropped */
    uint32_t count;    /* of HITS; any thread may raise it */
};

/* Look at a page on its way to OFFSET; WATCH may be NULL. */
void sf_watch_page(struct sf_watch *watch, const uint8_t *page, uint64_t offset);

#endif
