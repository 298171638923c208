/* Page predicates, sums and deltas on any bytes, against loops over single bits.
 *
 * Input: two bytes for a page count and one for a place, then bitmap, page and delta
 * all at once. */
#include "fuzz.h"
#include "sf_page.h"
#include "sf_scan.h"
#include "sf_sum.h"

#define HEAD 3u
#define PAGE 512u

static bool slow_is_zero(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (p[i] != 0) {
            return false;
        }
    }
    return true;
}

static void check_bitmap(const uint8_t *bitmap, uint64_t npages, uint64_t from)
{
    struct sf_run run = {0, 0};
    uint64_t first = from;
    uint64_t total = 0;

    while (first < npages && !sf_bit_test(bitmap, first)) {
        first++;
    }
    uint64_t end = first;
    while (end < npages && sf_bit_test(bitmap, end)) {
        end++;
    }
    CHECK(sf_page_next_run(bitmap, npages, from, &run) == (first < end));
    CHECK(first >= end || (run.first == first && run.count == end - first));
    for (uint64_t page = from; page < npages; page++) {
        CHECK(sf_page_count(bitmap, from, page - from) == total);
        total += sf_bit_test(bitmap, page);
    }
    if (from <= npages) {
        CHECK(sf_page_count(bitmap, from, npages - from) == total);
    }
}

static void check_sum(const uint8_t *page)
{
    static uint64_t key[SF_SUM_KEY_WORDS(PAGE)];

    for (size_t i = 0; key[0] == 0 && i < SF_SUM_KEY_WORDS(PAGE); i++) {
        key[i] = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    }
    CHECK((sf_sum_page(key, page, PAGE) == 0) == slow_is_zero(page, PAGE));
}

/* Byte by byte; false where a rule is broken. */
static bool slow_delta(uint8_t *page, const uint8_t *delta, size_t len)
{
    size_t at = 0;
    size_t position = 0;

    for (bool keeping = true; at < len || !keeping; keeping = !keeping) {
        const bool first = at == 0;
        size_t count = 0;
        if (at >= len) {
            return false;
        }
        count = delta[at++];
        if (count >= 128) {
            if (at >= len || delta[at] >= 128) {
                return false;
            }
            count = count - 128 + 128u * delta[at++];
        }
        if (count == 0 && !(first && keeping)) {
            return false;
        }
        for (size_t i = 0; i < count; i++, position++) {
            if (position >= PAGE || (!keeping && at >= len)) {
                return false;
            }
            if (!keeping) {
                page[position] = delta[at++];
            }
        }
    }
    return true;
}

static void check_delta(const uint8_t *delta, size_t len)
{
    uint8_t fast[PAGE];
    uint8_t slow[PAGE];

    memset(fast, 0x5a, PAGE);
    memset(slow, 0x5a, PAGE);
    const bool good = slow_delta(slow, delta, len);
    CHECK((sf_xbzrle_apply(fast, PAGE, delta, (uint32_t)len, 0, NULL) == SF_OK) ==
          good);
    if (!good) {
        memset(slow, 0x5a, PAGE);
    }
    CHECK(memcmp(fast, slow, PAGE) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEAD) {
        return 0;
    }
    const size_t len = size - HEAD;
    const uint64_t wanted = data[0] + 256u * data[1];
    const uint64_t npages = sf_min(wanted, 8 * len);
    uint8_t *bitmap = fuzz_copy(data + HEAD, (size_t)(npages + 7) / 8);
    uint8_t *all = fuzz_copy(data + HEAD, len);
    uint8_t page[PAGE] = {0};

    check_bitmap(bitmap, npages, data[2]);
    CHECK(sf_page_is_zero(all, len) == slow_is_zero(all, len));
    memcpy(page, all, (size_t)sf_min(len, PAGE));
    check_sum(page);
    check_delta(all, len);
    free(bitmap);
    free(all);
    return 0;
}
