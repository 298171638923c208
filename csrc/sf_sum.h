/* One 64-bit number a page: tables of them, and the page sum.
 *
 * The sum is a universal hash: for any two different pages, over the choice of the key,
 * the chance of equal sums is below 2^-60.  A random key therefore compares two images
 * safely even when somebody made them to be confused; a fixed key gives a reproducible
 * number.  Zero pages, and only they, have sum 0. */
#ifndef SF_SUM_H
#define SF_SUM_H

#include "sf_err.h"
#include "sf_page.h"

struct sf_table;

/* COUNT zeros, of which only touched stretches take memory. */
enum sf_status sf_table_new(uint64_t count, struct sf_table **out, struct sf_err *err);
void sf_table_free(struct sf_table *table);
uint64_t *sf_table_entries(struct sf_table *table);
/* The first run of entries at or after FROM that differ; false if none differ. */
bool sf_table_next_difference(const struct sf_table *left, const struct sf_table *right,
                              uint64_t from, struct sf_run *run);
/* Count the numbers that are not zero, and copy them to OUT unless that is NULL. */
uint64_t sf_table_nonzero(const struct sf_table *table, uint64_t *out);

/* Words of key that a page of PAGE_SIZE bytes needs. */
#define SF_SUM_KEY_WORDS(page_size) ((page_size) / 8u + 4u)
uint64_t sf_sum_page(const uint64_t *key, const uint8_t *page, uint32_t page_size);

#endif
