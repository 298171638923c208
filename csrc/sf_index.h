/* Where each page of one block lies in a sequential stream, in runs.
 *
 * A stretch of 512 pages takes 16 bytes and 16 more for each run of neighbours that lie
 * a constant stride apart or are of one kind.  Pages that come again, or in a wild
 * order, make their stretch a plain array until it is packed: 8 bytes a page is the
 * most that an index ever takes besides the stretches themselves. */
#ifndef SF_INDEX_H
#define SF_INDEX_H

#include "sf_file.h"

/* What an index says of a page; any other value is the offset of its data plus
 * SF_INDEX_BASE. */
enum { SF_INDEX_ABSENT = 0, SF_INDEX_ZERO = 1, SF_INDEX_DELTA = 2, SF_INDEX_BASE = 3 };

/* Pages of one value, or data whose offsets grow by STRIDE; that is 0 for a single
 * page and for all that is no data. */
struct sf_index_run {
    uint64_t first;
    uint64_t count;
    uint64_t value;
    uint64_t stride;
};

struct sf_index;

/* All pages of NAME are ABSENT at first. */
enum sf_status sf_index_new(uint64_t npages, uint32_t page_size, const char *name,
                            uint32_t name_length, struct sf_index **out,
                            struct sf_err *err);
void sf_index_free(struct sf_index *index);

/* PAGE must be in the block; earlier facts about it are replaced. */
enum sf_status sf_index_put(struct sf_index *index, uint64_t page, uint64_t value,
                            struct sf_err *err);
/* Give back memory that runs do not need.  Cannot fail, only do less. */
void sf_index_pack(struct sf_index *index);

/* The first run of pages at or after FROM, up to END; false if there is no such run. */
bool sf_index_next_run(const struct sf_index *index, uint64_t from, uint64_t end,
                       struct sf_index_run *run);
/* Up to CAP such runs; returns how many. */
size_t sf_index_list(const struct sf_index *index, uint64_t from, uint64_t end,
                     struct sf_index_run *out, size_t cap);
/* Take runs from a list: they must continue where the pages so far end, and data must
 * be in [START, END) of the file. */
enum sf_status sf_index_load(struct sf_index *index, const struct sf_index_run *runs,
                             size_t count, uint64_t start, uint64_t end,
                             struct sf_err *err);
/* Bytes of memory held. */
uint64_t sf_index_memory(const struct sf_index *index);

/* Read pages from FILE.  The record in front of each must be that of the page. */
enum sf_status sf_index_read(const struct sf_index *index, struct sf_file *file,
                             uint64_t first, uint64_t count, uint8_t *buf,
                             struct sf_err *err);

#endif
