/* Pages that hold certain bytes at a place, among any: the first hits are kept, up to
 * what there is room for.
 *
 * Input: place, length, room, then pages of a few bytes each. */
#include "fuzz.h"
#include "sf_watch.h"

#define MAX_HITS 8u
#define MAX_PAGES 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    const uint32_t length = 1 + (uint32_t)fuzz_below(&input, 1, 16);
    const uint32_t at = (uint32_t)fuzz_below(&input, 2, SF_MIN_PAGE - length + 1);
    const uint32_t room = (uint32_t)fuzz_below(&input, 1, MAX_HITS + 1);
    uint8_t *bytes = fuzz_zeros(length);
    uint64_t *hits = (uint64_t *)(void *)fuzz_zeros(room * sizeof *hits);
    struct sf_watch watch = {bytes, hits, length, at, room, 0};
    uint64_t expected[MAX_PAGES];
    unsigned count = 0;

    for (uint32_t i = 0; i < length; i++) {
        bytes[i] = (uint8_t)fuzz_take(&input, 1);
    }
    for (uint64_t number = 0; input.left != 0 && number < MAX_PAGES; number++) {
        const uint64_t change = fuzz_take(&input, 1);
        uint8_t *page = fuzz_zeros(SF_MIN_PAGE);
        memcpy(page + at, bytes, length);
        page[at + change % length] ^= (uint8_t)(change >> 4);
        sf_watch_page(&watch, page, number * SF_MIN_PAGE);
        sf_watch_page(NULL, page, number);
        if (change >> 4 == 0) {
            expected[count++] = number * SF_MIN_PAGE;
        }
        free(page);
    }
    CHECK(watch.count == sf_min(count, room));
    for (unsigned i = 0; i < watch.count; i++) {
        CHECK(hits[i] == expected[i]);
    }
    free(bytes);
    free(hits);
    return 0;
}
