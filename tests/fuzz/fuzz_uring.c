/* Any set of chunks through io_uring: what it says was moved was moved, and no more.
 * Without io_uring here it says so, and nothing else is tried.
 *
 * Input: chunks, each with kind, place and length. */
#include "fuzz.h"
#include "sf_uring.h"

#define MOST 16384u

static int fd = -1;
static uint8_t content[MOST];

static struct sf_uring_pool *pool(void)
{
    static struct sf_uring_pool *kept;
    static bool tried;

    if (!tried) {
        tried = true;
        (void)sf_uring_pool_new(&kept, NULL);
        for (unsigned i = 0; i < MOST; i++) {
            content[i] = (uint8_t)(i * 31 >> 3);
        }
        fd = memfd_create("fuzz", 0);
        CHECK(fd >= 0 && write(fd, content, MOST) == MOST);
    }
    return kept;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct sf_chunk chunks[SF_URING_DEPTH];
    unsigned count = 0;

    if (pool() == NULL) {
        return 0;
    }
    for (; input.left != 0 && count < SF_URING_DEPTH; count++) {
        const uint64_t kind = fuzz_take(&input, 1);
        const uint32_t len = (uint32_t)fuzz_below(&input, 2, 4096);
        chunks[count] = (struct sf_chunk){fuzz_zeros(len),
                                          fuzz_take(&input, kind & 1 ? 8 : 2),
                                          len,
                                          kind % 16 == 15 ? -1 : fd,
                                          99,
                                          0};
    }
    sf_uring_pool_move(pool(), false, chunks, count);
    for (unsigned i = 0; i < count; i++) {
        const struct sf_chunk *chunk = &chunks[i];
        const uint64_t there = chunk->offset < MOST ? MOST - chunk->offset : 0;
        CHECK(chunk->moved <= sf_min(chunk->len, there));
        CHECK(chunk->fd >= 0 || chunk->moved == 0);
        CHECK(memcmp(chunk->buf, content + sf_min(chunk->offset, MOST), chunk->moved) ==
              0);
        for (uint32_t k = chunk->moved; k < chunk->len; k++) {
            CHECK(chunk->buf[k] == 0);
        }
        free(chunk->buf);
    }
    return 0;
}
