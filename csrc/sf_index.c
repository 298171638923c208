/* Where the pages of one block lie in a sequential stream. */
#include "sf_index.h"

#include <stdlib.h>
#include <string.h>

#define LEAF_PAGES 512u
/* As many pieces take as much memory as a plain array of values. */
#define MAX_PIECES 256u
/* Records of neighbouring pages lie a word and perhaps a name apart. */
#define MAX_EXTRA 512u
#define WORD_LENGTH 8u
#define WORD_PAGE UINT64_C(0x08)
#define WORD_CONTINUE UINT64_C(0x20)
#define READ_PIECE (1u << 20)

/* Pages from FIRST of its stretch to the next piece. */
struct piece {
    uint64_t value;
    uint16_t first;
    uint16_t extra; /* the stride beyond the page; 0 = none */
};

struct leaf {
    union {
        struct piece *pieces;
        uint64_t *values;
    } at;
    uint16_t count; /* pieces */
    uint16_t room;
    uint16_t end; /* pages told so far; those behind are absent */
    bool plain;   /* one value a page */
};

struct sf_index {
    struct leaf *leaves;
    uint64_t npages;
    uint64_t nleaves;
    uint32_t page_size;
    uint32_t name_length;
    char name[256];
};

enum sf_status sf_index_new(uint64_t npages, uint32_t page_size, const char *name,
                            uint32_t name_length, struct sf_index **out,
                            struct sf_err *err)
{
    if (npages > UINT64_C(1) << 44 || name_length > 255) {
        return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "index of %llu pages",
                          (unsigned long long)npages);
    }
    struct sf_index *index = calloc(1, sizeof *index);
    if (index == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "index");
    }
    index->npages = npages;
    index->nleaves = (npages + LEAF_PAGES - 1) / LEAF_PAGES;
    index->page_size = page_size;
    index->name_length = name_length;
    memcpy(index->name, name, name_length);
    index->leaves =
        calloc(index->nleaves ? (size_t)index->nleaves : 1, sizeof *index->leaves);
    if (index->leaves == NULL) {
        free(index);
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "index of %llu pages",
                          (unsigned long long)npages);
    }
    *out = index;
    return SF_OK;
}

void sf_index_free(struct sf_index *index)
{
    if (index != NULL) {
        for (uint64_t i = 0; i < index->nleaves; i++) {
            free(index->leaves[i].at.pieces);
        }
        free(index->leaves);
        free(index);
    }
}

/* Whether NEXT lies one plausible stride behind VALUE; *EXTRA is that stride's. */
static bool is_stride(uint64_t value, uint64_t next, uint32_t page_size,
                      uint16_t *extra)
{
    if (value < SF_INDEX_BASE || next <= value || next - value <= page_size ||
        next - value > page_size + MAX_EXTRA) {
        return false;
    }
    *extra = (uint16_t)(next - value - page_size);
    return true;
}

/* Let PIECE, which has COUNT pages, take one page more if that fits. */
static bool extend(struct piece *piece, uint64_t count, uint64_t value,
                   uint32_t page_size)
{
    if (piece->value < SF_INDEX_BASE) {
        return value == piece->value;
    }
    if (piece->extra == 0) {
        return count == 1 && is_stride(piece->value, value, page_size, &piece->extra);
    }
    return value == piece->value + count * (page_size + piece->extra);
}

/* The pages of LEAF from AT on that are of one piece; their number. */
static uint32_t stretch(const struct sf_index *index, const struct leaf *leaf,
                        uint32_t at, uint64_t *value, uint16_t *extra)
{
    *extra = 0;
    if (at >= leaf->end) {
        *value = SF_INDEX_ABSENT;
        return LEAF_PAGES - at;
    }
    if (leaf->plain) {
        const uint64_t *values = leaf->at.values;
        struct piece piece = {values[at], 0, 0};
        uint32_t count = 1;
        while (at + count < leaf->end &&
               extend(&piece, count, values[at + count], index->page_size)) {
            count++;
        }
        *value = piece.value;
        *extra = piece.extra;
        return count;
    }
    uint32_t low = 0;
    uint32_t high = leaf->count;
    while (high - low > 1) { /* the last piece that begins at or before AT */
        const uint32_t middle = (low + high) / 2;
        if (leaf->at.pieces[middle].first <= at) {
            low = middle;
        } else {
            high = middle;
        }
    }
    const struct piece *piece = &leaf->at.pieces[low];
    const uint32_t end = high < leaf->count ? leaf->at.pieces[high].first : leaf->end;
    *value = piece->value;
    if (piece->extra != 0) {
        *value +=
            (uint64_t)(at - piece->first) * (index->page_size + (uint32_t)piece->extra);
        *extra = end - at > 1 ? piece->extra : 0;
    }
    return end - at;
}

/* Turn LEAF into one value a page. */
static enum sf_status spread(const struct sf_index *index, struct leaf *leaf,
                             struct sf_err *err)
{
    uint64_t *values = calloc(LEAF_PAGES, sizeof *values);
    uint32_t at = 0;

    if (values == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "index");
    }
    while (at < leaf->end) {
        uint64_t value;
        uint16_t extra;
        const uint32_t count = stretch(index, leaf, at, &value, &extra);
        const uint64_t step = extra ? index->page_size + (uint64_t)extra : 0;
        for (uint32_t i = 0; i < count; i++) {
            values[at + i] = value + i * step;
        }
        at += count;
    }
    free(leaf->at.pieces);
    leaf->at.values = values;
    leaf->plain = true;
    leaf->end = LEAF_PAGES;
    leaf->count = leaf->room = 0;
    return SF_OK;
}

/* Room for ROOM pieces. */
static enum sf_status resize(struct leaf *leaf, uint32_t room, struct sf_err *err)
{
    struct piece *pieces = calloc(room, sizeof *pieces);

    if (pieces == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "index");
    }
    if (leaf->count != 0) {
        memcpy(pieces, leaf->at.pieces, leaf->count * sizeof *pieces);
    }
    free(leaf->at.pieces);
    leaf->at.pieces = pieces;
    leaf->room = (uint16_t)room;
    return SF_OK;
}

/* Say VALUE, and STEP more each, of COUNT pages that follow those told so far.  *TOOK
 * is how many were taken, 0 when the leaf is full of pieces. */
static enum sf_status append(const struct sf_index *index, struct leaf *leaf,
                             uint64_t value, uint32_t count, uint16_t extra,
                             uint32_t *took, struct sf_err *err)
{
    struct piece *last = leaf->count ? &leaf->at.pieces[leaf->count - 1] : NULL;

    *took = 0;
    if (last != NULL && extra == 0 &&
        extend(last, leaf->end - (uint64_t)last->first, value, index->page_size)) {
        *took = value < SF_INDEX_BASE ? count : 1;
        leaf->end = (uint16_t)(leaf->end + *took);
        return SF_OK;
    }
    if (leaf->count == MAX_PIECES) {
        return SF_OK;
    }
    if (leaf->count == leaf->room) {
        const enum sf_status status =
            resize(leaf, leaf->room ? leaf->room * 2u : 1u, err);
        if (status != SF_OK) {
            return status;
        }
    }
    *took = count;
    leaf->at.pieces[leaf->count++] = (struct piece){value, leaf->end, extra};
    leaf->end = (uint16_t)(leaf->end + *took);
    return SF_OK;
}

enum sf_status sf_index_put(struct sf_index *index, uint64_t page, uint64_t value,
                            struct sf_err *err)
{
    struct leaf *leaf = &index->leaves[page / LEAF_PAGES];
    const uint32_t at = (uint32_t)(page % LEAF_PAGES);
    enum sf_status status = SF_OK;
    uint32_t took = 1;

    if (!leaf->plain && at > leaf->end) {
        status = append(index, leaf, SF_INDEX_ABSENT, at - leaf->end, 0, &took, err);
    }
    if (!leaf->plain && status == SF_OK && took != 0 && at == leaf->end) {
        status = append(index, leaf, value, 1, 0, &took, err);
        if (status != SF_OK || took != 0) {
            return status;
        }
    }
    if (!leaf->plain && status == SF_OK) {
        status = spread(index, leaf, err);
    }
    if (status == SF_OK) {
        leaf->at.values[at] = value;
    }
    return status;
}

/* Turn a plain leaf into pieces if these take less memory. */
static void gather(const struct sf_index *index, struct leaf *leaf)
{
    struct leaf packed = {.at.pieces = NULL};
    uint32_t at = 0;

    while (at < leaf->end) {
        uint64_t value;
        uint16_t extra;
        uint32_t took;
        const uint32_t count = stretch(index, leaf, at, &value, &extra);
        if (append(index, &packed, value, count, extra, &took, NULL) != SF_OK ||
            took != count) {
            free(packed.at.pieces);
            return;
        }
        at += count;
    }
    free(leaf->at.values);
    *leaf = packed;
}

void sf_index_pack(struct sf_index *index)
{
    for (uint64_t i = 0; i < index->nleaves; i++) {
        struct leaf *leaf = &index->leaves[i];
        if (leaf->plain) {
            gather(index, leaf);
        }
        if (!leaf->plain && leaf->room > leaf->count) {
            (void)resize(leaf, leaf->count, NULL);
        }
    }
}

bool sf_index_next_run(const struct sf_index *index, uint64_t from, uint64_t end,
                       struct sf_index_run *run)
{
    uint64_t at = from;

    end = sf_min(end, index->npages);
    run->count = 0;
    while (at < end) {
        const struct leaf *leaf = &index->leaves[at / LEAF_PAGES];
        uint64_t value;
        uint16_t extra;
        uint64_t count =
            stretch(index, leaf, (uint32_t)(at % LEAF_PAGES), &value, &extra);
        uint64_t stride = extra ? index->page_size + (uint64_t)extra : 0;

        count = sf_min(count, end - at);
        if (count == 1) {
            stride = 0;
        }
        if (run->count == 0) {
            *run = (struct sf_index_run){at, count, value, stride};
        } else if (run->value < SF_INDEX_BASE) {
            if (value != run->value) {
                break;
            }
            run->count += count;
        } else {
            uint16_t gap;
            uint64_t step = run->stride;
            if (step == 0) {
                if (!is_stride(run->value, value, index->page_size, &gap)) {
                    break;
                }
                step = value - run->value;
            }
            if (value != run->value + run->count * step ||
                (stride != 0 && stride != step)) {
                break;
            }
            run->stride = step;
            run->count += count;
        }
        at += count;
    }
    return run->count != 0;
}

size_t sf_index_list(const struct sf_index *index, uint64_t from, uint64_t end,
                     struct sf_index_run *out, size_t cap)
{
    size_t count = 0;

    while (count < cap && sf_index_next_run(index, from, end, &out[count])) {
        from = out[count].first + out[count].count;
        count++;
    }
    return count;
}

static bool is_sound(const struct sf_index *index, const struct sf_index_run *run,
                     uint64_t start, uint64_t end)
{
    const uint64_t size = index->page_size;

    if (run->first > index->npages || run->count == 0 ||
        run->count > index->npages - run->first) {
        return false;
    }
    if (run->value < SF_INDEX_BASE) {
        return run->stride == 0;
    }
    if ((run->count == 1) != (run->stride == 0) ||
        (run->stride != 0 && (run->stride <= size || run->stride > size + MAX_EXTRA))) {
        return false;
    }
    const uint64_t offset = run->value - SF_INDEX_BASE;
    if (offset < start || offset > end || end - offset < size) {
        return false;
    }
    return run->count == 1 || run->count - 1 <= (end - offset - size) / run->stride;
}

/* The part of a run that lies in one leaf. */
static enum sf_status load_part(struct sf_index *index, uint64_t page, uint64_t value,
                                uint32_t count, uint16_t extra, struct sf_err *err)
{
    struct leaf *leaf = &index->leaves[page / LEAF_PAGES];
    const uint64_t step = extra ? index->page_size + (uint64_t)extra : 0;
    const uint32_t at = (uint32_t)(page % LEAF_PAGES);
    enum sf_status status = SF_OK;
    uint32_t took = 0;

    if (!leaf->plain && at > leaf->end) {
        status = append(index, leaf, SF_INDEX_ABSENT, at - leaf->end, 0, &took, err);
    }
    took = 0;
    if (status == SF_OK && !leaf->plain && at == leaf->end) {
        status = append(index, leaf, value, count, count > 1 ? extra : 0, &took, err);
    }
    for (; status == SF_OK && took < count; took++) {
        status = sf_index_put(index, page + took, value + took * step, err);
    }
    return status;
}

enum sf_status sf_index_load(struct sf_index *index, const struct sf_index_run *runs,
                             size_t count, uint64_t start, uint64_t end,
                             struct sf_err *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct sf_index_run *run = &runs[i];
        if (!is_sound(index, run, start, end) ||
            (i != 0 && run->first != runs[i - 1].first + runs[i - 1].count)) {
            return sf_err_set(err, SF_E_FORMAT, SF_NO_OFFSET,
                              "the list has a run of pages that no stream has");
        }
        const uint16_t extra =
            run->stride ? (uint16_t)(run->stride - index->page_size) : 0;
        for (uint64_t at = 0; at < run->count;) {
            const uint64_t page = run->first + at;
            const uint64_t part =
                sf_min(run->count - at, LEAF_PAGES - page % LEAF_PAGES);
            const enum sf_status status =
                run->value == SF_INDEX_ABSENT
                    ? SF_OK
                    : load_part(index, page, run->value + at * run->stride,
                                (uint32_t)part, extra, err);
            if (status != SF_OK) {
                return status;
            }
            at += part;
        }
    }
    return SF_OK;
}

uint64_t sf_index_memory(const struct sf_index *index)
{
    uint64_t total = sizeof *index + index->nleaves * sizeof *index->leaves;

    for (uint64_t i = 0; i < index->nleaves; i++) {
        const struct leaf *leaf = &index->leaves[i];
        total += leaf->plain ? LEAF_PAGES * sizeof(uint64_t)
                             : leaf->room * sizeof(struct piece);
    }
    return total;
}

/* Whether DATA, in front of which AHEAD bytes are at hand, belongs to a record of
 * that page. */
static bool is_page(const struct sf_index *index, const uint8_t *data, uint64_t ahead,
                    uint64_t page)
{
    const uint64_t address = page * index->page_size;
    const uint32_t named = WORD_LENGTH + 1 + index->name_length;

    if (ahead >= WORD_LENGTH &&
        sf_be64(data - WORD_LENGTH) == (address | WORD_PAGE | WORD_CONTINUE)) {
        return true;
    }
    return ahead >= named && sf_be64(data - named) == (address | WORD_PAGE) &&
           data[-(ptrdiff_t)index->name_length - 1] == index->name_length &&
           memcmp(data - index->name_length, index->name, index->name_length) == 0;
}

static enum sf_status read_run(const struct sf_index *index, struct sf_file *file,
                               const struct sf_index_run *run, uint8_t *buf,
                               uint8_t *scratch, struct sf_err *err)
{
    const uint64_t size = index->page_size;
    uint64_t done = 0;

    while (done < run->count) {
        const uint64_t offset = run->value - SF_INDEX_BASE + done * run->stride;
        const uint64_t lead = sf_min(WORD_LENGTH + 1 + index->name_length, offset);
        uint64_t count = 1;
        if (run->stride != 0) {
            count =
                sf_min(run->count - done, 1 + (READ_PIECE - lead - size) / run->stride);
        }
        const struct sf_piece piece = {
            scratch, (size_t)(lead + (count - 1) * run->stride + size), offset - lead};
        const enum sf_status status = sf_file_read_pieces(file, &piece, 1, err);
        if (status != SF_OK) {
            return status;
        }
        for (uint64_t i = 0; i < count; i++) {
            const uint64_t at = lead + i * run->stride;
            if (!is_page(index, scratch + at, at, run->first + done + i)) {
                return sf_err_set(err, SF_E_FORMAT, offset + i * run->stride,
                                  "page %llu is not where the index has it; the file "
                                  "changed, or the index belongs to another one",
                                  (unsigned long long)(run->first + done + i));
            }
            memcpy(buf + (done + i) * size, scratch + at, (size_t)size);
        }
        done += count;
    }
    return SF_OK;
}

enum sf_status sf_index_read(const struct sf_index *index, struct sf_file *file,
                             uint64_t first, uint64_t count, uint8_t *buf,
                             struct sf_err *err)
{
    const uint64_t size = index->page_size;
    enum sf_status status;
    struct sf_index_run run;
    uint8_t *scratch = NULL;
    uint64_t at = first;

    if (first > index->npages || count > index->npages - first) {
        return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "pages beyond the block");
    }
    status = sf_file_acquire(file, err);
    if (status != SF_OK) {
        return status;
    }
    while (status == SF_OK && sf_index_next_run(index, at, first + count, &run)) {
        uint8_t *out = buf + (at - first) * size;
        if (run.value == SF_INDEX_DELTA) {
            status = sf_err_set(err, SF_E_CONTENT, SF_NO_OFFSET,
                                "an XBZRLE delta needs the page's content");
        } else if (run.value < SF_INDEX_BASE) {
            memset(out, 0, (size_t)(run.count * size));
        } else {
            if (scratch == NULL) {
                const uint64_t most =
                    (first + count - at) * (size + MAX_EXTRA) + MAX_EXTRA;
                scratch = calloc(1, (size_t)sf_min(READ_PIECE, most));
            }
            status = scratch == NULL
                         ? sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "page buffer")
                         : read_run(index, file, &run, out, scratch, err);
        }
        at += run.count;
    }
    free(scratch);
    sf_file_release(file);
    return status;
}
