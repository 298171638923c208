/* Writing made-up pages, with nothing to read that could slow it down. */
#include "sf_fill.h"

#include <stdlib.h>
#include <string.h>

struct fill {
    struct sf_file *file;
    const struct sf_pages *pages;
    uint32_t nblocks;
    uint64_t window;
};

static uint64_t count_items(const struct sf_pages *pages, uint64_t window)
{
    const uint64_t step = window / pages->page_size;
    return (pages->count + step - 1) / step;
}

/* The block of item *ITEM, which becomes the number of its window in that block. */
static const struct sf_pages *find_block(const struct fill *fill, uint64_t *item)
{
    const struct sf_pages *pages = fill->pages;

    for (uint64_t nitems; *item >= (nitems = count_items(pages, fill->window));
         pages++) {
        *item -= nitems;
    }
    return pages;
}

/* Bytes that no compressor below can shrink (xorshift64*), none of the words zero. */
static void make_noise(uint8_t *buf, size_t len, uint64_t state)
{
    for (size_t at = 0; at < len; at += sizeof state) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        const uint64_t word = state * UINT64_C(0x2545f4914f6cdd1d);
        memcpy(buf + at, &word, sizeof word);
    }
}

/* Noise stays from window to window, but where a gap was filled with zeros; the place
 * as its first word makes each page another one. */
static void make_page(uint8_t *page, uint32_t page_size, uint64_t offset)
{
    if (sf_page_is_zero(page + sizeof offset, sizeof offset)) {
        make_noise(page, page_size, offset + 1);
    }
    sf_put_be64(page, offset + 1);
}

static enum sf_status write_window(void *context, uint64_t item, uint8_t *buffer,
                                   uint64_t *worth, struct sf_err *err)
{
    const struct fill *fill = context;
    const struct sf_pages *pages = find_block(fill, &item);
    const uint64_t step = fill->window / pages->page_size;
    const uint64_t first = item * step;
    const uint64_t count = sf_min(step, pages->count - first);
    const uint64_t present = sf_page_count(pages->bitmap, first, count);

    if (present == 0) {
        return SF_OK;
    }
    /* Windows of fewer than 8 pages begin inside a byte, and end in the same one. */
    const uint8_t few = (uint8_t)(pages->bitmap[first / 8] >> first % 8);
    const uint8_t *bits = step < 8 ? &few : pages->bitmap + first / 8;
    for (uint64_t page = first; page < first + count; page++) {
        if (sf_bit_test(pages->bitmap, page)) {
            make_page(buffer + (page - first) * pages->page_size, pages->page_size,
                      pages->offset + page * pages->page_size);
        }
    }
    *worth = present * pages->page_size;
    return sf_pages_write(fill->file, pages->offset + first * pages->page_size,
                          pages->page_size, count, bits, NULL, buffer, err);
}

static void destroy_fill(void *context)
{
    struct fill *fill = context;

    sf_file_release(fill->file);
    free(fill);
}

enum sf_status sf_fill_start(struct sf_file *file, const struct sf_pages *pages,
                             uint32_t nblocks, uint64_t window, unsigned nthreads,
                             struct sf_job **out, struct sf_err *err)
{
    const struct sf_job_ops ops = {write_window, destroy_fill, (size_t)window};
    uint64_t nitems = 0;
    uint64_t total = 0;

    uint64_t least = SF_MIN_PAGE;
    for (uint32_t i = 0; i < nblocks; i++) {
        least = sf_max(least, pages[i].page_size);
    }
    if (!sf_is_power_of_2(window) || window < least) {
        return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "window of %llu bytes",
                          (unsigned long long)window);
    }
    struct fill *fill = calloc(1, sizeof *fill);
    if (fill == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "fill");
    }
    const enum sf_status status = sf_file_acquire(file, err);
    if (status != SF_OK) {
        free(fill);
        return status;
    }
    *fill = (struct fill){file, pages, nblocks, window};
    for (uint32_t i = 0; i < nblocks; i++) {
        nitems += count_items(&pages[i], window);
        total += sf_page_count(pages[i].bitmap, 0, pages[i].count) * pages[i].page_size;
    }
    return sf_job_start(&ops, fill, nitems, total, nthreads, out, err);
}
