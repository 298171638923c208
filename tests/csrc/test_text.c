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

int main(void)
{
    test_against_slow_runs();
    return 0;
}
