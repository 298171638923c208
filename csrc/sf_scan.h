/* Sequential RAM records: bytes in, page records out.
 *
 * Pure and resumable: the input may be cut anywhere, and the records are the same
 * for every cut.  Works inside the payload of one `ram` section at a time, after
 * the block list; the current block survives from one section to the next. */
#ifndef SF_SCAN_H
#define SF_SCAN_H

#include "sf_err.h"

enum sf_record_kind { SF_RECORD_ZERO = 1, SF_RECORD_PAGE, SF_RECORD_XBZRLE };

struct sf_record {
    const uint8_t *data; /* the page or the delta; valid until the next feed */
    uint64_t offset;     /* stream offset of that data, or of the word for ZERO */
    uint64_t page;       /* page number inside the block */
    uint32_t block;      /* index into the block table */
    uint16_t kind;
    uint16_t reserved;
    uint32_t length; /* bytes of data */
};

struct sf_scan_block {
    const char *name; /* not NUL-terminated */
    uint64_t length;  /* used length in bytes */
    uint32_t name_length;
    uint32_t reserved;
};

/* Counted over the life of the scanner. */
struct sf_scan_counts {
    uint64_t pages;
    uint64_t zeros;
    uint64_t deltas;
    uint64_t flushes; /* MULTIFD_FLUSH words: the pages may be elsewhere */
};

struct sf_scan;

/* The block table is copied. */
enum sf_status sf_scan_new(uint32_t page_size, const struct sf_scan_block *blocks,
                           uint32_t nblocks, struct sf_scan **out, struct sf_err *err);
void sf_scan_free(struct sf_scan *scan);

/* From now on set the bit of each page that a record names: a bitmap for each block,
 * of the caller's, at least as long as the scanner lives. */
void sf_scan_note_named(struct sf_scan *scan, uint8_t *const *bitmaps);

/* A new section payload begins at stream offset OFFSET. */
void sf_scan_begin(struct sf_scan *scan, uint64_t offset);

/* Consume up to LEN bytes and hand out up to CAP records.  *USED says how much was
 * consumed, *DONE that the end marker was among it.  Records may point into BUF or
 * into the scanner; both stay valid until the next feed.  What breaks the format is
 * told once all records before it are handed out. */
enum sf_status sf_scan_feed(struct sf_scan *scan, const uint8_t *buf, size_t len,
                            struct sf_record *out, size_t cap, size_t *used,
                            size_t *nrec, bool *done, struct sf_err *err);

/* Stream offset of the first element that is not handed out yet. */
uint64_t sf_scan_offset(const struct sf_scan *scan);
void sf_scan_get_counts(const struct sf_scan *scan, struct sf_scan_counts *out);

/* Apply an XBZRLE delta to PAGE, or leave it alone and fail. */
enum sf_status sf_xbzrle_apply(uint8_t *page, uint32_t page_size, const uint8_t *delta,
                               uint32_t length, uint64_t offset, struct sf_err *err);

#endif
