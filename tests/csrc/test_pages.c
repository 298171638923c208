/* sf_pages: present pages to and from a mapped-ram file. */
#include "guest.h"
#include "sf_buffer.h"

#define MEMORY (1536u * 1024)

/* Any range of any block: clear pages are zero whatever the file holds there. */
static void test_reads(uint32_t page_size, unsigned flags)
{
    const uint64_t npages = sf_min(700, MEMORY / page_size);
    struct dice dice = {10 + page_size};
    struct sf_pages pages[GUEST_BLOCKS];
    struct guest guest;
    struct sf_err err;

    guest_init(&guest, page_size, npages, 9);
    guest_fill(&guest, &dice);
    struct sf_file *file = guest_file(&guest, flags, pages);
    const size_t room = (size_t)npages * page_size;
    uint8_t *buf = sf_buffer_alloc(room);

    for (unsigned i = 0; i < 150; i++) {
        const unsigned block = i % 4 ? 0 : 2;
        const uint64_t first = below(&dice, guest.counts[block]);
        const uint64_t count = below(&dice, guest.counts[block] - first + 1);
        memset(buf, 0xaa, room);
        if (i % 8 == 0) {
            fault_stutter();
        }
        CHECK_OK(sf_pages_read(file, &pages[block], first, count, buf, &err), &err);
        fault_off();
        CHECK(memcmp(buf, guest_page(&guest, block, first),
                     (size_t)count * page_size) == 0);
        CHECK(count == npages || buf[count * page_size] == 0xaa);
        CHECK_OK(sf_pages_fetch(file, &pages[block], first, count, buf, &err), &err);
        for (uint64_t page = first; page < first + count; page++) {
            CHECK(!sf_bit_test(guest.bitmaps[block], page) ||
                  memcmp(buf + (page - first) * page_size,
                         guest_page(&guest, block, page), page_size) == 0);
        }
    }
    CHECK_OK(sf_pages_read(file, &pages[1], 0, 0, buf, &err), &err);
    sf_buffer_free(buf, room);
    sf_file_free(file);
    guest_free(&guest);
}

static void random_bits(struct dice *dice, uint8_t *bits, uint64_t count, unsigned step)
{
    memset(bits, 0, bitmap_length(count));
    for (uint64_t page = 0; page < count; page++) {
        if (below(dice, step) == 0) {
            sf_bit_set(bits, page);
        }
    }
}

/* Set pages are written; others keep their bytes unless they may be filled. */
static void test_writes(uint32_t page_size, bool choosy)
{
    enum { MOST = 600, OFFSET = 8192 };
    const uint64_t npages = sf_min(MOST, MEMORY / page_size);
    struct dice dice = {11 + page_size};
    struct sf_err err;
    const size_t len = (size_t)npages * page_size;
    uint8_t bits[MOST / 8 + 8];
    uint8_t fillable[MOST / 8 + 8];
    uint8_t *old = grab(len);
    uint8_t *buf = sf_buffer_alloc(len);

    memset(old, 0xee, len);
    for (unsigned round = 0; round < 20; round++) {
        struct sf_file *file = scratch_file(OFFSET + len, 0);
        CHECK_OK(sf_file_write(file, old, len, OFFSET, &err), &err);
        memset(buf, 0x11, len);
        random_bits(&dice, bits, npages, 1 + round);
        random_bits(&dice, fillable, npages, 1 + round % 3);
        fault_off();
        CHECK_OK(sf_pages_write(file, OFFSET, page_size, npages, bits,
                                choosy ? fillable : NULL, buf, &err),
                 &err);
        CHECK(fault_writes() <= sf_page_count(bits, 0, npages));
        uint8_t *now = slurp(file, OFFSET, len);
        for (uint64_t page = 0; page < npages; page++) {
            const uint8_t *at = now + page * page_size;
            const bool filled = at[0] == 0;
            memset(buf, sf_bit_test(bits, page) ? 0x11 : filled ? 0 : 0xee, page_size);
            CHECK(memcmp(at, buf, page_size) == 0);
            CHECK(!filled || !choosy || sf_bit_test(fillable, page));
        }
        free(now);
        sf_file_free(file);
    }
    sf_buffer_free(buf, len);
    free(old);
}

/* Where all may be filled, neighbours separated by little go out in one write. */
static void test_short_gaps_save_writes(void)
{
    struct sf_err err;
    struct sf_file *file = scratch_file(64 * 4096, 0);
    uint8_t *buf = grab(64 * 4096);
    const uint8_t bits[] = {0x55, 0x55, 0, 0x09, 0, 0, 0x01, 0x80};

    memset(buf, 1, 64 * 4096);
    fault_off();
    CHECK_OK(sf_pages_write(file, 0, 4096, 64, bits, NULL, buf, &err), &err);
    /* 0 to 14 over single gaps; 24; 27; 48; 63 */
    CHECK_EQ(fault_writes(), 5);
    sf_file_free(file);
    free(buf);
}

/* A span takes steps as long as what it fetches has room. */
static void test_spans(void)
{
    uint8_t bitmap[512 / 8] = {0};
    const struct sf_pages pages = {bitmap, 500, 0, 4096, 0};

    CHECK_EQ(sf_pages_span(&pages, 0, 64, 64, 1000), 500);
    CHECK_EQ(sf_pages_span(&pages, 100, 64, 64, 128), 128);
    CHECK_EQ(sf_pages_span(&pages, 100, 64, 64, 130), 130);
    sf_bit_set(bitmap, 3);
    sf_bit_set(bitmap, 70);
    sf_bit_set(bitmap, 86); /* the 15 pages between are read along */
    sf_bit_set(bitmap, 499);
    CHECK_EQ(sf_pages_span(&pages, 0, 64, 19, 1000), 500);
    CHECK_EQ(sf_pages_span(&pages, 0, 64, 18, 1000), 448);
    CHECK_EQ(sf_pages_span(&pages, 0, 64, 17, 1000), 64);
    memset(bitmap, 0xff, 16);
    CHECK_EQ(sf_pages_span(&pages, 0, 64, 64, 1000), 64);
    CHECK_EQ(sf_pages_span(&pages, 0, 64, 1, 1000), 64); /* one step at least */
    CHECK_EQ(sf_pages_span(&pages, 0, 64, 128, 1000), 448);
}

static void test_failures_have_their_place(void)
{
    struct dice dice = {12};
    struct sf_pages pages[GUEST_BLOCKS];
    struct guest guest;
    struct sf_err err;

    guest_init(&guest, 4096, 400, 1);
    memset(guest.bitmaps[0], 0x0f, bitmap_length(400));
    guest_fill(&guest, &dice);
    struct sf_file *file = guest_file(&guest, 0, pages);
    uint8_t *buf = grab(400 * 4096);

    fault_at(FAULT_READ, 1, EIO);
    CHECK_EQ(sf_pages_read(file, &pages[0], 8, 100, buf, &err), SF_E_OS);
    CHECK_EQ(err.errnum, EIO);
    CHECK_EQ(err.offset, pages[0].offset + 8 * 4096);
    fault_at(FAULT_WRITE, 1, ENOSPC);
    CHECK_EQ(sf_pages_write(file, 4096, 4096, 400, guest.bitmaps[0], NULL, buf, &err),
             SF_E_OS);
    CHECK_EQ(err.errnum, ENOSPC);
    CHECK_EQ(err.offset, 4096);
    fault_off();
    pages[0].offset += 1u << 30;
    CHECK_EQ(sf_pages_read(file, &pages[0], 0, 100, buf, &err), SF_E_TRUNCATED);
    CHECK_EQ(err.offset, pages[0].offset);
    free(buf);
    sf_file_free(file);
    guest_free(&guest);
}

int main(void)
{
    static const uint32_t sizes[] = {512, 4096, 16384};
    for (unsigned i = 0; i < 3; i++) {
        test_reads(sizes[i], 0);
        test_reads(sizes[i], SF_OPEN_DIRECT);
        test_writes(sizes[i], false);
        test_writes(sizes[i], true);
    }
    test_short_gaps_save_writes();
    test_spans();
    test_failures_have_their_place();
    return 0;
}
