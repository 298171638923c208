/* A view of files. */
#include "sf_extents.h"

#include <stdlib.h>
#include <string.h>

struct sf_extents {
    uint64_t length;
    size_t count;
    struct sf_extent list[];
};

static bool is_sound(const struct sf_extent *extents, size_t count, uint64_t length,
                     const uint64_t *lengths, unsigned nfiles)
{
    uint64_t end = 0;

    for (size_t i = 0; i < count; i++) {
        const struct sf_extent *extent = &extents[i];
        if (extent->len == 0 || extent->offset < end || extent->offset > length ||
            extent->len > length - extent->offset || extent->source >= nfiles ||
            extent->place > lengths[extent->source] ||
            extent->len > lengths[extent->source] - extent->place) {
            return false;
        }
        end = extent->offset + extent->len;
    }
    return true;
}

enum sf_status sf_extents_new(const struct sf_extent *extents, size_t count,
                              uint64_t length, const uint64_t *lengths, unsigned nfiles,
                              struct sf_extents **out, struct sf_err *err)
{
    if (length > INT64_MAX || !is_sound(extents, count, length, lengths, nfiles)) {
        return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "extents out of order");
    }
    struct sf_extents *copy = calloc(1, sizeof *copy + count * sizeof *extents);
    if (copy == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "extents");
    }
    copy->length = length;
    copy->count = count;
    if (count != 0) {
        memcpy(copy->list, extents, count * sizeof *extents);
    }
    *out = copy;
    return SF_OK;
}

void sf_extents_free(struct sf_extents *extents)
{
    free(extents);
}

/* The first extent that ends behind OFFSET. */
static size_t search(const struct sf_extents *extents, uint64_t offset)
{
    size_t low = 0;
    size_t high = extents->count;

    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (extents->list[middle].offset + extents->list[middle].len > offset) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

/* Find what lies at OFFSET of the view, which is inside of it: how many bytes from
 * there on are of one kind, and where and in which file they lie.  False: they are
 * zeros. */
static bool find(const struct sf_extents *extents, uint64_t offset, uint64_t *len,
                 uint64_t *place, uint32_t *source)
{
    const size_t i = search(extents, offset);

    if (i == extents->count) {
        *len = extents->length - offset;
        return false;
    }
    const struct sf_extent *extent = &extents->list[i];
    if (extent->offset > offset) {
        *len = extent->offset - offset;
        return false;
    }
    *len = extent->offset + extent->len - offset;
    *place = extent->place + (offset - extent->offset);
    *source = extent->source;
    return true;
}

void sf_extents_next(const struct sf_extents *extents, uint64_t offset, uint64_t *start,
                     uint64_t *len)
{
    uint64_t place;
    uint32_t source;

    *start = offset;
    *len = 0;
    while (*start < extents->length && !find(extents, *start, len, &place, &source)) {
        *start += *len;
        *len = 0;
    }
}

unsigned sf_extents_cut(const struct sf_extents *extents, struct sf_piece *left,
                        struct sf_part *parts, unsigned room)
{
    unsigned count = 0;

    while (left->len != 0 && count < room) {
        struct sf_part part = {{left->buf, 0, 0}, 0};
        struct sf_piece *piece = &part.piece;
        uint64_t same = 0;
        const bool data =
            find(extents, left->offset, &same, &piece->offset, &part.source);
        piece->len = (size_t)sf_min(same, left->len);
        if (data) {
            parts[count++] = part;
        } else {
            memset(piece->buf, 0, piece->len);
        }
        left->buf += piece->len;
        left->len -= piece->len;
        left->offset += piece->len;
    }
    return count;
}

bool sf_extents_whole(const struct sf_extents *extents, uint64_t *place)
{
    if (extents->count != 1 || extents->list[0].len != extents->length ||
        extents->list[0].source != 0) {
        return false;
    }
    *place = extents->list[0].place;
    return true;
}
