/* Page sums and tables of them. */
#include "sf_sum.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PRIME ((UINT64_C(1) << 61) - 1)

__extension__ typedef unsigned __int128 uint128;

struct sf_table {
    uint64_t *entries;
    uint64_t count;
};

static size_t table_bytes(uint64_t count)
{
    return (size_t)(count ? count : 1) * sizeof(uint64_t);
}

enum sf_status sf_table_new(uint64_t count, struct sf_table **out, struct sf_err *err)
{
    if (count > UINT64_C(1) << 44) {
        return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "table of %llu pages",
                          (unsigned long long)count);
    }
    struct sf_table *table = calloc(1, sizeof *table);
    if (table == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "table");
    }
    /* Not calloc: untouched stretches of a huge guest must cost nothing, and huge
     * pages would make one touched page cost 2 MiB. */
    table->count = count;
    void *p = mmap(NULL, table_bytes(count), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        free(table);
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "table of %llu pages",
                          (unsigned long long)count);
    }
    (void)madvise(p, table_bytes(count), MADV_NOHUGEPAGE);
    table->entries = p;
    *out = table;
    return SF_OK;
}

void sf_table_free(struct sf_table *table)
{
    if (table != NULL) {
        (void)munmap(table->entries, table_bytes(table->count));
        free(table);
    }
}

uint64_t *sf_table_entries(struct sf_table *table)
{
    return table->entries;
}

uint64_t sf_table_nonzero(const struct sf_table *table, uint64_t *out)
{
    uint64_t total = 0;
    for (uint64_t i = 0; i < table->count; i++) {
        if (table->entries[i] != 0) {
            if (out != NULL) {
                out[total] = table->entries[i];
            }
            total++;
        }
    }
    return total;
}

bool sf_table_next_difference(const struct sf_table *left, const struct sf_table *right,
                              uint64_t from, struct sf_run *run)
{
    const uint64_t count = sf_min(left->count, right->count);
    uint64_t at = from;

    while (at < count && left->entries[at] == right->entries[at]) {
        at++;
    }
    if (at >= count) {
        return false;
    }
    run->first = at;
    while (at < count && left->entries[at] != right->entries[at]) {
        at++;
    }
    run->count = at - run->first;
    return true;
}

static uint64_t load64(const uint8_t *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

static uint64_t reduce(uint128 value)
{
    value = (value & PRIME) + (value >> 61);
    value = (value & PRIME) + (value >> 61);
    return (uint64_t)(value >= PRIME ? value - PRIME : value);
}

/* NH (a sum of products of keyed word pairs, 128 bits wide), then a linear hash of its
 * four 32-bit quarters modulo 2^61 - 1. */
uint64_t sf_sum_page(const uint64_t *key, const uint8_t *page, uint32_t page_size)
{
    const uint32_t nwords = page_size / 8;
    const uint64_t *fold = key + nwords;
    uint128 sum = 0;
    uint128 folded = 0;

    if (sf_page_is_zero(page, page_size)) {
        return 0;
    }
    for (uint32_t i = 0; i < nwords; i += 2) {
        const uint64_t a = load64(page + (size_t)i * 8) + key[i];
        const uint64_t b = load64(page + (size_t)i * 8 + 8) + key[i + 1];
        sum += (uint128)a * b;
    }
    for (unsigned i = 0; i < 4; i++) {
        folded += (uint128)(uint32_t)(sum >> (32 * i)) * (fold[i] & PRIME);
    }
    return reduce(folded) + 1;
}
