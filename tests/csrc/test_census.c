/* sf_census: entropy of pages that are known, and distinct numbers against a slow
 * count. */
#include "check.h"
#include "sf_census.h"

#define PAGE 4096u

static void test_entropy_of_known_pages(void)
{
    uint8_t *pages = grab(4 * PAGE);
    uint8_t out[4];

    for (unsigned i = 0; i < PAGE; i++) {
        pages[i] = 0x41;
        pages[PAGE + i] = (uint8_t)(i % 2);
        pages[2 * PAGE + i] = (uint8_t)(i % 16);
        pages[3 * PAGE + i] = (uint8_t)i;
    }
    sf_census_entropy(pages, PAGE, 4, out);
    CHECK_EQ(out[0], 0);
    CHECK_EQ(out[1], 31);
    CHECK_EQ(out[2], 4 * 31);
    CHECK_EQ(out[3], 8 * 31);
    free(pages);
}

static void test_entropy_of_uneven_pages(void)
{
    uint8_t *page = grab(PAGE);
    uint8_t out;

    /* A quarter and three quarters: 0.8113 bits. */
    memset(page, 0, PAGE);
    memset(page, 1, PAGE / 4);
    sf_census_entropy(page, PAGE, 1, &out);
    CHECK_EQ(out, 25);
    free(page);
}

static void test_distinct_numbers(void)
{
    struct dice dice = {5};

    for (unsigned turn = 0; turn < 3000; turn++) {
        uint64_t values[200], copy[200];
        const size_t count = roll(&dice) % 200;
        const uint64_t range = 1 + roll(&dice) % 300;
        uint64_t distinct, unique, slow_distinct = 0, slow_unique = 0;

        for (size_t i = 0; i < count; i++) {
            values[i] = copy[i] = roll(&dice) % range;
        }
        for (size_t i = 0; i < count; i++) {
            size_t before = 0, all = 0;
            for (size_t j = 0; j < count; j++) {
                all += copy[j] == copy[i];
                before += j < i && copy[j] == copy[i];
            }
            slow_distinct += copy[i] != 0 && before == 0;
            slow_unique += copy[i] != 0 && all == 1;
        }
        sf_census_distinct(values, count, &distinct, &unique);
        CHECK_EQ(distinct, slow_distinct);
        CHECK_EQ(unique, slow_unique);
    }
}

int main(void)
{
    test_entropy_of_known_pages();
    test_entropy_of_uneven_pages();
    test_distinct_numbers();
    return 0;
}
