/* Sequential RAM records to places in a file. */
#include "sf_scatter.h"

#include "sf_queue.h"

#include <stdlib.h>
#include <string.h>

#define BATCH 512u
/* Windows being packed at the same time: one would do for a stopped guest, a live one
 * jumps between blocks and rounds. */
#define OPEN_WINDOWS 4u
#define WAIT_MS 100u

struct sf_scatter {
    struct sf_scan *scan;
    struct sf_file *target; /* held by the queue */
    struct sf_pages *pages;
    uint32_t npages;
    uint32_t last_place; /* the one found last */
    struct sf_scatter_options options;
    struct sf_queue *queue;
    struct sf_parcel *open[OPEN_WINDOWS];
    struct sf_parcel *recent; /* the one used last, NULL or in open */
    uint64_t clock;
    size_t next_record; /* records not applied yet, */
    size_t nrecords;    /* because the writers were behind */
    size_t used;
    bool done;
    struct sf_record records[BATCH];
};

enum sf_status sf_scatter_start(struct sf_scan *scan, struct sf_file *target,
                                const struct sf_pages *pages, uint32_t npages,
                                const struct sf_scatter_options *options,
                                struct sf_scatter **out, struct sf_err *err)
{
    enum sf_status status;

    if (!sf_is_power_of_2(options->window) || options->window < 8u * SF_MAX_PAGE) {
        return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "window of %llu bytes",
                          (unsigned long long)options->window);
    }
    struct sf_scatter *scatter = calloc(1, sizeof *scatter);
    if (scatter == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "scatter");
    }
    scatter->scan = scan;
    scatter->target = target;
    scatter->npages = npages;
    scatter->options = *options;
    scatter->pages = calloc(npages ? npages : 1, sizeof *pages);
    if (scatter->pages == NULL) {
        status = sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "scatter");
        goto fail;
    }
    memcpy(scatter->pages, pages, npages * sizeof *pages);
    status = sf_queue_start(
        target, options->window, npages ? pages[0].page_size : SF_MAX_PAGE,
        OPEN_WINDOWS + 2 * options->nthreads, options->nthreads, &scatter->queue, err);
    if (status != SF_OK) {
        goto fail;
    }
    *out = scatter;
    return SF_OK;

fail:
    sf_scatter_finish(scatter);
    return status;
}

/* Gaps between the data may be filled with zeros where the file holds no page. */
static void seal(struct sf_parcel *parcel, const struct sf_pages *pages, uint64_t first)
{
    const uint8_t *bitmap = pages->bitmap + first / 8;
    for (uint32_t i = 0; i < (parcel->npages + 7) / 8; i++) {
        parcel->fill_bits[i] = (uint8_t)~(bitmap[i] | parcel->punch_bits[i]);
    }
}

static void retire(struct sf_scatter *scatter, unsigned slot)
{
    struct sf_parcel *parcel = scatter->open[slot];
    const struct sf_pages *pages = &scatter->pages[parcel->place];

    seal(parcel, pages, (parcel->offset - pages->offset) / pages->page_size);
    parcel->len = (size_t)(sf_page_count(parcel->data_bits, 0, parcel->npages) *
                           parcel->page_size);
    scatter->open[slot] = NULL;
    if (scatter->recent == parcel) {
        scatter->recent = NULL;
    }
    sf_queue_put(scatter->queue, parcel);
}

/* A slot for another window: an empty one, else the one unused for longest is retired.
 */
static unsigned free_slot(struct sf_scatter *scatter)
{
    unsigned oldest = 0;
    for (unsigned i = 0; i < OPEN_WINDOWS; i++) {
        if (scatter->open[i] == NULL) {
            return i;
        }
        if (scatter->open[i]->last_used < scatter->open[oldest]->last_used) {
            oldest = i;
        }
    }
    retire(scatter, oldest);
    return oldest;
}

/* The open window that holds page PAGE of BLOCK; NULL if it is not open. */
static struct sf_parcel *find_open(struct sf_scatter *scatter, uint64_t offset)
{
    if (scatter->recent != NULL && scatter->recent->offset == offset) {
        return scatter->recent;
    }
    for (unsigned i = 0; i < OPEN_WINDOWS; i++) {
        struct sf_parcel *parcel = scatter->open[i];
        if (parcel != NULL && parcel->offset == offset) {
            parcel->last_used = ++scatter->clock;
            scatter->recent = parcel;
            return parcel;
        }
    }
    return NULL;
}

/* Open the window of page PAGE; AGAIN when the writers are behind. */
static enum sf_status open_window(struct sf_scatter *scatter,
                                  const struct sf_pages *pages, uint64_t first,
                                  struct sf_parcel **out, struct sf_err *err)
{
    const uint64_t offset = pages->offset + first * pages->page_size;
    enum sf_status status;

    *out = find_open(scatter, offset);
    if (*out != NULL) {
        return SF_OK;
    }
    const unsigned slot = free_slot(scatter);
    /* An earlier write of the same window must not overtake this one. */
    status = sf_queue_settle(scatter->queue, WAIT_MS, offset, err);
    if (status == SF_OK) {
        status = sf_queue_take(scatter->queue, WAIT_MS, out, err);
    }
    if (status != SF_OK) {
        return status;
    }
    (*out)->offset = offset;
    (*out)->place = (uint32_t)(pages - scatter->pages);
    (*out)->npages = (uint32_t)sf_min(scatter->options.window / pages->page_size,
                                      pages->count - first);
    (*out)->last_used = ++scatter->clock;
    scatter->open[slot] = scatter->recent = *out;
    return SF_OK;
}

/* Forget page I of the window: its data becomes a hole. */
static void drop_page(struct sf_parcel *parcel, uint64_t i)
{
    sf_bit_clear(parcel->data_bits, i);
    sf_bit_set(parcel->punch_bits, i);
    parcel->has_punch = true;
}

static uint8_t *keep_page(struct sf_parcel *parcel, uint64_t i)
{
    sf_bit_set(parcel->data_bits, i);
    sf_bit_clear(parcel->punch_bits, i);
    parcel->has_data = true;
    return parcel->buffer + i * parcel->page_size;
}

/* Bring the present content of page PAGE, the I-th of the window, into the buffer. */
static enum sf_status load_page(struct sf_scatter *scatter,
                                const struct sf_pages *pages, struct sf_parcel *parcel,
                                uint64_t page, uint64_t i, struct sf_err *err)
{
    uint8_t *at = parcel->buffer + i * parcel->page_size;

    if (sf_bit_test(parcel->data_bits, i)) {
        return SF_OK;
    }
    if (sf_bit_test(pages->bitmap, page) && !sf_bit_test(parcel->punch_bits, i)) {
        const struct sf_piece piece = {at, parcel->page_size,
                                       parcel->offset + i * parcel->page_size};
        const enum sf_status status =
            sf_file_read_pieces(scatter->target, &piece, 1, err);
        return status == SF_OK ? SF_OK : sf_err_wrap(err, "read back");
    }
    memset(at, 0, parcel->page_size);
    return SF_OK;
}

static enum sf_status store(struct sf_scatter *scatter, const struct sf_pages *pages,
                            struct sf_parcel *parcel, const struct sf_record *record,
                            uint64_t page, uint64_t i, struct sf_err *err)
{
    const bool was_present = sf_bit_test(pages->bitmap, page);
    uint8_t *at = parcel->buffer + i * parcel->page_size;

    if (record->kind == SF_RECORD_ZERO) {
        drop_page(parcel, i);
        sf_bit_clear(pages->bitmap, page);
        return SF_OK;
    }
    if (record->kind == SF_RECORD_XBZRLE) {
        enum sf_status status = load_page(scatter, pages, parcel, page, i, err);
        if (status == SF_OK) {
            status = sf_xbzrle_apply(at, parcel->page_size, record->data,
                                     record->length, record->offset, err);
        }
        if (status != SF_OK) {
            return status;
        }
        (void)keep_page(parcel, i);
    } else if (!sf_page_is_zero(record->data, parcel->page_size)) {
        memcpy(keep_page(parcel, i), record->data, parcel->page_size);
    } else if (was_present) {
        drop_page(parcel, i);
    }
    /* Present zeros that were never anything else need no write: the file is fresh. */
    sf_bit_set(pages->bitmap, page);
    return SF_OK;
}

static void update_sum(struct sf_scatter *scatter, const struct sf_record *record,
                       const uint8_t *content, uint32_t page_size)
{
    if (scatter->options.sums == NULL) {
        return;
    }
    uint64_t *entry =
        &sf_table_entries(scatter->options.sums[record->block])[record->page];
    const uint64_t sum =
        content != NULL ? sf_sum_page(scatter->options.key, content, page_size) : 0;
    if (*entry != sum) {
        *entry = sum;
    }
}

/* Whether place I takes the page of RECORD or lies beyond it: -1, 0, 1 as in a search.
 */
static int compare_place(const struct sf_scatter *scatter, uint32_t i,
                         const struct sf_record *record)
{
    const struct sf_place *place = &scatter->options.places[i];

    if (place->block != record->block) {
        return place->block < record->block ? -1 : 1;
    }
    if (record->page < place->first) {
        return 1;
    }
    return record->page - place->first < scatter->pages[i].count ? 0 : -1;
}

/* Where the page of RECORD goes, and which page it is there; NULL if nowhere. */
static const struct sf_pages *find_place(struct sf_scatter *scatter,
                                         const struct sf_record *record, uint64_t *page)
{
    uint32_t low = 0;
    uint32_t high = scatter->npages;

    *page = record->page;
    if (scatter->options.places == NULL) {
        return &scatter->pages[record->block];
    }
    for (uint32_t i = scatter->last_place; low < high; i = low + (high - low) / 2) {
        const int order = compare_place(scatter, i, record);
        if (order == 0) {
            scatter->last_place = i;
            *page = record->page - scatter->options.places[i].first;
            return &scatter->pages[i];
        }
        if (order < 0) {
            low = i + 1;
        } else {
            high = i;
        }
    }
    return NULL;
}

static enum sf_status apply(struct sf_scatter *scatter, const struct sf_record *record,
                            struct sf_err *err)
{
    uint64_t page;
    const struct sf_pages *pages = find_place(scatter, record, &page);
    struct sf_parcel *parcel;
    enum sf_status status;

    /* Most zero records: nothing was there, nothing is to be done. */
    if (pages == NULL ||
        (record->kind == SF_RECORD_ZERO && !sf_bit_test(pages->bitmap, page))) {
        return SF_OK;
    }
    const uint64_t step = scatter->options.window / pages->page_size;
    const uint64_t first = page / step * step;
    const uint64_t i = page - first;
    status = open_window(scatter, pages, first, &parcel, err);
    if (status == SF_OK) {
        status = store(scatter, pages, parcel, record, page, i, err);
    }
    if (status != SF_OK) {
        return status;
    }
    const uint8_t *content = parcel->buffer + i * parcel->page_size;
    const bool has_data = sf_bit_test(parcel->data_bits, i);
    update_sum(scatter, record, has_data ? content : NULL, parcel->page_size);
    if (has_data) {
        sf_watch_page(scatter->options.watch, content,
                      parcel->offset + i * parcel->page_size);
    }
    return SF_OK;
}

/* Apply the records at hand; AGAIN when the writers are behind. */
static enum sf_status apply_batch(struct sf_scatter *scatter, struct sf_err *err)
{
    while (scatter->next_record < scatter->nrecords) {
        const enum sf_status status =
            apply(scatter, &scatter->records[scatter->next_record], err);
        if (status != SF_OK) {
            return status;
        }
        scatter->next_record++;
    }
    scatter->next_record = scatter->nrecords = 0;
    return SF_OK;
}

enum sf_status sf_scatter_feed(struct sf_scatter *scatter, const uint8_t *buf,
                               size_t len, size_t *used, bool *done, struct sf_err *err)
{
    enum sf_status status = SF_OK;
    size_t at = 0;

    *done = false;
    while (at < len && !*done) {
        if (scatter->nrecords == 0) {
            status =
                sf_scan_feed(scatter->scan, buf + at, len - at, scatter->records, BATCH,
                             &scatter->used, &scatter->nrecords, &scatter->done, err);
        }
        if (status == SF_OK) {
            status = apply_batch(scatter, err);
        }
        if (status == SF_AGAIN) {
            break;
        }
        if (status != SF_OK) {
            return status;
        }
        at += scatter->used;
        *done = scatter->done;
    }
    *used = at;
    return SF_OK;
}

enum sf_status sf_scatter_flush(struct sf_scatter *scatter, unsigned timeout_ms,
                                struct sf_err *err)
{
    for (unsigned i = 0; i < OPEN_WINDOWS; i++) {
        if (scatter->open[i] != NULL) {
            retire(scatter, i);
        }
    }
    return sf_queue_drain(scatter->queue, timeout_ms, err);
}

void sf_scatter_finish(struct sf_scatter *scatter)
{
    if (scatter != NULL) {
        sf_queue_finish(scatter->queue);
        free(scatter->pages);
        free(scatter);
    }
}
