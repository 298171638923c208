/* Reading sequential pages without keeping them. */
#include "sf_tally.h"

#include <stdlib.h>

#define BATCH 512u

struct sf_tally {
    struct sf_scan *scan;
    struct sf_table **tables;
    struct sf_index **indexes;
    const uint64_t *key;
    uint32_t page_size;
    struct sf_record records[BATCH];
};

enum sf_status sf_tally_new(struct sf_scan *scan, uint32_t page_size,
                            struct sf_table **tables, struct sf_index **indexes,
                            const uint64_t *key, struct sf_tally **out,
                            struct sf_err *err)
{
    struct sf_tally *tally = calloc(1, sizeof *tally);
    if (tally == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "tally");
    }
    tally->scan = scan;
    tally->tables = tables;
    tally->indexes = indexes;
    tally->key = key;
    tally->page_size = page_size;
    *out = tally;
    return SF_OK;
}

void sf_tally_free(struct sf_tally *tally)
{
    free(tally);
}

static enum sf_status index_record(struct sf_tally *tally,
                                   const struct sf_record *record, struct sf_err *err)
{
    uint64_t value = SF_INDEX_DELTA;

    if (record->kind == SF_RECORD_ZERO) {
        value = SF_INDEX_ZERO;
    } else if (record->kind == SF_RECORD_PAGE) {
        value = record->offset + SF_INDEX_BASE;
    }
    return sf_index_put(tally->indexes[record->block], record->page, value, err);
}

static enum sf_status sum_record(struct sf_tally *tally, const struct sf_record *record,
                                 struct sf_err *err)
{
    uint64_t *entry = &sf_table_entries(tally->tables[record->block])[record->page];
    uint64_t sum = 0;

    if (record->kind == SF_RECORD_XBZRLE) {
        return sf_err_set(err, SF_E_CONTENT, record->offset,
                          "an XBZRLE delta needs the page's content");
    }
    if (record->kind == SF_RECORD_PAGE) {
        sum = sf_sum_page(tally->key, record->data, tally->page_size);
    }
    if (*entry != sum) { /* writing zeros would only touch memory */
        *entry = sum;
    }
    return SF_OK;
}

enum sf_status sf_tally_feed(struct sf_tally *tally, const uint8_t *buf, size_t len,
                             size_t *used, bool *done, struct sf_err *err)
{
    size_t nrec = 0;
    size_t at = 0;

    *done = false;
    while (at < len && !*done) {
        size_t took = 0;
        enum sf_status status =
            sf_scan_feed(tally->scan, buf + at, len - at, tally->records, BATCH, &took,
                         &nrec, done, err);
        for (size_t i = 0; status == SF_OK && i < nrec; i++) {
            status = tally->key == NULL ? index_record(tally, &tally->records[i], err)
                                        : sum_record(tally, &tally->records[i], err);
        }
        if (status != SF_OK) {
            return status;
        }
        at += took;
    }
    *used = at;
    return SF_OK;
}
