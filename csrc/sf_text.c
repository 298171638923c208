/* Runs of printable characters, and lines that show them. */
#include "sf_text.h"

#include <string.h>

/* A table: a comparison a byte costs twice the time where texts and other bytes mix. */
#define ROW(value) value, value, value, value, value, value, value, value
static const uint8_t printable[256] = {
    0,      0,           0,      0,      0,           0,      0,      0,
    0,      1 /* tab */, 0,      0,      0,           0,      0,      0,
    ROW(0), ROW(0),      ROW(1), ROW(1), ROW(1),      ROW(1), ROW(1), ROW(1),
    ROW(1), ROW(1),      ROW(1), ROW(1), ROW(1),      1,      1,      1,
    1,      1,           1,      1,      0 /* DEL */,
};
#undef ROW

#define INLINE static inline __attribute__((always_inline))

INLINE bool is_text(const uint8_t *data, size_t at, enum sf_text_encoding encoding)
{
    switch (encoding) {
    case SF_TEXT_UTF16LE:
        return printable[data[at]] && data[at + 1] == 0;
    case SF_TEXT_UTF16BE:
        return printable[data[at + 1]] && data[at] == 0;
    default:
        return printable[data[at]];
    }
}

/* Where in some data texts are looked for. */
struct search {
    const uint8_t *data;
    size_t len;
    enum sf_text_encoding encoding;
    size_t width; /* bytes a character */
    size_t span;  /* bytes that make a text */
    size_t tail;  /* where the run that touches the end begins; LEN if none does */
    size_t
        at; /* where to continue: behind bytes that are not text, or at the beginning */
};

struct run {
    size_t start, end;
};

INLINE bool find_run(struct search *search, enum sf_text_encoding encoding,
                     struct run *run)
{
    const uint8_t *data = search->data;
    const size_t len = search->len;
    const size_t width = encoding == SF_TEXT_ASCII ? 1 : 2;
    size_t at = search->at;

    if (at == 0 && len > 0) {
        while (at < len && is_text(data, at, encoding)) {
            at += width;
        }
        search->at = at < len ? at + width : len;
        if (at > 0) {
            *run = (struct run){0, at};
            return true;
        }
        at = search->at;
    }
    /* A text that begins at AT reaches over the whole span: its last character is
     * looked at first, and all up to one that is no text is passed at once. */
    while (at <= search->tail && search->span <= search->tail - at) {
        size_t end = at + search->span;
        while (end > at && is_text(data, end - width, encoding)) {
            end -= width;
        }
        if (end > at) {
            at = end;
            continue;
        }
        end = at + search->span;
        while (end < search->tail && is_text(data, end, encoding)) {
            end += width;
        }
        search->at = end < len ? end + width : len;
        *run = (struct run){at, end};
        return true;
    }
    at = sf_max(search->at, search->tail);
    search->at = len;
    *run = (struct run){at, len};
    return at < len;
}

/* Find the next run that is told.  One copy of the loop for each encoding. */
static bool next_run(struct search *search, struct run *run)
{
    switch (search->encoding) {
    case SF_TEXT_UTF16LE:
        return find_run(search, SF_TEXT_UTF16LE, run);
    case SF_TEXT_UTF16BE:
        return find_run(search, SF_TEXT_UTF16BE, run);
    default:
        return find_run(search, SF_TEXT_ASCII, run);
    }
}

static struct search begin(const uint8_t *data, size_t len,
                           enum sf_text_encoding encoding, size_t least, size_t from)
{
    const size_t width = encoding == SF_TEXT_ASCII ? 1 : 2;
    size_t tail = len;

    while (tail > from && is_text(data, tail - width, encoding)) {
        tail -= width;
    }
    return (struct search){data, len, encoding, width, least * width, tail, from};
}

size_t sf_text_runs(const uint8_t *data, size_t len, enum sf_text_encoding encoding,
                    size_t least, size_t from, uint64_t (*out)[2], size_t cap,
                    size_t *next)
{
    struct search search = begin(data, len, encoding, least, from);
    struct run run;
    size_t count = 0;

    while (count < cap && next_run(&search, &run)) {
        out[count][0] = run.start;
        out[count][1] = run.end - run.start;
        count++;
    }
    *next = search.at;
    return count;
}

#define NUMBER_MAX 20u /* 64 bits in decimal; hexadecimal takes 18 */

static uint8_t *put_hex(uint8_t *out, uint64_t number)
{
    const unsigned bits = 64u - (unsigned)__builtin_clzll(number | 1);

    *out++ = '0';
    *out++ = 'x';
    for (unsigned shift = (bits + 3) / 4 * 4; shift > 0; shift -= 4) {
        *out++ = (uint8_t)"0123456789abcdef"[(number >> (shift - 4)) & 15];
    }
    return out;
}

static uint8_t *put_decimal(uint8_t *out, uint64_t number)
{
    uint8_t digits[NUMBER_MAX];
    size_t count = 0;

    do {
        digits[count++] = (uint8_t)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    while (count > 0) {
        *out++ = digits[--count];
    }
    return out;
}

/* In a plain line a tab would move what follows it; in a string of JSON two more
 * characters would end or begin something. */
INLINE uint8_t *put_text(uint8_t *out, const uint8_t *text, size_t count, size_t width,
                         bool json)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t c = text[i * width];
        if (c == '\t' || (json && (c == '"' || c == '\\'))) {
            *out++ = '\\';
            *out++ = c == '\t' ? 't' : c;
        } else {
            *out++ = c;
        }
    }
    return out;
}

static uint8_t *put_part(uint8_t *out, const struct sf_line_part *part, size_t at,
                         const uint8_t *text, size_t count, size_t width)
{
    switch (part->kind) {
    case SF_LINE_BYTES:
        memcpy(out, part->bytes, part->len);
        return out + part->len;
    case SF_LINE_HEX:
        return put_hex(out, part->number + at);
    case SF_LINE_DECIMAL:
        return put_decimal(out, part->number + at);
    case SF_LINE_JSON:
        return put_text(out, text, count, width, true);
    default:
        return width == 1 ? put_text(out, text, count, 1, false)
                          : put_text(out, text, count, 2, false);
    }
}

/* The most that a line about COUNT characters takes. */
static size_t line_room(const struct sf_line_part *parts, size_t part_count,
                        size_t count)
{
    size_t room = 0;

    for (size_t i = 0; i < part_count; i++) {
        switch (parts[i].kind) {
        case SF_LINE_BYTES:
            room += parts[i].len;
            break;
        case SF_LINE_HEX:
        case SF_LINE_DECIMAL:
            room += NUMBER_MAX;
            break;
        default:
            room += 2 * count;
        }
    }
    return room;
}

size_t sf_text_lines(const uint8_t *data, size_t len, enum sf_text_encoding encoding,
                     size_t least, size_t from, const struct sf_line_part *parts,
                     size_t part_count, uint8_t *out, size_t cap, size_t *next)
{
    struct search search = begin(data, len, encoding, least, from);
    const size_t low = encoding == SF_TEXT_UTF16BE ? 1 : 0;
    uint8_t *to = out;
    struct run run;

    for (*next = from; next_run(&search, &run); *next = search.at) {
        const size_t count = (run.end - run.start) / search.width;
        if (run.start == 0 || run.end == len) {
            continue;
        }
        if (line_room(parts, part_count, count) > cap - (size_t)(to - out)) {
            return (size_t)(to - out);
        }
        for (size_t i = 0; i < part_count; i++) {
            to = put_part(to, &parts[i], run.start, data + run.start + low, count,
                          search.width);
        }
    }
    *next = search.at;
    return (size_t)(to - out);
}
