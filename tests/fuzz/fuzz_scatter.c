/* Any payload goes into a file by scatter, out of it by emit, and is indexed by tally:
 * all must agree with a model in memory.
 *
 * Input: two bytes that choose the cuts, then RAM payload. */
#include "fuzz.h"
#include "sf_emit.h"
#include "sf_scatter.h"
#include "sf_tally.h"

#define HEAD 2u
#define PAGE 512u
#define NBLOCKS 3u
#define MOST 40u /* pages of the largest block */
#define WINDOW (8u * SF_MAX_PAGE)
#define WAIT_MS 1000u

static const struct sf_scan_block blocks[NBLOCKS] = {
    {"a", MOST *PAGE, 1, 0}, {"bb", 9 * PAGE, 2, 0}, {"", 2 * PAGE, 0, 0}};

struct model {
    uint8_t content[NBLOCKS][MOST * PAGE];
    uint8_t bits[NBLOCKS][8];
};

static uint64_t pages_of(unsigned block)
{
    return blocks[block].length / PAGE;
}

static struct sf_scan *new_scan(void)
{
    struct sf_scan *scan = NULL;
    CHECK(sf_scan_new(PAGE, blocks, NBLOCKS, &scan, NULL) == SF_OK);
    sf_scan_begin(scan, 0);
    return scan;
}

static enum sf_status apply(struct model *model, const struct sf_record *record)
{
    uint8_t *page = model->content[record->block] + record->page * PAGE;
    enum sf_status status = SF_OK;

    if (record->kind == SF_RECORD_ZERO) {
        memset(page, 0, PAGE);
        sf_bit_clear(model->bits[record->block], record->page);
        return SF_OK;
    }
    if (record->kind == SF_RECORD_PAGE) {
        memcpy(page, record->data, PAGE);
    } else {
        status = sf_xbzrle_apply(page, PAGE, record->data, record->length, 0, NULL);
    }
    if (status == SF_OK) {
        sf_bit_set(model->bits[record->block], record->page);
    }
    return status;
}

static enum sf_status run_model(struct model *model, const uint8_t *data, size_t len)
{
    struct sf_scan *scan = new_scan();
    struct sf_record records[8];
    enum sf_status status = SF_OK;
    bool done = false;

    for (size_t at = 0, used = 0; status == SF_OK && at < len && !done; at += used) {
        size_t count = 0;
        status = sf_scan_feed(scan, data + at, len - at, records, 8, &used, &count,
                              &done, NULL);
        for (size_t i = 0; status == SF_OK && i < count; i++) {
            status = apply(model, &records[i]);
        }
    }
    sf_scan_free(scan);
    return status;
}

static enum sf_status feed(struct sf_scatter *scatter, const uint8_t *data, size_t len,
                           uint32_t seed)
{
    enum sf_status status = SF_OK;
    bool done = false;

    for (size_t at = 0, used = 0; status == SF_OK && at < len && !done; at += used) {
        seed = seed * 1664525 + 1013904223;
        const size_t piece =
            seed >> 31 ? len - at : (size_t)sf_min(1 + (seed >> 8) % 800, len - at);
        uint8_t *copy = fuzz_copy(data + at, piece);
        status = sf_scatter_feed(scatter, copy, piece, &used, &done, NULL);
        free(copy);
    }
    if (status == SF_OK) {
        do {
            status = sf_scatter_flush(scatter, WAIT_MS, NULL);
        } while (status == SF_AGAIN);
    }
    return status;
}

static void check_file(const struct model *model, struct sf_file *file,
                       const struct sf_pages *pages, struct sf_table **tables)
{
    static uint8_t buf[MOST * PAGE];

    for (unsigned i = 0; i < NBLOCKS; i++) {
        CHECK(sf_pages_read(file, &pages[i], 0, pages[i].count, buf, NULL) == SF_OK);
        CHECK(memcmp(buf, model->content[i], blocks[i].length) == 0);
        CHECK(memcmp(pages[i].bitmap, model->bits[i], 8) == 0);
        for (uint64_t page = 0; page < pages[i].count; page++) {
            CHECK(sf_table_entries(tables[i])[page] ==
                  sf_sum_page(fuzz_key(), model->content[i] + page * PAGE, PAGE));
        }
    }
}

/* The records of the file say the same again. */
static void check_emit(const struct model *model, struct sf_file *file,
                       const struct sf_pages *pages)
{
    static uint8_t all[1 << 16];
    static struct model again;
    struct sf_emit_block emitted[NBLOCKS];
    struct sf_emit *emit = NULL;
    struct sf_ring *ring = NULL;
    uint8_t *data = NULL;
    size_t total = 0;

    for (unsigned i = 0; i < NBLOCKS; i++) {
        emitted[i] =
            (struct sf_emit_block){blocks[i].name, pages[i], blocks[i].name_length, 0};
    }
    CHECK(sf_emit_new(file, emitted, NBLOCKS, NULL, NULL, &emit, NULL) == SF_OK);
    struct sf_err err;
    CHECK(sf_emit_ring_start(emit, WINDOW, 1, &ring, &err) == SF_OK);
    for (size_t len = 1; len != 0;) {
        const enum sf_status status = sf_ring_next(ring, WAIT_MS, &data, &len, &err);
        if (status == SF_AGAIN) {
            len = 1;
            continue;
        }
        CHECK(status == SF_OK && total + len <= sizeof all);
        memcpy(all + total, data, len);
        total += len;
    }
    sf_ring_finish(ring);
    CHECK(total == sf_emit_length(emit));
    sf_emit_free(emit);
    memset(&again, 0xee, sizeof again);
    CHECK(run_model(&again, all, total) == SF_OK);
    for (unsigned i = 0; i < NBLOCKS; i++) {
        CHECK(memcmp(again.content[i], model->content[i], blocks[i].length) == 0);
    }
}

/* What the index finds in the payload is the page, but for deltas. */
static void check_index(const struct model *model, const uint8_t *payload, size_t len)
{
    struct sf_file *file = fuzz_file(0, 0);
    struct sf_scan *scan = new_scan();
    struct sf_index *indexes[NBLOCKS];
    struct sf_tally *tally = NULL;
    uint8_t page[PAGE];
    size_t used = 0;
    bool done;

    CHECK(sf_file_write(file, payload, len, 0, NULL) == SF_OK);
    for (unsigned i = 0; i < NBLOCKS; i++) {
        CHECK(sf_index_new(pages_of(i), PAGE, blocks[i].name, blocks[i].name_length,
                           &indexes[i], NULL) == SF_OK);
    }
    CHECK(sf_tally_new(scan, PAGE, NULL, indexes, NULL, &tally, NULL) == SF_OK);
    CHECK(len == 0 || sf_tally_feed(tally, payload, len, &used, &done, NULL) == SF_OK);
    for (unsigned i = 0; i < NBLOCKS; i++) {
        for (uint64_t k = 0; k < pages_of(i); k++) {
            const enum sf_status status =
                sf_index_read(indexes[i], file, k, 1, page, NULL);
            CHECK(status == SF_OK || status == SF_E_CONTENT);
            CHECK(status != SF_OK ||
                  memcmp(page, model->content[i] + k * PAGE, PAGE) == 0);
        }
        sf_index_free(indexes[i]);
    }
    sf_tally_free(tally);
    sf_scan_free(scan);
    sf_file_free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct model model;
    uint8_t bitmaps[NBLOCKS][8] = {{0}};
    struct sf_pages pages[NBLOCKS];
    struct sf_table *tables[NBLOCKS];

    if (size < HEAD) {
        return 0;
    }
    memset(&model, 0, sizeof model);
    const enum sf_status expected = run_model(&model, data + HEAD, size - HEAD);
    struct sf_file *file = fuzz_file(NBLOCKS << 20, 0);
    struct sf_scan *scan = new_scan();
    for (unsigned i = 0; i < NBLOCKS; i++) {
        pages[i] =
            (struct sf_pages){bitmaps[i], pages_of(i), (uint64_t)i << 20, PAGE, 0};
        CHECK(sf_table_new(pages_of(i), &tables[i], NULL) == SF_OK);
    }
    const struct sf_scatter_options options = {NULL,   tables, fuzz_key(), NULL,
                                               WINDOW, 1,      0};
    struct sf_scatter *scatter = NULL;
    CHECK(sf_scatter_start(scan, file, pages, NBLOCKS, &options, &scatter, NULL) ==
          SF_OK);
    const enum sf_status status =
        feed(scatter, data + HEAD, size - HEAD, data[0] + 256u * data[1]);
    CHECK((status == SF_OK) == (expected == SF_OK));
    sf_scatter_finish(scatter);
    sf_scan_free(scan);
    if (status == SF_OK) {
        check_file(&model, file, pages, tables);
        check_emit(&model, file, pages);
        check_index(&model, data + HEAD, size - HEAD);
    }
    for (unsigned i = 0; i < NBLOCKS; i++) {
        sf_table_free(tables[i]);
    }
    sf_file_free(file);
    return 0;
}
