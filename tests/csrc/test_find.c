/* sf_find: every place that a slow search finds, and no other. */
#include "check.h"
#include "sf_find.h"

static bool fits(const struct sf_pattern *pattern, const uint8_t *data)
{
    for (size_t i = 0; i < pattern->length; i++) {
        if (((data[i] ^ pattern->value[i]) & pattern->mask[i]) != 0) {
            return false;
        }
    }
    return true;
}

/* Few different bytes, so that patterns do occur; the buffer is exactly as long as the
 * data, so that a sanitizer sees a look behind it. */
static void test_against_slow_search(void)
{
    static const uint8_t masks[] = {0xff, 0xff, 0xff, 0x00, 0xf0, 0xdf};
    struct dice dice = {7};

    for (unsigned turn = 0; turn < 20000; turn++) {
        const size_t len = roll(&dice) % 300;
        const size_t length = 1 + roll(&dice) % 6;
        const size_t cap = 1 + roll(&dice) % 5;
        uint8_t *data = grab(len + 1);
        uint8_t value[6], mask[6];
        uint64_t found[5];
        size_t next = 0;

        for (size_t i = 0; i < len; i++) {
            data[i] = (uint8_t)(roll(&dice) % 3);
        }
        for (size_t i = 0; i < length; i++) {
            value[i] = (uint8_t)(roll(&dice) % 3);
            mask[i] = masks[roll(&dice) % sizeof masks];
        }
        const struct sf_pattern pattern = {
            value, mask, length, {roll(&dice) % length, roll(&dice) % length}};
        size_t at = 0;
        while (next < len) {
            const size_t count = sf_find(&pattern, data, len, next, found, cap, &next);
            CHECK(count <= cap);
            for (size_t i = 0; i < count; i++) {
                for (; at < found[i]; at++) {
                    CHECK(!(at + length <= len && fits(&pattern, data + at)));
                }
                CHECK(at == found[i] && fits(&pattern, data + at));
                at++;
            }
        }
        for (; at + length <= len; at++) {
            CHECK(!fits(&pattern, data + at));
        }
        free(data);
    }
}

static void test_longer_than_the_data(void)
{
    static const uint8_t bytes[4] = {1, 2, 3, 4};
    const struct sf_pattern pattern = {bytes, bytes, 4, {0, 3}};
    uint64_t found[1];
    size_t next = 0;

    CHECK_EQ(sf_find(&pattern, bytes, 3, 0, found, 1, &next), 0);
    CHECK_EQ(next, 3);
}

int main(void)
{
    test_against_slow_search();
    test_longer_than_the_data();
    return 0;
}
