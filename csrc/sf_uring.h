/* Many transfers at once through the kernel's io_uring, spoken to without a library.
 *
 * One thread uses a ring at a time; the pool hands rings to as many threads as come.
 * If anything goes wrong with a chunk, its bytes are just not moved: the caller moves
 * the rest in the ordinary way and gets the error from that. */
#ifndef SF_URING_H
#define SF_URING_H

#include "sf_err.h"

#define SF_URING_DEPTH 128u

struct sf_chunk {
    uint8_t *buf;
    uint64_t offset; /* in the file */
    uint32_t len;
    int fd;
    uint32_t moved; /* how many bytes were, from the first on */
    uint64_t took;  /* nanoseconds until it was seen to have ended */
};

struct sf_uring_pool;

/* UNSUPPORTED where the kernel has no io_uring or keeps it from us. */
enum sf_status sf_uring_pool_new(struct sf_uring_pool **out, struct sf_err *err);
/* NULL is allowed; nothing may be under way. */
void sf_uring_pool_free(struct sf_uring_pool *pool);
/* Move up to SF_URING_DEPTH chunks at once; on return none is under way any more. */
void sf_uring_pool_move(struct sf_uring_pool *pool, bool write, struct sf_chunk *chunks,
                        unsigned count);

#endif
