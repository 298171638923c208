/* A view of a file. */
#include "sf_extents.h"

#include <stdlib.h>
#include <string.h>

struct sf_extents {
    uint64_t length;
    size_t count;
    struct sf_extent list[];
};

static bool is_sound(const struct sf_extent *extents, size_t count, uint64_t length,
                     uint64_t file_length)
{
    uint64_t end = 0;

    for (size_t i = 0; i < count; i++) {
        const struct sf_extent *extent = &extents[i];
        if (extent->len == 0 || extent->offset < end || extent->offset > length ||
            extent->len > length - extent->offset) {
            return false;
        }
        if (extent->bytes == NULL && (extent->place > file_length ||
                                      extent->len > file_length - extent->place)) {
            return false;
        }
        end = extent->offset + extent->len;
    }
    return true;
}

/* How many bytes are told outright; those of a sound list are in memory, so they fit. */
static size_t count_bytes(const struct sf_extent *extents, size_t count)
{
    size_t total = 0;

    for (size_t i = 0; i < count; i++) {
        total += extents[i].bytes != NULL ? (size_t)extents[i].len : 0;
    }
    return total;
}

/* Copy the bytes that are told outright to where there is room for them. */
static void take_bytes(struct sf_extents *extents, uint8_t *room)
{
    for (size_t i = 0; i < extents->count; i++) {
        struct sf_extent *extent = &extents->list[i];
        if (extent->bytes != NULL) {
            memcpy(room, extent->bytes, (size_t)extent->len);
            extent->bytes = room;
            room += extent->len;
        }
    }
}

enum sf_status sf_extents_new(const struct sf_extent *extents, size_t count,
                              uint64_t length, uint64_t file_length,
                              struct sf_extents **out, struct sf_err *err)
{
    if (length > INT64_MAX || !is_sound(extents, count, length, file_length)) {
        return sf_err_set(err, SF_E_RANGE, SF_NO_OFFSET, "extents out of order");
    }
    const size_t told = count_bytes(extents, count);
    struct sf_extents *copy = calloc(1, sizeof *copy + count * sizeof *extents + told);
    if (copy == NULL) {
        return sf_err_set(err, SF_E_NOMEM, SF_NO_OFFSET, "extents");
    }
    copy->length = length;
    copy->count = count;
    if (count != 0) {
        memcpy(copy->list, extents, count * sizeof *extents);
        take_bytes(copy, (uint8_t *)(copy->list + count));
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

/* Find what lies at OFFSET of the view, which is inside of it, and how many bytes from
 * there on are of one kind.  NULL: they are zeros. */
static const struct sf_extent *find(const struct sf_extents *extents, uint64_t offset,
                                    uint64_t *len)
{
    const size_t i = search(extents, offset);

    if (i == extents->count) {
        *len = extents->length - offset;
        return NULL;
    }
    const struct sf_extent *extent = &extents->list[i];
    if (extent->offset > offset) {
        *len = extent->offset - offset;
        return NULL;
    }
    *len = extent->offset + extent->len - offset;
    return extent;
}

void sf_extents_next(const struct sf_extents *extents, uint64_t offset, uint64_t *start,
                     uint64_t *len)
{
    *start = offset;
    *len = 0;
    while (*start < extents->length && find(extents, *start, len) == NULL) {
        *start += *len;
        *len = 0;
    }
}

unsigned sf_extents_cut(const struct sf_extents *extents, struct sf_piece *left,
                        struct sf_piece *parts, unsigned room)
{
    unsigned count = 0;

    while (left->len != 0 && count < room) {
        struct sf_piece part = {left->buf, 0, 0};
        uint64_t same = 0;
        const struct sf_extent *extent = find(extents, left->offset, &same);
        part.len = (size_t)sf_min(same, left->len);
        if (extent == NULL) {
            memset(part.buf, 0, part.len);
        } else if (extent->bytes != NULL) {
            memcpy(part.buf, extent->bytes + (left->offset - extent->offset), part.len);
        } else {
            part.offset = extent->place + (left->offset - extent->offset);
            parts[count++] = part;
        }
        left->buf += part.len;
        left->len -= part.len;
        left->offset += part.len;
    }
    return count;
}

bool sf_extents_whole(const struct sf_extents *extents, uint64_t *place)
{
    if (extents->count != 1 || extents->list[0].len != extents->length ||
        extents->list[0].bytes != NULL) {
        return false;
    }
    *place = extents->list[0].place;
    return true;
}
