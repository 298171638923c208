/* Moving pages between memory and a mapped-ram file. */
#include "sf_pages.h"

#include "sf_buffer.h"

#include <string.h>

/* Reading a gap this small costs less than another request. */
#define READ_GAP 65536u
/* Writing one costs disk space besides: never more than the data take. */
#define WRITE_GAP 4096u

/* Grow RUN over gaps of at most LIMIT pages, up to END; the gaps must be set in ALLOWED
 * when that is given. */
static void merge_runs(const uint8_t *bits, const uint8_t *allowed, uint64_t end,
                       uint64_t limit, struct sf_run *run)
{
    struct sf_run next;

    while (sf_page_next_run(bits, end, run->first + run->count, &next)) {
        const uint64_t gap = next.first - (run->first + run->count);
        if (gap > limit) {
            return;
        }
        if (allowed != NULL &&
            sf_page_count(allowed, run->first + run->count, gap) != gap) {
            return;
        }
        run->count = next.first + next.count - run->first;
    }
}

/* Zero the pages of BUF whose bit is clear; page FIRST of the bitmap is BUF's first. */
static void zero_clear_pages(const uint8_t *bits, uint64_t first, uint64_t count,
                             uint32_t page_size, uint8_t *buf)
{
    uint64_t at = first;
    struct sf_run run;

    while (at < first + count) {
        if (!sf_page_next_run(bits, first + count, at, &run)) {
            run.first = first + count;
            run.count = 0;
        }
        memset(buf + (at - first) * page_size, 0,
               (size_t)((run.first - at) * page_size));
        at = run.first + run.count;
    }
}

/* How many of COUNT pages a fetch brings into memory. */
static uint64_t count_fetched(const struct sf_pages *pages, uint64_t first,
                              uint64_t count)
{
    const uint64_t present = sf_page_count(pages->bitmap, first, count);
    const uint64_t limit = READ_GAP / pages->page_size;
    struct sf_run run = {first, 0};
    uint64_t fetched = 0;

    if (present == 0 || present == count) {
        return present;
    }
    while (
        sf_page_next_run(pages->bitmap, first + count, run.first + run.count, &run)) {
        merge_runs(pages->bitmap, NULL, first + count, limit, &run);
        fetched += run.count;
    }
    return fetched;
}

uint64_t sf_span_room(uint64_t window)
{
    return window < SF_MAX_SPAN && sf_buffer_is_free() ? SF_MAX_SPAN : window;
}

uint64_t sf_pages_span(const struct sf_pages *pages, uint64_t first, uint64_t step,
                       uint64_t room, uint64_t limit)
{
    const uint64_t left = sf_min(pages->count - first, limit);
    uint64_t count = 0;

    while (count < left) {
        const uint64_t more = sf_min(step, left - count);
        const uint64_t fetched = count_fetched(pages, first + count, more);
        if (count != 0 && fetched > room) {
            break;
        }
        room -= sf_min(room, fetched);
        count += more;
    }
    return count;
}

enum sf_status sf_pages_fetch(struct sf_file *file, const struct sf_pages *pages,
                              uint64_t first, uint64_t count, uint8_t *buf,
                              struct sf_err *err)
{
    const uint64_t end = first + count;
    const uint64_t limit = READ_GAP / pages->page_size;
    struct sf_piece pieces[SF_MAX_PIECES];
    unsigned npieces = 0;
    struct sf_run run = {first, 0};
    enum sf_status status = SF_OK;

    while (status == SF_OK &&
           sf_page_next_run(pages->bitmap, end, run.first + run.count, &run)) {
        merge_runs(pages->bitmap, NULL, end, limit, &run);
        pieces[npieces++] =
            (struct sf_piece){buf + (run.first - first) * pages->page_size,
                              (size_t)(run.count * pages->page_size),
                              pages->offset + run.first * pages->page_size};
        if (npieces == SF_MAX_PIECES) {
            status = sf_file_read_pieces(file, pieces, npieces, err);
            npieces = 0;
        }
    }
    if (status == SF_OK && npieces != 0) {
        status = sf_file_read_pieces(file, pieces, npieces, err);
    }
    return status;
}

enum sf_status sf_pages_read(struct sf_file *file, const struct sf_pages *pages,
                             uint64_t first, uint64_t count, uint8_t *buf,
                             struct sf_err *err)
{
    enum sf_status status = sf_file_acquire(file, err);

    if (status != SF_OK) {
        return status;
    }
    status = sf_pages_fetch(file, pages, first, count, buf, err);
    sf_file_release(file);
    if (status == SF_OK) {
        zero_clear_pages(pages->bitmap, first, count, pages->page_size, buf);
    }
    return status;
}

enum sf_status sf_pages_write(struct sf_file *file, uint64_t offset, uint32_t page_size,
                              uint64_t count, const uint8_t *bits,
                              const uint8_t *fillable, uint8_t *buf, struct sf_err *err)
{
    const uint64_t limit = WRITE_GAP / page_size;
    struct sf_piece pieces[SF_MAX_PIECES];
    unsigned npieces = 0;
    struct sf_run run = {0, 0};
    enum sf_status status = SF_OK;

    while (status == SF_OK &&
           sf_page_next_run(bits, count, run.first + run.count, &run)) {
        merge_runs(bits, fillable, count, limit, &run);
        for (uint64_t page = run.first; page < run.first + run.count; page++) {
            if (!sf_bit_test(bits, page)) {
                memset(buf + page * page_size, 0, page_size);
            }
        }
        pieces[npieces++] = (struct sf_piece){buf + run.first * page_size,
                                              (size_t)(run.count * page_size),
                                              offset + run.first * page_size};
        if (npieces == SF_MAX_PIECES) {
            status = sf_file_write_pieces(file, pieces, npieces, err);
            npieces = 0;
        }
    }
    if (status == SF_OK && npieces != 0) {
        status = sf_file_write_pieces(file, pieces, npieces, err);
    }
    return status;
}
