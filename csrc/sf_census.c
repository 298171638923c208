/* What pages are like: their entropy, and how many are alike. */
#include "sf_census.h"

#include <string.h>

#define UNITS_A_BIT 31.0

/* log2 to some 1e-4, which is far below the unit we report in; X > 0.  Saves the maths
 * library. */
static double log2_of(double x)
{
    uint64_t bits;
    double mantissa;

    memcpy(&bits, &x, sizeof bits);
    const double exponent = (double)((int)(bits >> 52) - 1023);
    bits = (bits & ((UINT64_C(1) << 52) - 1)) | UINT64_C(1023) << 52;
    memcpy(&mantissa, &bits, sizeof mantissa);
    /* log2(m) = 2 / ln 2 * artanh((m - 1) / (m + 1)), with 1 <= m < 2. */
    const double t = (mantissa - 1) / (mantissa + 1);
    const double square = t * t;
    const double series =
        t * (1 + square * (1.0 / 3 + square * (1.0 / 5 + square * (1.0 / 7))));
    return exponent + series * 2.8853900817779268;
}

/* Four histograms: neighbours that are equal do not wait for each other. */
static double entropy(const uint8_t *page, size_t length)
{
    uint32_t counts[4][256] = {{0}};
    double sum = 0;

    for (size_t i = 0; i + 4 <= length; i += 4) {
        counts[0][page[i]]++;
        counts[1][page[i + 1]]++;
        counts[2][page[i + 2]]++;
        counts[3][page[i + 3]]++;
    }
    for (unsigned i = 0; i < 256; i++) {
        const double n =
            (double)(counts[0][i] + counts[1][i] + counts[2][i] + counts[3][i]);
        if (n > 0) {
            sum += n * log2_of((double)length / n);
        }
    }
    return sum / (double)length;
}

void sf_census_entropy(const uint8_t *data, size_t page_size, size_t count,
                       uint8_t *out)
{
    for (size_t i = 0; i < count; i++) {
        out[i] =
            (uint8_t)(entropy(data + i * page_size, page_size) * UNITS_A_BIT + 0.5);
    }
}

static void sift(uint64_t *heap, size_t at, size_t count)
{
    const uint64_t value = heap[at];

    for (size_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && heap[child] < heap[child + 1]) {
            child++;
        }
        if (heap[child] <= value) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = value;
}

/* Sorts in place for every input: qsort() may take as much memory again. */
static void sort(uint64_t *values, size_t count)
{
    for (size_t i = count / 2; i-- > 0;) {
        sift(values, i, count);
    }
    for (size_t end = count; end-- > 1;) {
        const uint64_t greatest = values[0];
        values[0] = values[end];
        values[end] = greatest;
        sift(values, 0, end);
    }
}

void sf_census_distinct(uint64_t *sums, size_t count, uint64_t *distinct,
                        uint64_t *unique)
{
    *distinct = 0;
    *unique = 0;
    sort(sums, count);
    for (size_t i = 0, end; i < count; i = end) {
        for (end = i + 1; end < count && sums[end] == sums[i]; end++) {
        }
        *distinct += sums[i] != 0;
        *unique += sums[i] != 0 && end == i + 1;
    }
}
