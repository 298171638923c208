/* Page predicates. */
#include "sf_page.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define HAVE_AVX2 1
#endif

/* A buffer is zero when its first word is and every byte equals its neighbour one
 * word on: the C library's memcmp is vectorised everywhere. */
static bool is_zero_portable(const uint8_t *p, size_t len)
{
    static const uint8_t zeros[16];

    if (len < sizeof zeros) {
        return memcmp(p, zeros, len) == 0;
    }
    return memcmp(p, zeros, sizeof zeros) == 0 &&
           memcmp(p, p + sizeof zeros, len - sizeof zeros) == 0;
}

#ifdef HAVE_AVX2
__attribute__((target("avx2"))) static bool is_zero_avx2(const uint8_t *p, size_t len)
{
    size_t at = 0;

    for (; at + 128 <= len; at += 128) {
        const __m256i *v = (const __m256i *)(const void *)(p + at);
        __m256i any = _mm256_or_si256(
            _mm256_or_si256(_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)),
            _mm256_or_si256(_mm256_loadu_si256(v + 2), _mm256_loadu_si256(v + 3)));
        if (!_mm256_testz_si256(any, any)) {
            return false;
        }
    }
    return at == len || is_zero_portable(p + at, len - at);
}
#endif

bool sf_page_is_zero(const void *p, size_t len)
{
#ifdef HAVE_AVX2
    if (__builtin_cpu_supports("avx2")) {
        return is_zero_avx2(p, len);
    }
#endif
    return is_zero_portable(p, len);
}

/* 64 bits of the bitmap from page FROM (a multiple of 8) on, absent ones clear. */
static uint64_t load_bits(const uint8_t *bitmap, uint64_t npages, uint64_t from)
{
    const uint64_t nbytes = (npages + 7) / 8 - from / 8;
    uint64_t bits = 0;

    memcpy(&bits, bitmap + from / 8, (size_t)sf_min(nbytes, 8));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    bits = __builtin_bswap64(bits);
#endif
    if (npages - from < 64) {
        bits &= (UINT64_C(1) << (npages - from)) - 1;
    }
    return bits;
}

/* First page at or after FROM whose bit equals VALUE, else NPAGES. */
static uint64_t find_bit(const uint8_t *bitmap, uint64_t npages, uint64_t from,
                         bool value)
{
    uint64_t base = sf_align_down(from, 8);
    uint64_t skip = from - base;

    while (base < npages) {
        uint64_t bits = load_bits(bitmap, npages, base);
        if (!value) {
            bits = ~bits;
        }
        bits = bits >> skip << skip;
        if (bits != 0) {
            return sf_min(base + (uint64_t)__builtin_ctzll(bits), npages);
        }
        base += 64;
        skip = 0;
    }
    return npages;
}

bool sf_page_next_run(const uint8_t *bitmap, uint64_t npages, uint64_t from,
                      struct sf_run *run)
{
    const uint64_t first =
        from < npages ? find_bit(bitmap, npages, from, true) : npages;

    if (first >= npages) {
        return false;
    }
    run->first = first;
    run->count = find_bit(bitmap, npages, first, false) - first;
    return true;
}

uint64_t sf_page_count(const uint8_t *bitmap, uint64_t first, uint64_t count)
{
    const uint64_t end = first + count;
    uint64_t total = 0;
    uint64_t base = sf_align_down(first, 8);
    uint64_t skip = first - base;

    for (; base < end; base += 64, skip = 0) {
        const uint64_t bits = load_bits(bitmap, end, base) >> skip;
        total += (uint64_t)__builtin_popcountll(bits);
    }
    return total;
}
