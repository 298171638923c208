/* Jobs over the pages of a mapped-ram file. */
#include "sf_move.h"

#include "sf_buffer.h"

#include <stdlib.h>
#include <string.h>

/* From here on windows begin with a byte of the bitmap, for every page size. */
#define WHOLE_BYTES (8u * SF_MAX_PAGE)

/* What one worker does at a time. */
struct item {
    uint64_t first;
    uint32_t block;
    uint32_t count; /* pages: a window of them, or more where few are present */
};

struct plan {
    struct sf_move move;
    struct item *items;
    uint64_t nitems;
    uint64_t room;
    uint64_t span;  /* bytes of guest memory that an item takes at most */
    uint64_t total; /* bytes of all present pages */
};

static void sum_pages(const struct sf_move *move, const struct item *item,
                      const uint8_t *buf)
{
    const struct sf_pages *pages = &move->from[item->block];
    uint64_t *entries = sf_table_entries(move->sums[item->block]);
    const uint64_t end = item->first + item->count;
    struct sf_run run = {item->first, 0};

    while (sf_page_next_run(pages->bitmap, end, run.first + run.count, &run)) {
        for (uint64_t page = run.first; page < run.first + run.count; page++) {
            const uint8_t *at = buf + (page - item->first) * pages->page_size;
            const uint64_t sum = sf_sum_page(move->key, at, pages->page_size);
            if (sum != 0) { /* writing zeros would only touch memory */
                entries[page] = sum;
            }
        }
    }
}

/* Set in BITS what is written, and show it to the watch: present pages that contain
 * only zeros may stay holes. */
static void choose_pages(const struct sf_move *move, const struct item *item,
                         uint64_t offset, const uint8_t *buf, uint8_t *bits)
{
    const struct sf_pages *pages = &move->from[item->block];
    const uint32_t size = pages->page_size;
    struct sf_run run = {0, 0};

    memcpy(bits, pages->bitmap + item->first / 8, (item->count + 7) / 8);
    while (sf_page_next_run(bits, item->count, run.first + run.count, &run)) {
        for (uint64_t i = run.first; i < run.first + run.count; i++) {
            if (sf_page_is_zero(buf + i * size, size)) {
                sf_bit_clear(bits, i);
            } else if (move->watch != NULL) {
                sf_watch_page(move->watch, buf + i * size, offset + i * size);
            }
        }
    }
}

static enum sf_status move_item(void *context, uint64_t number, uint8_t *buffer,
                                uint64_t *worth, struct sf_err *err)
{
    const struct plan *plan = context;
    const struct sf_move *move = &plan->move;
    const struct item *item = &plan->items[number];
    const struct sf_pages *pages = &move->from[item->block];
    const uint64_t length = (uint64_t)item->count * pages->page_size;
    enum sf_status status;

    if (length > move->window) {
        sf_buffer_thin(buffer, (size_t)length);
    }
    status = sf_pages_fetch(move->source, pages, item->first, item->count, buffer, err);
    if (status == SF_OK && move->sums != NULL) {
        sum_pages(move, item, buffer);
    }
    if (status == SF_OK && (move->target != NULL || move->watch != NULL)) {
        uint8_t *bits = buffer + plan->span;
        const uint64_t offset =
            move->target_offsets[item->block] + item->first * pages->page_size;
        choose_pages(move, item, offset, buffer, bits);
        if (move->target != NULL) {
            status = sf_pages_write(move->target, offset, pages->page_size, item->count,
                                    bits, NULL, buffer, err);
        }
    }
    if (length > move->window) {
        sf_buffer_drop(buffer, (size_t)length);
    }
    *worth = sf_page_count(pages->bitmap, item->first, item->count) * pages->page_size;
    return status;
}

static void destroy_plan(void *context)
{
    struct plan *plan = context;
    sf_file_release(plan->move.source);
    sf_file_release(plan->move.target);
    free(plan->items);
    free(plan);
}

static enum sf_status add_item(struct plan *plan, struct item item, struct sf_err *err)
{
    if (plan->nitems == plan->room) {
        const uint64_t room = plan->room != 0 ? 2 * plan->room : 64;
        struct item *items = realloc(plan->items, (size_t)room * sizeof *items);
        if (items == NULL) {
            return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "plan");
        }
        plan->items = items;
        plan->room = room;
    }
    plan->items[plan->nitems++] = item;
    return SF_OK;
}

static enum sf_status plan_block(struct plan *plan, uint32_t block, struct sf_err *err)
{
    const struct sf_pages *pages = &plan->move.from[block];
    const uint64_t step = plan->move.window / pages->page_size;
    const uint64_t limit = plan->span / pages->page_size;
    enum sf_status status = SF_OK;

    for (uint64_t first = 0; status == SF_OK && first < pages->count;) {
        const uint64_t count = sf_pages_span(pages, first, step, step, limit);
        const uint64_t present = sf_page_count(pages->bitmap, first, count);
        if (present != 0) {
            status = add_item(plan, (struct item){first, block, (uint32_t)count}, err);
        }
        plan->total += present * pages->page_size;
        first += count;
    }
    return status;
}

/* Windows whose pages begin within a byte of the bitmap are for reading alone. */
static bool suits(const struct sf_move *move)
{
    if (!sf_is_power_of_2(move->window)) {
        return false;
    }
    if (move->window >= WHOLE_BYTES) {
        return true;
    }
    for (uint32_t i = 0; i < move->nblocks; i++) {
        if (move->window < move->from[i].page_size) {
            return false;
        }
    }
    return move->target == NULL && move->watch == NULL;
}

enum sf_status sf_move_start(const struct sf_move *move, struct sf_job **out,
                             struct sf_err *err)
{
    if (!suits(move)) {
        return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "window of %llu bytes",
                          (unsigned long long)move->window);
    }
    struct plan *plan = calloc(1, sizeof *plan);
    if (plan == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "plan");
    }
    enum sf_status status = sf_file_acquire_both(move->source, move->target, err);
    if (status != SF_OK) {
        free(plan);
        return status;
    }
    plan->move = *move;
    /* Who asks for less wants requests of that size, not many at once. */
    plan->span = move->window < WHOLE_BYTES ? move->window : sf_span_room(move->window);
    for (uint32_t i = 0; i < move->nblocks && status == SF_OK; i++) {
        status = plan_block(plan, i, err);
    }
    if (status != SF_OK) {
        destroy_plan(plan);
        return status;
    }
    /* Behind the pages: one bit a page, of the smallest page size. */
    const struct sf_job_ops ops = {move_item, destroy_plan,
                                   (size_t)(plan->span + plan->span / SF_MIN_PAGE / 8)};
    return sf_job_start(&ops, plan, plan->nitems, plan->total, move->nthreads, out,
                        err);
}
