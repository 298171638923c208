/* sf_text: runs are where each character is printable, and end where one is not. */
#include "check.h"
#include "sf_text.h"

static bool printable(uint8_t c)
{
    return c == '\t' || (c >= ' ' && c <= '~');
}

static bool is_text(const uint8_t *data, size_t at, enum sf_text_encoding encoding)
{
    if (encoding == SF_TEXT_ASCII) {
        return printable(data[at]);
    }
    const size_t low = encoding == SF_TEXT_UTF16LE ? at : at + 1;
    return printable(data[low]) && data[2 * at + 1 - low] == 0;
}

static void test_against_slow_runs(void)
{
    static const uint8_t letters[] = {'a', '~', ' ', '\t', 0, 0, 0x7f, 0x1f};
    struct dice dice = {11};

    for (unsigned turn = 0; turn < 20000; turn++) {
        const enum sf_text_encoding encoding = (enum sf_text_encoding)(turn % 3);
        const size_t width = encoding == SF_TEXT_ASCII ? 1 : 2;
        const size_t len = roll(&dice) % 60 * width;
        const size_t least = 1 + roll(&dice) % 4;
        uint8_t *data = grab(len + 1);
        uint64_t out[3][2];
        size_t next = 0;
        size_t at = 0;

        for (size_t i = 0; i < len; i++) {
            data[i] = letters[roll(&dice) % sizeof letters];
        }
        while (next < len) {
            const size_t count =
                sf_text_runs(data, len, encoding, least, next, out, 3, &next);
            for (size_t i = 0; i <= count; i++) {
                const size_t start = i < count ? out[i][0] : next;
                /* What is between the runs told is no text, or too little of it. */
                for (size_t run = 0; at < start; at += width) {
                    run = is_text(data, at, encoding) ? run + 1 : 0;
                    CHECK(run < least);
                }
                if (i < count) {
                    const size_t end = start + out[i][1];
                    for (; at < end; at += width) {
                        CHECK(is_text(data, at, encoding));
                    }
                    CHECK(start == 0 || !is_text(data, start - width, encoding));
                    CHECK(end == len || !is_text(data, end, encoding));
                    CHECK(out[i][1] >= least * width || start == 0 || end == len);
                }
            }
        }
        free(data);
    }
}

/* Write what a text looks like, with these characters escaped. */
static size_t show(char *out, const uint8_t *text, size_t count, size_t width,
                   const char *escaped)
{
    size_t used = 0;

    for (size_t i = 0; i < count; i++) {
        const char c = (char)text[i * width];
        if (strchr(escaped, c) != NULL) {
            out[used++] = '\\';
        }
        out[used++] = c == '\t' ? 't' : c;
    }
    return used;
}

/* The lines, in however many pieces they come, are those of the runs inside. */
static void test_lines_of_runs(void)
{
    static const uint8_t letters[] = {'a', '"', '\\', '\t', 0, 0, 0x80};
    static const struct sf_line_part parts[] = {
        {SF_LINE_BYTES, (const uint8_t *)"#", 1, 0},
        {SF_LINE_DECIMAL, NULL, 0, 1000},
        {SF_LINE_HEX, NULL, 0, 0xfff0},
        {SF_LINE_TEXT, NULL, 0, 0},
        {SF_LINE_JSON, NULL, 0, 0},
    };
    struct dice dice = {12};

    for (unsigned turn = 0; turn < 5000; turn++) {
        const enum sf_text_encoding encoding = (enum sf_text_encoding)(turn % 3);
        const size_t width = encoding == SF_TEXT_ASCII ? 1 : 2;
        const size_t low = encoding == SF_TEXT_UTF16BE ? 1 : 0;
        const size_t len = roll(&dice) % 50 * width;
        const size_t cap = 250 + roll(&dice) % 500; /* one line always fits */
        uint8_t *data = grab(len + 1);
        uint8_t *out = grab(cap);
        char expected[4096];
        char made[4096];
        uint64_t runs[64][2];
        size_t wanted = 0;
        size_t used = 0;
        size_t next = 0;

        for (size_t i = 0; i < len; i++) {
            data[i] = letters[roll(&dice) % sizeof letters];
        }
        const size_t count = sf_text_runs(data, len, encoding, 2, 0, runs, 64, &next);
        CHECK(next == len);
        for (size_t i = 0; i < count; i++) {
            const size_t at = runs[i][0];
            const size_t length = runs[i][1];
            if (at != 0 && at + length != len) {
                const uint8_t *text = data + at + low;
                wanted += (size_t)sprintf(expected + wanted, "#%zu0x%zx", at + 1000,
                                          at + 0xfff0);
                wanted += show(expected + wanted, text, length / width, width, "\t");
                wanted +=
                    show(expected + wanted, text, length / width, width, "\t\"\\");
            }
        }
        for (size_t from = 0; from < len; from = next) {
            const size_t piece =
                sf_text_lines(data, len, encoding, 2, from, parts, 5, out, cap, &next);
            CHECK(piece <= cap && next > from);
            memcpy(made + used, out, piece);
            used += piece;
        }
        CHECK(used == wanted && memcmp(made, expected, used) == 0);
        free(out);
        free(data);
    }
}

static void test_too_little_room_takes_nothing(void)
{
    static const struct sf_line_part part = {SF_LINE_TEXT, NULL, 0, 0};
    uint8_t out[1];
    size_t next = 7;

    CHECK(sf_text_lines((const uint8_t *)"\0abcd\0", 6, SF_TEXT_ASCII, 4, 0, &part, 1,
                        out, sizeof out, &next) == 0);
    CHECK(next == 0);
}

int main(void)
{
    test_lines_of_runs();
    test_too_little_room_takes_nothing();
    test_against_slow_runs();
    return 0;
}
