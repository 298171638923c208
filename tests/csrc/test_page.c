/* sf_page: zero test, runs and counts, against loops that look at one bit at a time. */
#include "check.h"
#include "sf_page.h"

#define MAX_PAGES 700u

static void test_zero_at_every_length_and_place(void)
{
    uint8_t buf[700];

    for (size_t start = 0; start < 33; start += 3) {
        for (size_t len = 0; len + start + 1 < 600; len++) {
            memset(buf, 0xff, sizeof buf);
            memset(buf + start, 0, len);
            CHECK(sf_page_is_zero(buf + start, len));
            if (len != 0) {
                buf[start + len - 1] = 0x80;
                CHECK(!sf_page_is_zero(buf + start, len));
                buf[start + len - 1] = 0;
                buf[start] = 1;
                CHECK(!sf_page_is_zero(buf + start, len));
            }
        }
    }
}

static void test_one_bit_is_seen_everywhere(void)
{
    uint8_t *page = grab(4096);

    for (size_t i = 0; i < 4096; i++) {
        page[i] = (uint8_t)(1u << i % 8);
        CHECK(!sf_page_is_zero(page, 4096));
        page[i] = 0;
    }
    CHECK(sf_page_is_zero(page, 4096));
    free(page);
}

/* The next run by looking at every bit. */
static bool slow_run(const uint8_t *bitmap, uint64_t npages, uint64_t from,
                     struct sf_run *run)
{
    while (from < npages && !sf_bit_test(bitmap, from)) {
        from++;
    }
    run->first = from;
    run->count = 0;
    while (from < npages && sf_bit_test(bitmap, from)) {
        run->count++;
        from++;
    }
    return run->count != 0;
}

static void check_bitmap(const uint8_t *bitmap, uint64_t npages)
{
    for (uint64_t from = 0; from <= npages + 2; from++) {
        struct sf_run fast = {0, 0};
        struct sf_run slow;
        const bool found = slow_run(bitmap, npages, from, &slow);
        CHECK_EQ(sf_page_next_run(bitmap, npages, from, &fast), found);
        if (found) {
            CHECK_EQ(fast.first, slow.first);
            CHECK_EQ(fast.count, slow.count);
        }
    }
    for (uint64_t first = 0; first <= npages; first += 1 + first % 5) {
        uint64_t total = 0;
        for (uint64_t count = 0; first + count <= npages; count++) {
            CHECK_EQ(sf_page_count(bitmap, first, count), total);
            total += first + count < npages && sf_bit_test(bitmap, first + count);
        }
    }
}

/* Exactly as many bytes as needed, so that reading beyond is noticed; the bits after
 * the last page are set, so that counting them is, too. */
static void test_runs_and_counts(void)
{
    struct dice dice = {1};

    for (uint64_t npages = 0; npages < MAX_PAGES; npages += 1 + npages / 9) {
        const size_t len = (size_t)(npages + 7) / 8;
        for (unsigned kind = 0; kind < 5; kind++) {
            uint8_t *bitmap = grab(len);
            memset(bitmap, kind == 0 ? 0 : 0xff, len);
            for (uint64_t page = 0; kind > 1 && page < npages; page++) {
                if (below(&dice, kind == 2 ? 2 : 60) == 0) {
                    sf_bit_clear(bitmap, page);
                }
            }
            for (size_t i = 0; kind == 4 && i < len; i++) {
                bitmap[i] = (uint8_t)~bitmap[i];
            }
            for (uint64_t page = npages; page < 8 * len; page++) {
                sf_bit_set(bitmap, page);
            }
            check_bitmap(bitmap, npages);
            free(bitmap);
        }
    }
}

int main(void)
{
    test_zero_at_every_length_and_place();
    test_one_bit_is_seen_everywhere();
    test_runs_and_counts();
    return 0;
}
