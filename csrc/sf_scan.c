/* Sequential RAM records. */
#include "sf_scan.h"

#include <stdlib.h>
#include <string.h>

enum {
    FLAG_FULL = 0x01,
    FLAG_ZERO = 0x02,
    FLAG_MEM_SIZE = 0x04,
    FLAG_PAGE = 0x08,
    FLAG_EOS = 0x10,
    FLAG_CONTINUE = 0x20,
    FLAG_XBZRLE = 0x40,
    FLAG_HOOK = 0x80,
    FLAG_COMPRESS_PAGE = 0x100,
    FLAG_MULTIFD_FLUSH = 0x200
};

#define NO_BLOCK UINT32_MAX
#define WORD_LENGTH 8u
#define XBZRLE_HEAD 3u
/* The longest element: word, counted name, delta head, one page. */
#define MAX_ELEMENT (WORD_LENGTH + 256u + XBZRLE_HEAD + SF_MAX_PAGE)

struct block {
    uint64_t length;
    uint8_t *named; /* one bit a page, or NULL; borrowed */
    uint32_t name_hash;
    uint32_t name_length;
    char name[256];
};

struct sf_scan {
    struct block *blocks;
    uint32_t nblocks;
    uint32_t page_size;
    uint32_t current; /* block of the last page word */
    uint32_t carried; /* bytes of a cut element kept in carry */
    uint64_t offset;  /* stream offset of the next byte to consume */
    struct sf_scan_counts counts;
    uint8_t carry[MAX_ELEMENT];
};

/* One element, once parsed. */
struct element {
    struct sf_record record;
    size_t length; /* of the whole element */
    bool end;      /* it was the end marker */
};

static uint32_t hash_name(const char *name, uint32_t length)
{
    uint32_t hash = 2166136261u;
    for (uint32_t i = 0; i < length; i++) {
        hash = (hash ^ (uint8_t)name[i]) * 16777619u;
    }
    return hash;
}

enum sf_status sf_scan_new(uint32_t page_size, const struct sf_scan_block *blocks,
                           uint32_t nblocks, struct sf_scan **out, struct sf_err *err)
{
    if (!sf_is_power_of_2(page_size) || page_size < SF_MIN_PAGE ||
        page_size > SF_MAX_PAGE) {
        return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "page size %u", page_size);
    }
    struct sf_scan *scan = calloc(1, sizeof *scan);
    if (scan == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "scanner");
    }
    scan->blocks = calloc(nblocks ? nblocks : 1, sizeof *scan->blocks);
    if (scan->blocks == NULL) {
        sf_scan_free(scan);
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "block table");
    }
    scan->page_size = page_size;
    scan->nblocks = nblocks;
    scan->current = NO_BLOCK;
    for (uint32_t i = 0; i < nblocks; i++) {
        struct block *block = &scan->blocks[i];
        if (blocks[i].name_length > 255) {
            sf_scan_free(scan);
            return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "block name too long");
        }
        block->length = blocks[i].length;
        block->name_length = blocks[i].name_length;
        memcpy(block->name, blocks[i].name, blocks[i].name_length);
        block->name_hash = hash_name(block->name, block->name_length);
    }
    *out = scan;
    return SF_OK;
}

void sf_scan_free(struct sf_scan *scan)
{
    if (scan != NULL) {
        free(scan->blocks);
        free(scan);
    }
}

void sf_scan_note_named(struct sf_scan *scan, uint8_t *const *bitmaps)
{
    for (uint32_t i = 0; i < scan->nblocks; i++) {
        scan->blocks[i].named = bitmaps[i];
    }
}

void sf_scan_begin(struct sf_scan *scan, uint64_t offset)
{
    scan->offset = offset;
    scan->carried = 0;
}

uint64_t sf_scan_offset(const struct sf_scan *scan)
{
    return scan->offset;
}

void sf_scan_get_counts(const struct sf_scan *scan, struct sf_scan_counts *out)
{
    *out = scan->counts;
}

static uint32_t find_block(const struct sf_scan *scan, const char *name,
                           uint32_t length)
{
    const uint32_t hash = hash_name(name, length);
    for (uint32_t i = 0; i < scan->nblocks; i++) {
        const struct block *block = &scan->blocks[i];
        if (block->name_hash == hash && block->name_length == length &&
            memcmp(block->name, name, length) == 0) {
            return i;
        }
    }
    return NO_BLOCK;
}

/* The word is at P; AVAIL bytes are there.  On success *AT is the position after
 * the name, or 0 when more bytes are needed. */
static enum sf_status select_block(struct sf_scan *scan, const uint8_t *p, size_t avail,
                                   uint64_t flags, size_t *at, uint32_t *block,
                                   struct sf_err *err)
{
    *at = 0;
    if (flags & FLAG_CONTINUE) {
        if (scan->current == NO_BLOCK) {
            return sf_err_set(err, SF_E_FORMAT, scan->offset,
                              "a page continues a block, but no block was named yet");
        }
        *block = scan->current;
        *at = WORD_LENGTH;
        return SF_OK;
    }
    if (avail < WORD_LENGTH + 1 || avail < WORD_LENGTH + 1 + (size_t)p[WORD_LENGTH]) {
        return SF_OK;
    }
    const uint32_t length = p[WORD_LENGTH];
    const char *name = (const char *)p + WORD_LENGTH + 1;
    *block = find_block(scan, name, length);
    if (*block == NO_BLOCK) {
        return sf_err_set(err, SF_E_FORMAT, scan->offset,
                          "a page names a RAM block that the block list lacks");
    }
    *at = WORD_LENGTH + 1 + length;
    return SF_OK;
}

static enum sf_status check_address(const struct sf_scan *scan, uint32_t block,
                                    uint64_t address, struct sf_err *err)
{
    const uint64_t length = scan->blocks[block].length;
    if (length < scan->page_size || address > length - scan->page_size) {
        return sf_err_set(err, SF_E_FORMAT, scan->offset,
                          "page address 0x%llx lies beyond its block of 0x%llx bytes",
                          (unsigned long long)address, (unsigned long long)length);
    }
    return SF_OK;
}

/* Body of a ZERO, PAGE or XBZRLE element from AT on; element->length stays 0 when
 * more bytes are needed. */
static enum sf_status parse_body(const struct sf_scan *scan, const uint8_t *p,
                                 size_t avail, size_t at, uint64_t type,
                                 struct element *element, struct sf_err *err)
{
    struct sf_record *record = &element->record;

    if (type == FLAG_ZERO) {
        if (avail <= at) {
            return SF_OK;
        }
        if (p[at] != 0) {
            return sf_err_set(err, SF_E_FORMAT, scan->offset + at,
                              "a zero page has fill byte 0x%02x, which QEMU refuses",
                              p[at]);
        }
        record->kind = SF_RECORD_ZERO;
        record->offset = scan->offset;
        element->length = at + 1;
        return SF_OK;
    }
    if (type == FLAG_PAGE) {
        record->kind = SF_RECORD_PAGE;
        record->length = scan->page_size;
    } else {
        if (avail < at + XBZRLE_HEAD) {
            return SF_OK;
        }
        record->kind = SF_RECORD_XBZRLE;
        record->length = sf_be16(p + at + 1);
        if (p[at] != 1) {
            return sf_err_set(err, SF_E_FORMAT, scan->offset + at,
                              "XBZRLE encoding %u is unknown", p[at]);
        }
        if (record->length > scan->page_size) {
            return sf_err_set(err, SF_E_FORMAT, scan->offset + at + 1,
                              "an XBZRLE delta of %u bytes is longer than a page",
                              record->length);
        }
        at += XBZRLE_HEAD;
    }
    if (avail < at + record->length) {
        return SF_OK;
    }
    record->data = p + at;
    record->offset = scan->offset + at;
    element->length = at + record->length;
    return SF_OK;
}

/* Parse the element at P.  element->length stays 0 when AVAIL bytes do not hold it. */
static enum sf_status parse(struct sf_scan *scan, const uint8_t *p, size_t avail,
                            struct element *element, struct sf_err *err)
{
    enum sf_status status;
    size_t at;
    uint32_t block = 0;

    element->record = (struct sf_record){0};
    element->length = 0;
    element->end = false;
    if (avail < WORD_LENGTH) {
        return SF_OK;
    }
    const uint64_t word = sf_be64(p);
    const uint64_t flags = word & (scan->page_size - 1);
    const uint64_t address = word - flags;
    const uint64_t type = flags & ~(uint64_t)FLAG_CONTINUE;

    /* A bare word has no address: one that has is damaged. */
    if (address != 0 &&
        (type == FLAG_EOS || type == FLAG_MULTIFD_FLUSH || type == FLAG_HOOK)) {
        return sf_err_set(err, SF_E_FORMAT, scan->offset,
                          "RAM word 0x%llx, which no page record has",
                          (unsigned long long)word);
    }
    switch (type) {
    case FLAG_EOS:
        element->end = true;
        element->length = WORD_LENGTH;
        return SF_OK;
    case FLAG_MULTIFD_FLUSH:
        scan->counts.flushes++;
        element->length = WORD_LENGTH;
        return SF_OK;
    case FLAG_HOOK:
        element->length = WORD_LENGTH;
        return SF_OK;
    case FLAG_ZERO:
    case FLAG_PAGE:
    case FLAG_XBZRLE:
        break;
    case FLAG_COMPRESS_PAGE:
        return sf_err_set(
            err, SF_E_UNSUPPORTED, scan->offset,
            "a page was compressed by QEMU's `compress` capability (removed in "
            "QEMU 9.1); load and save it again with QEMU 9.0 or older");
    default:
        return sf_err_set(err, SF_E_FORMAT, scan->offset,
                          "RAM word with flags 0x%llx, which no page record has",
                          (unsigned long long)flags);
    }
    status = select_block(scan, p, avail, flags, &at, &block, err);
    if (status != SF_OK || at == 0) {
        return status;
    }
    status = check_address(scan, block, address, err);
    if (status != SF_OK) {
        return status;
    }
    element->record.block = block;
    element->record.page = address / scan->page_size;
    return parse_body(scan, p, avail, at, type, element, err);
}

static void account(struct sf_scan *scan, const struct element *element)
{
    scan->offset += element->length;
    switch (element->record.kind) {
    case SF_RECORD_ZERO:
        scan->counts.zeros++;
        break;
    case SF_RECORD_PAGE:
        scan->counts.pages++;
        break;
    case SF_RECORD_XBZRLE:
        scan->counts.deltas++;
        break;
    default:
        return;
    }
    scan->current = element->record.block;
    uint8_t *named = scan->blocks[scan->current].named;
    if (named != NULL) {
        const uint64_t page = element->record.page;
        named[page / 8] |= (uint8_t)(1u << page % 8);
    }
}

/* Complete the element whose first bytes are in the carry.  What of BUF it needs is
 * unknown until its head is there, so bytes are offered in growing steps. */
static enum sf_status complete_carry(struct sf_scan *scan, const uint8_t *buf,
                                     size_t len, struct element *element, size_t *used,
                                     struct sf_err *err)
{
    static const size_t steps[] = {WORD_LENGTH, WORD_LENGTH + 1,
                                   WORD_LENGTH + 256 + XBZRLE_HEAD, MAX_ELEMENT};
    const uint32_t before = scan->carried;

    *used = 0;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (steps[i] > scan->carried && *used < len) {
            const size_t take = (size_t)sf_min(steps[i] - scan->carried, len - *used);
            memcpy(scan->carry + scan->carried, buf + *used, take);
            scan->carried += (uint32_t)take;
            *used += take;
        }
        const enum sf_status status =
            parse(scan, scan->carry, scan->carried, element, err);
        if (status != SF_OK) {
            return status;
        }
        if (element->length != 0) {
            *used = element->length - before;
            scan->carried = 0;
            return SF_OK;
        }
    }
    return SF_OK;
}

enum sf_status sf_scan_feed(struct sf_scan *scan, const uint8_t *buf, size_t len,
                            struct sf_record *out, size_t cap, size_t *used,
                            size_t *nrec, bool *done, struct sf_err *err)
{
    struct element element;
    enum sf_status status;
    size_t at = 0;
    size_t count = 0;

    *done = false;
    if (scan->carried != 0 && len != 0 && cap != 0) {
        status = complete_carry(scan, buf, len, &element, &at, err);
        if (status != SF_OK) {
            return status;
        }
        if (element.length == 0) {
            *used = at;
            *nrec = 0;
            return SF_OK;
        }
        account(scan, &element);
        *done = element.end;
        if (element.record.kind != 0) {
            out[count++] = element.record;
        }
        /* The record may point into the carry, which the tail of BUF would need. */
        *used = at;
        *nrec = count;
        return SF_OK;
    }
    while (at < len && count < cap && !*done) {
        status = parse(scan, buf + at, len - at, &element, count != 0 ? NULL : err);
        if (status != SF_OK && count != 0) {
            break; /* the records before it first; the next feed says what is wrong */
        }
        if (status != SF_OK) {
            return status;
        }
        if (element.length == 0) {
            scan->carried = (uint32_t)(len - at);
            memcpy(scan->carry, buf + at, len - at);
            at = len;
            break;
        }
        at += element.length;
        account(scan, &element);
        *done = element.end;
        if (element.record.kind != 0) {
            out[count++] = element.record;
        }
    }
    *used = at;
    *nrec = count;
    return SF_OK;
}

/* One length of a delta: one byte below 0x80, else two; false past the end. */
static bool take_length(const uint8_t *delta, uint32_t length, uint32_t *at,
                        uint32_t *value)
{
    if (*at >= length) {
        return false;
    }
    const uint32_t low = delta[(*at)++];
    if (low < 0x80) {
        *value = low;
        return true;
    }
    if (*at >= length || delta[*at] >= 0x80) {
        return false;
    }
    *value = (low & 0x7f) | (uint32_t)delta[(*at)++] << 7;
    return true;
}

/* Walk the delta; with PAGE NULL only check it. */
static bool walk_delta(uint8_t *page, uint32_t page_size, const uint8_t *delta,
                       uint32_t length)
{
    uint32_t at = 0;
    uint32_t position = 0;

    while (at < length) {
        const bool first = at == 0;
        uint32_t keep;
        uint32_t change;
        if (!take_length(delta, length, &at, &keep) || (keep == 0 && !first) ||
            keep > page_size - position) {
            return false;
        }
        position += keep;
        if (!take_length(delta, length, &at, &change) || change == 0 ||
            change > page_size - position || change > length - at) {
            return false;
        }
        if (page != NULL) {
            memcpy(page + position, delta + at, change);
        }
        position += change;
        at += change;
    }
    return true;
}

enum sf_status sf_xbzrle_apply(uint8_t *page, uint32_t page_size, const uint8_t *delta,
                               uint32_t length, uint64_t offset, struct sf_err *err)
{
    if (!walk_delta(NULL, page_size, delta, length)) {
        return sf_err_set(err, SF_E_FORMAT, offset, "an XBZRLE delta is not valid");
    }
    (void)walk_delta(page, page_size, delta, length);
    return SF_OK;
}
