/* Mapped-ram pages as sequential page records. */
#include "sf_emit.h"

#include "sf_buffer.h"

#include <stdlib.h>
#include <string.h>

#define FLAG_ZERO 0x02u
#define FLAG_PAGE 0x08u
#define FLAG_CONTINUE 0x20u
#define WORD_LENGTH 8u
#define ZERO_RECORD (WORD_LENGTH + 1u)

/* Guest memory that is looked at for pages to fetch together. */
#define STEP_LENGTH (256u << 10)

/* Pages between two entries of a block's rank table. */
#define RANK_STEP 4096u

struct block {
    struct sf_emit_block emit;
    uint64_t start;  /* of its first record, relative to all records */
    uint64_t length; /* of all its records */
    uint64_t *ranks; /* present pages before page i * RANK_STEP */
};

struct sf_emit {
    struct sf_file *source;
    struct sf_table **sums;
    const uint64_t *key;
    struct block *blocks;
    uint32_t nblocks;
    uint64_t length;
};

/* Offset of page PAGE's record inside its block, PRESENT pages lying before it. */
static uint64_t record_offset(const struct block *block, uint64_t page,
                              uint64_t present)
{
    const uint64_t name = page != 0 ? 1u + block->emit.name_length : 0;
    return name + page * ZERO_RECORD + present * (block->emit.pages.page_size - 1);
}

static enum sf_status rank_block(struct block *block, struct sf_err *err)
{
    const struct sf_pages *pages = &block->emit.pages;
    const uint64_t nranks = pages->count / RANK_STEP + 1;
    uint64_t present = 0;

    block->ranks = calloc((size_t)nranks, sizeof *block->ranks);
    if (block->ranks == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "rank table");
    }
    for (uint64_t i = 0; i < nranks; i++) {
        const uint64_t first = i * RANK_STEP;
        block->ranks[i] = present;
        present += sf_page_count(pages->bitmap, first,
                                 sf_min(RANK_STEP, pages->count - first));
    }
    block->length = pages->count != 0 ? record_offset(block, pages->count, present) : 0;
    return SF_OK;
}

enum sf_status sf_emit_new(struct sf_file *source, const struct sf_emit_block *blocks,
                           uint32_t nblocks, struct sf_table **sums,
                           const uint64_t *key, struct sf_emit **out,
                           struct sf_err *err)
{
    struct sf_emit *emit = calloc(1, sizeof *emit);
    if (emit == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "emitter");
    }
    emit->source = source;
    emit->sums = sums;
    emit->key = key;
    emit->nblocks = nblocks;
    emit->blocks = calloc(nblocks ? nblocks : 1, sizeof *emit->blocks);
    if (emit->blocks == NULL) {
        sf_emit_free(emit);
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "emitter");
    }
    for (uint32_t i = 0; i < nblocks; i++) {
        struct block *block = &emit->blocks[i];
        block->emit = blocks[i];
        block->start = emit->length;
        const enum sf_status status =
            blocks[i].name_length > 255
                ? sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "block name too long")
                : rank_block(block, err);
        if (status != SF_OK) {
            sf_emit_free(emit);
            return status;
        }
        emit->length += block->length;
    }
    *out = emit;
    return SF_OK;
}

void sf_emit_free(struct sf_emit *emit)
{
    if (emit == NULL) {
        return;
    }
    for (uint32_t i = 0; emit->blocks != NULL && i < emit->nblocks; i++) {
        free(emit->blocks[i].ranks);
    }
    free(emit->blocks);
    free(emit);
}

uint64_t sf_emit_length(const struct sf_emit *emit)
{
    return emit->length;
}

/* The block whose records hold offset AT (which is inside all records). */
static uint32_t find_block(const struct sf_emit *emit, uint64_t at)
{
    uint32_t i = 0;
    while (at >= emit->blocks[i].start + emit->blocks[i].length) {
        i++;
    }
    return i;
}

/* The page whose record holds offset AT of its block; *OFFSET is where that begins. */
static uint64_t find_page(const struct block *block, uint64_t at, uint64_t *offset)
{
    const struct sf_pages *pages = &block->emit.pages;
    uint64_t low = 0;
    uint64_t high = pages->count / RANK_STEP + 1;

    while (high - low > 1) {
        const uint64_t middle = low + (high - low) / 2;
        if (record_offset(block, middle * RANK_STEP, block->ranks[middle]) <= at) {
            low = middle;
        } else {
            high = middle;
        }
    }
    uint64_t page = low * RANK_STEP;
    uint64_t present = block->ranks[low];
    *offset = record_offset(block, page, present);
    while (page + 1 < pages->count) {
        present += sf_bit_test(pages->bitmap, page);
        const uint64_t next = record_offset(block, page + 1, present);
        if (next > at) {
            break;
        }
        *offset = next;
        page++;
    }
    return page;
}

/* Output between FROM and UNTIL (relative to all records) under construction. */
struct span {
    uint8_t *out;
    uint64_t from;
    uint64_t until;
    uint8_t *scratch; /* for pages, */
    uint64_t room;    /* so many bytes, */
    uint64_t window;  /* of which this many may stay in memory */
};

/* Put LEN bytes that belong at AT, as far as they lie in the span. */
static void put(const struct span *span, uint64_t at, const uint8_t *bytes,
                uint64_t len)
{
    const uint64_t first = sf_max(at, span->from);
    const uint64_t end = sf_min(at + len, span->until);
    if (first < end) {
        memcpy(span->out + (first - span->from), bytes + (first - at),
               (size_t)(end - first));
    }
}

/* Put the record of page PAGE that belongs at AT and return where the next belongs. */
static uint64_t put_record(const struct span *span, const struct block *block,
                           uint64_t page, uint64_t at, const uint8_t *data)
{
    const uint32_t page_size = block->emit.pages.page_size;
    uint8_t head[WORD_LENGTH + 256];
    size_t length = WORD_LENGTH;
    uint64_t flags = data != NULL ? FLAG_PAGE : FLAG_ZERO;

    if (page == 0) {
        head[length++] = (uint8_t)block->emit.name_length;
        memcpy(head + length, block->emit.name, block->emit.name_length);
        length += block->emit.name_length;
    } else {
        flags |= FLAG_CONTINUE;
    }
    sf_put_be64(head, page * page_size | flags);
    if (data == NULL) {
        static const uint8_t fill;
        put(span, at, head, length);
        put(span, at + length, &fill, 1);
        return at + length + 1;
    }
    put(span, at, head, length);
    put(span, at + length, data, page_size);
    return at + length + page_size;
}

static void sum_page(const struct sf_emit *emit, uint32_t number, uint64_t page,
                     const uint8_t *data)
{
    const uint64_t sum =
        sf_sum_page(emit->key, data, emit->blocks[number].emit.pages.page_size);
    if (sum != 0) {
        sf_table_entries(emit->sums[number])[page] = sum;
    }
}

/* How many pages from PAGE on to fetch at a time: only as many as fit into LEFT bytes
 * of output, since others would be read for nothing. */
static uint64_t pages_ahead(const struct span *span, const struct sf_pages *pages,
                            uint64_t page, uint64_t left)
{
    const uint64_t step = STEP_LENGTH / pages->page_size;
    const uint64_t room = left / pages->page_size + 1;
    const uint64_t limit =
        sf_min(span->room / pages->page_size, left / ZERO_RECORD + 1);
    const uint64_t count = sf_pages_span(pages, page, step, room, limit);

    return count > step ? count : sf_min(count, 4 * room);
}

/* Put the records of COUNT pages from *PAGE on, the first of them at *AT. */
static enum sf_status put_pages(const struct sf_emit *emit, uint32_t number,
                                const struct span *span, uint64_t *page, uint64_t count,
                                uint64_t *at, struct sf_err *err)
{
    const struct block *block = &emit->blocks[number];
    const struct sf_pages *pages = &block->emit.pages;
    const size_t length = (size_t)(count * pages->page_size);
    const uint64_t first = *page;
    enum sf_status status;

    if (length > span->window) {
        sf_buffer_thin(span->scratch, length);
    }
    status = sf_pages_fetch(emit->source, pages, first, count, span->scratch, err);
    for (uint64_t i = 0; status == SF_OK && i < count && *at < span->until; i++) {
        const uint8_t *data = sf_bit_test(pages->bitmap, first + i)
                                  ? span->scratch + i * pages->page_size
                                  : NULL;
        /* A page cut by the window border is summed by the window it begins in. */
        if (emit->sums != NULL && data != NULL && *at >= span->from) {
            sum_page(emit, number, first + i, data);
        }
        *at = put_record(span, block, first + i, *at, data);
        *page = first + i + 1;
    }
    if (length > span->window) {
        sf_buffer_drop(span->scratch, length);
    }
    return status;
}

/* Build the part of the span that block NUMBER gives, from offset *AT on. */
static enum sf_status build_block(const struct sf_emit *emit, uint32_t number,
                                  const struct span *span, uint64_t *at,
                                  struct sf_err *err)
{
    const struct block *block = &emit->blocks[number];
    const struct sf_pages *pages = &block->emit.pages;
    enum sf_status status = SF_OK;
    uint64_t offset;
    uint64_t page = find_page(block, *at - block->start, &offset);

    offset += block->start;
    while (status == SF_OK && page < pages->count && offset < span->until) {
        const uint64_t count = pages_ahead(span, pages, page, span->until - offset);
        status = put_pages(emit, number, span, &page, count, &offset, err);
    }
    *at = offset;
    return status;
}

static enum sf_status build_span(const struct sf_emit *emit, const struct span *span,
                                 struct sf_err *err)
{
    uint64_t at = span->from;

    for (uint32_t i = find_block(emit, at); i < emit->nblocks && at < span->until;
         i++) {
        if (emit->blocks[i].length == 0) {
            continue;
        }
        const enum sf_status status = build_block(emit, i, span, &at, err);
        if (status != SF_OK) {
            return status;
        }
    }
    return SF_OK;
}

/* --- the two ways out: a file at known places, or windows in order --- */

struct output {
    struct sf_emit *emit;
    struct sf_file *source; /* held, */
    struct sf_file *target; /* both */
    uint64_t offset;        /* of the first record in the target */
    uint64_t window;
    uint64_t room; /* for pages */
};

static uint64_t count_windows(const struct output *output)
{
    const uint64_t base = sf_align_down(output->offset, output->window);
    const uint64_t end = output->offset + output->emit->length;
    return output->emit->length ? (end - base + output->window - 1) / output->window
                                : 0;
}

/* Build output window NUMBER; *START is its first byte's place inside the window. */
static enum sf_status build_window(const struct output *output, uint64_t number,
                                   uint8_t *buffer, uint8_t *scratch, size_t *start,
                                   size_t *len, struct sf_err *err)
{
    const uint64_t base =
        sf_align_down(output->offset, output->window) + number * output->window;
    const uint64_t first = sf_max(base, output->offset);
    const uint64_t end =
        sf_min(base + output->window, output->offset + output->emit->length);
    const struct span span = {buffer + (first - base),
                              first - output->offset,
                              end - output->offset,
                              scratch,
                              output->room,
                              output->window};

    *start = (size_t)(first - base);
    *len = (size_t)(end - first);
    return build_span(output->emit, &span, err);
}

static enum sf_status write_window(void *context, uint64_t item, uint8_t *buffer,
                                   uint64_t *worth, struct sf_err *err)
{
    const struct output *output = context;
    size_t start = 0;
    size_t len = 0;
    enum sf_status status =
        build_window(output, item, buffer, buffer + output->window, &start, &len, err);
    if (status == SF_OK) {
        const uint64_t base = sf_align_down(output->offset, output->window);
        const struct sf_piece piece = {buffer + start, len,
                                       base + item * output->window + start};
        status = sf_file_write_pieces(output->target, &piece, 1, err);
    }
    *worth = len;
    return status;
}

static enum sf_status fill_window(void *context, uint64_t number, uint8_t *buffer,
                                  uint8_t *scratch, size_t *start, size_t *len,
                                  struct sf_err *err)
{
    return build_window(context, number, buffer, scratch, start, len, err);
}

static void destroy_output(void *context)
{
    struct output *output = context;

    sf_file_release(output->source);
    sf_file_release(output->target);
    free(output);
}

static struct output *new_output(struct sf_emit *emit, struct sf_file *target,
                                 uint64_t offset, size_t window, struct sf_err *err)
{
    if (!sf_is_power_of_2(window) || window < 8u * SF_MAX_PAGE) {
        (void)sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "window of %zu bytes", window);
        return NULL;
    }
    struct output *output = calloc(1, sizeof *output);
    if (output == NULL) {
        (void)sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "output");
        return NULL;
    }
    if (sf_file_acquire_both(emit->source, target, err) != SF_OK) {
        free(output);
        return NULL;
    }
    *output = (struct output){emit,   emit->source, target,
                              offset, window,       sf_span_room(window)};
    return output;
}

enum sf_status sf_emit_write_start(struct sf_emit *emit, struct sf_file *target,
                                   uint64_t offset, size_t window, unsigned nthreads,
                                   struct sf_job **out, struct sf_err *err)
{
    struct output *output = new_output(emit, target, offset, window, err);

    if (output == NULL) {
        return err->status;
    }
    const struct sf_job_ops ops = {write_window, destroy_output,
                                   window + (size_t)output->room};
    return sf_job_start(&ops, output, count_windows(output), emit->length, nthreads,
                        out, err);
}

enum sf_status sf_emit_ring_start(struct sf_emit *emit, size_t window,
                                  unsigned nthreads, struct sf_ring **out,
                                  struct sf_err *err)
{
    struct output *output = new_output(emit, NULL, 0, window, err);

    if (output == NULL) {
        return err->status;
    }
    const struct sf_ring_ops ops = {fill_window, destroy_output, window,
                                    (size_t)output->room};
    return sf_ring_start(&ops, output, count_windows(output), nthreads, out, err);
}
