/* Patterns, texts and what pages are like, in any bytes, against plain loops.
 *
 * Input: length of the pattern, its anchors, the room for hits, the start, the least
 * text; then pattern, mask and data. */
#include "fuzz.h"
#include "sf_census.h"
#include "sf_find.h"
#include "sf_text.h"

#define HEAD 8u
#define MAX_HITS 5u
#define PAGE 512u
#define MAX_PAGES 64u

static bool slow_match(const struct sf_pattern *pattern, const uint8_t *data)
{
    for (size_t i = 0; i < pattern->length; i++) {
        if (((data[i] ^ pattern->value[i]) & pattern->mask[i]) != 0) {
            return false;
        }
    }
    return true;
}

/* The first match at or after AT; LEN when there is none. */
static size_t slow_find(const struct sf_pattern *pattern, const uint8_t *data,
                        size_t len, size_t at)
{
    while (at + pattern->length <= len && !slow_match(pattern, data + at)) {
        at++;
    }
    return at + pattern->length <= len ? at : len;
}

static void check_find(const struct sf_pattern *pattern, const uint8_t *data,
                       size_t len, size_t from, size_t cap)
{
    uint64_t hits[MAX_HITS];
    size_t next = from;
    size_t expected = slow_find(pattern, data, len, from);

    while (next < len) {
        const size_t before = next;
        const size_t count = sf_find(pattern, data, len, next, hits, cap, &next);
        CHECK(count <= cap && (next > before || count != 0));
        for (size_t i = 0; i < count; i++) {
            CHECK(hits[i] == expected);
            expected = slow_find(pattern, data, len, expected + 1);
        }
    }
    CHECK(next == len && expected == len);
}

static void check_text(const uint8_t *data, size_t len, enum sf_text_encoding encoding,
                       size_t least, size_t cap)
{
    const size_t width = encoding == SF_TEXT_ASCII ? 1 : 2;
    uint8_t *text = fuzz_copy(data, len / width * width);
    uint64_t runs[MAX_HITS][2];
    size_t next = 0;
    uint64_t end = 0;

    len = len / width * width;
    while (next < len) {
        const size_t before = next;
        const size_t count =
            sf_text_runs(text, len, encoding, least, next, runs, cap, &next);
        CHECK(count <= cap && next > before && next <= len);
        for (size_t i = 0; i < count; i++) {
            CHECK(runs[i][0] >= end && runs[i][1] != 0 && runs[i][1] % width == 0);
            end = runs[i][0] + runs[i][1];
            CHECK(end <= len);
            CHECK(runs[i][1] >= least * width || runs[i][0] == 0 || end == len);
        }
    }
    free(text);
}

static void check_census(const uint8_t *data, size_t len)
{
    const size_t pages = sf_min(len / PAGE, MAX_PAGES);
    const size_t count = len / sizeof(uint64_t);
    uint64_t *sums = (uint64_t *)(void *)fuzz_copy(data, count * sizeof(uint64_t));
    uint8_t entropy[MAX_PAGES];
    uint64_t distinct;
    uint64_t unique;
    uint64_t first = 0;
    uint64_t once = 0;

    for (size_t i = 0; i < count; i++) {
        size_t before = 0;
        size_t same = 0;
        for (size_t k = 0; k < count && sums[i] != 0; k++) {
            same += sums[k] == sums[i];
            before += k < i && sums[k] == sums[i];
        }
        first += same != 0 && before == 0;
        once += same == 1;
    }
    sf_census_distinct(sums, count, &distinct, &unique);
    CHECK(distinct == first && unique == once);
    sf_census_entropy(data, PAGE, pages, entropy);
    for (size_t i = 0; i < pages; i++) {
        CHECK(entropy[i] <= 248);
    }
    free(sums);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEAD) {
        return 0;
    }
    const size_t length = 1 + data[0] % 12u;
    if (size < HEAD + 2 * length) {
        return 0;
    }
    const size_t len = sf_min(size - HEAD - 2 * length, 4096);
    uint8_t *value = fuzz_copy(data + HEAD, length);
    uint8_t *mask = fuzz_copy(data + HEAD + length, length);
    uint8_t *all = fuzz_copy(data + HEAD + 2 * length, len);
    const struct sf_pattern pattern = {
        value, mask, length, {data[1] % length, data[2] % length}};
    const size_t cap = 1 + data[3] % MAX_HITS;

    check_find(&pattern, all, len, data[4] % (len + 1), cap);
    check_text(all, len, SF_TEXT_ASCII, 1 + data[5] % 6u, cap);
    check_text(all, len, SF_TEXT_UTF16LE, 1 + data[5] % 6u, cap);
    check_text(all, len, SF_TEXT_UTF16BE, 1 + data[5] % 6u, cap);
    check_census(all, len);
    free(value);
    free(mask);
    free(all);
    return 0;
}
