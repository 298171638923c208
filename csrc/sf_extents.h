/* A view of files: stretches of these files in any order, with zeros between them. */
#ifndef SF_EXTENTS_H
#define SF_EXTENTS_H

#include "sf_err.h"

/* One transfer among several. */
struct sf_piece {
    uint8_t *buf;
    size_t len;
    uint64_t offset; /* in the file */
};
#define SF_MAX_PIECES 128u

struct sf_extent {
    uint64_t offset; /* in the view */
    uint64_t len;
    uint64_t place;  /* in the file */
    uint32_t source; /* number of the file */
};

/* A piece of one of the files. */
struct sf_part {
    struct sf_piece piece;
    uint32_t source;
};

struct sf_extents;

/* COUNT extents in order, which do not overlap in the view, for a view of LENGTH bytes.
 * All of them must lie in the NFILES files, which are as long as LENGTHS say. */
enum sf_status sf_extents_new(const struct sf_extent *extents, size_t count,
                              uint64_t length, const uint64_t *lengths, unsigned nfiles,
                              struct sf_extents **out, struct sf_err *err);
/* NULL is allowed. */
void sf_extents_free(struct sf_extents *extents);

/* Find the extent at or after OFFSET, from there on; *LEN = 0 when there is none. */
void sf_extents_next(const struct sf_extents *extents, uint64_t offset, uint64_t *start,
                     uint64_t *len);
/* Cut LEFT, a piece inside of the view, into at most ROOM parts that are in a file, and
 * leave in it what is not done. Parts without a file are filled with zeros at once. */
unsigned sf_extents_cut(const struct sf_extents *extents, struct sf_piece *left,
                        struct sf_part *parts, unsigned room);
/* Where in the first file the view begins, if it is one stretch of that. */
bool sf_extents_whole(const struct sf_extents *extents, uint64_t *place);

#endif
