/* Jobs over the pages of a mapped-ram file. */
#include "sf_move.h"

#include <stdlib.h>
#include <string.h>

struct plan {
    struct sf_move move;
    uint64_t *first_item; /* of each block, and one past the last */
};

static uint64_t window_pages(const struct sf_move *move, uint32_t block)
{
    return move->window / move->from[block].page_size;
}

static uint32_t block_of_item(const struct plan *plan, uint64_t item)
{
    uint32_t low = 0;
    uint32_t high = plan->move.nblocks;

    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (plan->first_item[middle] <= item) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

static void sum_pages(const struct sf_move *move, uint32_t block, uint64_t first,
                      uint64_t count, const uint8_t *buf)
{
    const struct sf_pages *pages = &move->from[block];
    uint64_t *entries = sf_table_entries(move->sums[block]);

    for (uint64_t i = 0; i < count; i++) {
        if (sf_bit_test(pages->bitmap, first + i)) {
            const uint64_t sum =
                sf_sum_page(move->key, buf + i * pages->page_size, pages->page_size);
            if (sum != 0) { /* writing zeros would only touch memory */
                entries[first + i] = sum;
            }
        }
    }
}

static void watch_pages(const struct sf_move *move, const struct sf_pages *pages,
                        uint64_t offset, uint64_t count, const uint8_t *buf,
                        const uint8_t *bits)
{
    for (uint64_t i = 0; move->watch != NULL && i < count; i++) {
        if (sf_bit_test(bits, i)) {
            sf_watch_page(move->watch, buf + i * pages->page_size,
                          offset + i * pages->page_size);
        }
    }
}

/* Present pages that are zero all the same may stay holes. */
static void choose_pages(const struct sf_pages *pages, uint64_t first, uint64_t count,
                         const uint8_t *buf, uint8_t *bits)
{
    memcpy(bits, pages->bitmap + first / 8, (size_t)((count + 7) / 8));
    for (uint64_t i = 0; i < count; i++) {
        if (sf_bit_test(bits, i) &&
            sf_page_is_zero(buf + i * pages->page_size, pages->page_size)) {
            sf_bit_clear(bits, i);
        }
    }
}

static enum sf_status move_window(void *context, uint64_t item, uint8_t *buffer,
                                  uint64_t *worth, struct sf_err *err)
{
    const struct plan *plan = context;
    const struct sf_move *move = &plan->move;
    const uint32_t block = block_of_item(plan, item);
    const struct sf_pages *pages = &move->from[block];
    const uint64_t step = window_pages(move, block);
    const uint64_t first = (item - plan->first_item[block]) * step;
    const uint64_t count = sf_min(step, pages->count - first);
    const uint64_t present = sf_page_count(pages->bitmap, first, count);
    enum sf_status status;

    if (present == 0) {
        return SF_OK;
    }
    status = sf_pages_fetch(move->source, pages, first, count, buffer, err);
    if (status == SF_OK && move->sums != NULL) {
        sum_pages(move, block, first, count, buffer);
    }
    if (status == SF_OK && move->target != NULL) {
        uint8_t *bits = buffer + move->window;
        const uint64_t offset = move->target_offsets[block] + first * pages->page_size;
        choose_pages(pages, first, count, buffer, bits);
        watch_pages(move, pages, offset, count, buffer, bits);
        status = sf_pages_write(move->target, offset, pages->page_size, count, bits,
                                NULL, buffer, err);
    }
    *worth = present * pages->page_size;
    return status;
}

static void destroy_plan(void *context)
{
    struct plan *plan = context;
    free(plan->first_item);
    free(plan);
}

enum sf_status sf_move_start(const struct sf_move *move, struct sf_job **out,
                             struct sf_err *err)
{
    uint64_t total = 0;

    if (!sf_is_power_of_2(move->window) || move->window < 8u * SF_MAX_PAGE) {
        return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "window of %llu bytes",
                          (unsigned long long)move->window);
    }
    struct plan *plan = calloc(1, sizeof *plan);
    if (plan == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "plan");
    }
    plan->move = *move;
    plan->first_item = calloc((size_t)move->nblocks + 1, sizeof *plan->first_item);
    if (plan->first_item == NULL) {
        free(plan);
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "plan");
    }
    for (uint32_t i = 0; i < move->nblocks; i++) {
        const uint64_t step = window_pages(move, i);
        plan->first_item[i + 1] =
            plan->first_item[i] + (move->from[i].count + step - 1) / step;
        total += sf_page_count(move->from[i].bitmap, 0, move->from[i].count) *
                 move->from[i].page_size;
    }
    /* Behind the pages: one bit a page, of the smallest page size. */
    const struct sf_job_ops ops = {move_window, destroy_plan,
                                   (size_t)(move->window + move->window / SF_MIN_PAGE)};
    return sf_job_start(&ops, plan, plan->first_item[move->nblocks], total,
                        move->nthreads, out, err);
}
