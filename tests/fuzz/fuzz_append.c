/* Bytes appended in any pieces from any place on, through the write-behind queue: the
 * file holds them, and nothing else has changed.
 *
 * Input: where to begin, threads, then lengths of pieces. */
#include "fuzz.h"
#include "sf_append.h"

#define WINDOW 4096u
#define MOST (64u << 10)
#define FILL 0xa5

static void feed(struct sf_append *append, const uint8_t *bytes, size_t len)
{
    uint8_t *piece = fuzz_copy(bytes, len);

    for (size_t done = 0, used = 0; done < len; done += used) {
        CHECK(sf_append_feed(append, piece + done, len - done, &used, NULL) == SF_OK);
    }
    free(piece);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    const uint64_t start = fuzz_below(&input, 2, 3 * WINDOW);
    const unsigned nthreads = 1 + (unsigned)fuzz_below(&input, 1, 3);
    uint8_t *model = fuzz_zeros(MOST);
    uint8_t *now = fuzz_zeros(MOST);
    struct sf_file *file = fuzz_file(0, 0);
    struct sf_append *append = NULL;
    uint64_t at = start;

    memset(model, FILL, MOST);
    CHECK(sf_file_write(file, model, MOST, 0, NULL) == SF_OK);
    CHECK(sf_append_start(file, start, WINDOW, nthreads, &append, NULL) == SF_OK);
    while (input.left != 0) {
        const uint64_t choice = fuzz_take(&input, 1);
        const size_t len = (size_t)sf_min(
            choice & 1 ? fuzz_below(&input, 2, 3 * WINDOW) : choice, MOST - at);
        for (size_t i = 0; i < len; i++) {
            model[at + i] = (uint8_t)(choice + 7 * (at + i));
        }
        feed(append, model + at, len);
        at += len;
        if (choice % 16 == 15) {
            while (sf_append_flush(append, 1000, NULL) == SF_AGAIN) {
            }
            CHECK(sf_file_read(file, now, MOST, 0, NULL) == SF_OK);
            CHECK(memcmp(now, model, MOST) == 0);
            break; /* nothing follows a flush */
        }
    }
    while (sf_append_flush(append, 1000, NULL) == SF_AGAIN) {
    }
    sf_append_finish(append);
    CHECK(sf_file_read(file, now, MOST, 0, NULL) == SF_OK);
    CHECK(memcmp(now, model, MOST) == 0);
    CHECK(sf_append_start(file, 0, WINDOW, nthreads, &append, NULL) == SF_OK);
    feed(append, model, (size_t)start % 100);
    sf_append_finish(append); /* drops what is unwritten */
    sf_file_free(file);
    free(model);
    free(now);
    return 0;
}
