/* The scanner on any bytes: whole and cut anywhere it must say the same, and what it
 * says must be possible.
 *
 * Input: one byte of options, two that choose the cuts, then RAM payload. */
#include "fuzz.h"
#include "sf_scan.h"

#define HEAD 3u
#define START UINT64_C(5000)
#define MAX_RECORDS 8u

static const struct sf_scan_block blocks[] = {
    {"a", 8 * 1024, 1, 0},
    {"bb", 1536, 2, 0},
    {"", 512, 0, 0},
};

/* All that was said, as bytes to compare. */
struct told {
    uint8_t *bytes;
    size_t len;
    size_t room;
    size_t consumed;
    enum sf_status status;
    struct sf_err err;
    bool done;
    struct sf_scan_counts counts;
};

static void tell(struct told *told, const void *bytes, size_t len)
{
    if (told->room - told->len < len) {
        told->room = 2 * told->room + len;
        told->bytes = realloc(told->bytes, told->room);
        CHECK(told->bytes != NULL);
    }
    if (len != 0) {
        memcpy(told->bytes + told->len, bytes, len);
        told->len += len;
    }
}

static void tell_record(struct told *told, const struct sf_record *record,
                        uint32_t page_size)
{
    const uint64_t numbers[] = {record->kind, record->block, record->page,
                                record->offset, record->length};
    uint8_t page[1024] = {0};
    uint8_t after[1024] = {0};

    CHECK(record->block < 3);
    CHECK((record->page + 1) * page_size <= blocks[record->block].length);
    CHECK(record->offset >= START);
    CHECK(record->length <= page_size);
    switch (record->kind) {
    case SF_RECORD_ZERO:
        CHECK(record->length == 0);
        break;
    case SF_RECORD_PAGE:
        CHECK(record->length == page_size);
        break;
    default:
        CHECK(record->kind == SF_RECORD_XBZRLE);
        if (sf_xbzrle_apply(after, page_size, record->data, record->length, 0, NULL) !=
            SF_OK) {
            CHECK(memcmp(page, after, sizeof page) == 0);
        }
        tell(told, after, page_size);
    }
    tell(told, numbers, sizeof numbers);
    tell(told, record->data, record->length);
}

static void feed(struct sf_scan *scan, const uint8_t *data, size_t len, size_t cap,
                 uint32_t page_size, struct told *told)
{
    struct sf_record records[MAX_RECORDS];
    uint8_t *piece = fuzz_copy(data, len);
    size_t at = 0;

    while (at < len && told->status == SF_OK && !told->done) {
        size_t used = 0;
        size_t nrec = 0;
        told->status = sf_scan_feed(scan, piece + at, len - at, records, cap, &used,
                                    &nrec, &told->done, &told->err);
        if (told->status != SF_OK) {
            break;
        }
        CHECK(used != 0 && used <= len - at && nrec <= cap);
        for (size_t i = 0; i < nrec; i++) {
            tell_record(told, &records[i], page_size);
        }
        at += used;
        told->consumed += used;
    }
    free(piece);
}

/* SEED 0: in one piece. */
static struct told scan_all(const uint8_t *data, size_t len, uint32_t page_size,
                            size_t cap, uint32_t seed)
{
    struct told told = {.status = SF_OK};
    struct sf_scan *scan = NULL;
    size_t at = 0;

    CHECK(sf_scan_new(page_size, blocks, 3, &scan, NULL) == SF_OK);
    sf_scan_begin(scan, START);
    while (at < len) {
        size_t piece = len - at;
        if (seed != 0) {
            seed = seed * 1664525 + 1013904223;
            const size_t limit =
                seed >> 30 ? 1 + (seed >> 8) % 700 : 1 + (seed >> 8) % 9;
            piece = limit < piece ? limit : piece;
        }
        feed(scan, data + at, piece, cap, page_size, &told);
        at += piece;
    }
    sf_scan_get_counts(scan, &told.counts);
    sf_scan_free(scan);
    return told;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEAD) {
        return 0;
    }
    const uint32_t page_size = data[0] & 1 ? 1024 : 512;
    const size_t cap = 1 + (data[0] >> 1) % MAX_RECORDS;
    const uint32_t seed = 1u + data[1] + 256u * data[2];
    struct told whole = scan_all(data + HEAD, size - HEAD, page_size, MAX_RECORDS, 0);
    struct told cut = scan_all(data + HEAD, size - HEAD, page_size, cap, seed);

    CHECK(whole.status == cut.status);
    CHECK(whole.done == cut.done);
    CHECK(whole.len == cut.len);
    CHECK(whole.len == 0 || memcmp(whole.bytes, cut.bytes, whole.len) == 0);
    CHECK(memcmp(&whole.counts, &cut.counts, sizeof whole.counts) == 0);
    if (whole.status != SF_OK) {
        CHECK(whole.err.offset == cut.err.offset);
        CHECK(strcmp(whole.err.message, cut.err.message) == 0);
    } else {
        CHECK(whole.consumed == cut.consumed);
        CHECK(whole.done || whole.consumed == size - HEAD);
    }
    free(whole.bytes);
    free(cut.bytes);
    return 0;
}
