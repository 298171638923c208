/* sf_sum: tables, and sums against plain arithmetic. */
#include "guest.h"

__extension__ typedef unsigned __int128 uint128;

#define PRIME ((UINT64_C(1) << 61) - 1)

static uint64_t word_at(const uint8_t *page, uint32_t i)
{
    uint64_t value = 0;
    for (unsigned byte = 8; byte-- > 0;) {
        value = value << 8 | page[8 * i + byte];
    }
    return value;
}

static uint64_t slow_sum(const uint64_t *key, const uint8_t *page, uint32_t page_size)
{
    uint128 products = 0;
    uint128 folded = 0;
    bool zero = true;

    for (uint32_t i = 0; i < page_size; i++) {
        zero = zero && page[i] == 0;
    }
    for (uint32_t i = 0; i < page_size / 8; i += 2) {
        products += (uint128)(word_at(page, i) + key[i]) *
                    (uint64_t)(word_at(page, i + 1) + key[i + 1]);
    }
    for (unsigned i = 0; i < 4; i++) {
        const uint128 quarter = products >> (32 * i) & 0xffffffff;
        folded = (folded + quarter * (key[page_size / 8 + i] & PRIME)) % PRIME;
    }
    return zero ? 0 : (uint64_t)folded + 1;
}

static void test_sums_of_all_page_sizes(void)
{
    struct dice dice = {2};
    uint64_t *key = random_key(&dice);
    uint8_t *page = grab(SF_MAX_PAGE);

    for (uint32_t page_size = SF_MIN_PAGE; page_size <= SF_MAX_PAGE; page_size *= 2) {
        memset(page, 0, page_size);
        CHECK_EQ(sf_sum_page(key, page, page_size), 0);
        memset(page, 0xff, page_size);
        CHECK_EQ(sf_sum_page(key, page, page_size), slow_sum(key, page, page_size));
        for (unsigned i = 0; i < 20; i++) {
            fill_random(&dice, page, page_size);
            CHECK_EQ(sf_sum_page(key, page, page_size), slow_sum(key, page, page_size));
        }
    }
    /* The largest key there can be: nothing may overflow. */
    memset(key, 0xff, SF_SUM_KEY_WORDS(SF_MAX_PAGE) * sizeof *key);
    CHECK_EQ(sf_sum_page(key, page, 4096), slow_sum(key, page, 4096));
    free(page);
    free(key);
}

static void test_every_bit_counts(void)
{
    struct dice dice = {3};
    uint64_t *key = random_key(&dice);
    uint8_t *page = grab(1024);

    fill_random(&dice, page, 1024);
    const uint64_t sum = sf_sum_page(key, page, 1024);
    for (uint32_t bit = 0; bit < 8 * 1024; bit++) {
        page[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(sf_sum_page(key, page, 1024) != sum);
        page[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    memset(page, 0, 1024);
    for (uint32_t bit = 0; bit < 8 * 1024; bit++) {
        page[bit / 8] = (uint8_t)(1u << bit % 8);
        CHECK(sf_sum_page(key, page, 1024) != 0);
        page[bit / 8] = 0;
    }
    free(page);
    free(key);
}

static void test_differences(void)
{
    struct dice dice = {4};
    struct sf_table *left = NULL;
    struct sf_table *right = NULL;
    struct sf_err err;

    CHECK_OK(sf_table_new(300, &left, &err), &err);
    CHECK_OK(sf_table_new(200, &right, &err), &err);
    for (unsigned round = 0; round < 50; round++) {
        uint64_t nonzero = 0;
        uint64_t found[300];
        for (unsigned i = 0; i < 300; i++) {
            const uint64_t value = below(&dice, 2 + round % 9) ? 7 : 0;
            sf_table_entries(left)[i] = value;
            nonzero += value != 0;
        }
        CHECK_EQ(sf_table_nonzero(left, NULL), nonzero);
        CHECK_EQ(sf_table_nonzero(left, found), nonzero);
        for (uint64_t i = 0; i < nonzero; i++) {
            CHECK_EQ(found[i], 7);
        }
        for (uint64_t from = 0; from < 203; from++) {
            struct sf_run run = {0, 0};
            uint64_t first = from;
            while (first < 200 && sf_table_entries(left)[first] == 0) {
                first++;
            }
            uint64_t end = first;
            while (end < 200 && sf_table_entries(left)[end] != 0) {
                end++;
            }
            CHECK_EQ(sf_table_next_difference(left, right, from, &run), end > first);
            CHECK(end <= first || (run.first == first && run.count == end - first));
        }
    }
    sf_table_free(left);
    sf_table_free(right);
}

static void test_table_sizes(void)
{
    struct sf_table *table = NULL;
    struct sf_err err;
    const struct leftovers before = look_around();

    CHECK_OK(sf_table_new(0, &table, &err), &err);
    CHECK_EQ(sf_table_nonzero(table, NULL), 0);
    sf_table_free(table);
    CHECK_OK(sf_table_new(1u << 27, &table, &err), &err);
    sf_table_entries(table)[(1u << 27) - 1] = 5;
    CHECK_EQ(sf_table_entries(table)[0], 0);
    sf_table_free(table);
    table = NULL;
    CHECK_EQ(sf_table_new((UINT64_C(1) << 44) + 1, &table, &err), SF_E_RANGE);
    CHECK(table == NULL);
    sf_table_free(NULL);
    check_clean(&before);
}

static enum sf_status make_table(void *context, struct sf_err *err)
{
    struct sf_table *table = NULL;
    const enum sf_status status = sf_table_new(100, &table, err);
    (void)context;
    CHECK((status == SF_OK) == (table != NULL));
    sf_table_free(table);
    return status;
}

int main(void)
{
    test_sums_of_all_page_sizes();
    test_every_bit_counts();
    test_differences();
    test_table_sizes();
    fail_each(FAULT_MEMORY, ENOMEM, SF_E_NOMEM, make_table, NULL);
    return 0;
}
