/* Occurrences of many texts at once, in time that hardly grows with their number. */
#ifndef SF_MANY_H
#define SF_MANY_H

#include "sf_err.h"
#include "sf_find.h"

struct sf_many;

/* Prepare to look for COUNT patterns.  Their masks may leave out the bit by which a
 * small letter differs from a capital one, and no other.  What they point to is
 * borrowed until sf_many_free(). */
enum sf_status sf_many_new(const struct sf_pattern *patterns, uint32_t count,
                           struct sf_many **out, struct sf_err *err);
/* NULL is allowed. */
void sf_many_free(struct sf_many *many);
/* The least room for matches that sf_many_find() goes on with. */
size_t sf_many_room(const struct sf_many *many);
/* Write matches that begin in DATA from START to before END, at most CAP of them, to
 * PLACES, and the number of each one's pattern to NUMBERS. Matches of one pattern come
 * in ascending order, including overlapping ones. *NEXT says where to continue, first
 * START; it becomes LEN when all was seen.  Any thread may call it. */
size_t sf_many_find(const struct sf_many *many, const uint8_t *data, size_t len,
                    size_t start, size_t end, uint64_t *places, uint32_t *numbers,
                    size_t cap, size_t *next);

#endif
