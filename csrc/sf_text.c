/* Runs of printable characters. */
#include "sf_text.h"

static bool is_printable(uint8_t c)
{
    return (c >= 0x20 && c < 0x7f) || c == '\t';
}

static bool is_text(const uint8_t *data, size_t at, enum sf_text_encoding encoding)
{
    switch (encoding) {
    case SF_TEXT_UTF16LE:
        return is_printable(data[at]) && data[at + 1] == 0;
    case SF_TEXT_UTF16BE:
        return is_printable(data[at + 1]) && data[at] == 0;
    default:
        return is_printable(data[at]);
    }
}

size_t sf_text_runs(const uint8_t *data, size_t len, enum sf_text_encoding encoding,
                    size_t least, size_t from, uint64_t (*out)[2], size_t cap,
                    size_t *next)
{
    const size_t width = encoding == SF_TEXT_ASCII ? 1 : 2;
    size_t count = 0;
    size_t at = from;

    while (at < len && count < cap) {
        size_t end = at;
        while (end < len && is_text(data, end, encoding)) {
            end += width;
        }
        if (end > at && (end - at >= least * width || at == 0 || end == len)) {
            out[count][0] = at;
            out[count][1] = end - at;
            count++;
        }
        at = end < len ? end + width : len;
    }
    *next = at;
    return count;
}
