/* Pages of any bitmaps filled, summed, and moved to other places; beside them a watch
 * for some bytes.  All against loops.
 *
 * Input: page size, counts, offsets, window, then bitmaps. */
#include "fuzz.h"
#include "sf_fill.h"
#include "sf_move.h"

#define NBLOCKS 2u
#define MOST 2048u /* pages a block */
#define ROOM ((uint64_t)8 << 20)

static void await(struct sf_job *job)
{
    while (sf_job_wait(job, 1000, NULL) == SF_AGAIN) {
    }
    CHECK(sf_job_finish(job, NULL) == SF_OK);
}

/* Every present page is another one and none is zero; gaps are zeros. */
static void check_fill(struct sf_file *file, const struct sf_pages *pages, uint8_t *buf)
{
    CHECK(sf_pages_read(file, pages, 0, pages->count, buf, NULL) == SF_OK);
    for (uint64_t i = 0; i < pages->count; i++) {
        const uint64_t offset = pages->offset + i * pages->page_size;
        const bool present = sf_bit_test(pages->bitmap, i);
        CHECK(sf_be64(buf + i * pages->page_size) == (present ? offset + 1 : 0));
    }
}

static void check_block(struct sf_file *target, uint64_t offset,
                        const struct sf_pages *pages, struct sf_table *table,
                        const uint8_t *expected)
{
    const size_t size = pages->page_size;
    uint8_t *now = fuzz_zeros((size_t)pages->count * size);

    CHECK(sf_file_read(target, now, (size_t)pages->count * size, offset, NULL) ==
          SF_OK);
    CHECK(memcmp(now, expected, (size_t)pages->count * size) == 0);
    for (uint64_t i = 0; i < pages->count; i++) {
        const uint64_t sum =
            sf_sum_page(fuzz_key(), expected + i * size, pages->page_size);
        CHECK(sf_table_entries(table)[i] == sum);
    }
    free(now);
}

/* The watch saw the first page of each block, if it is there. */
static void check_watch(const struct sf_watch *watch, const struct sf_pages *pages,
                        const uint64_t *offsets)
{
    const uint64_t wanted = sf_be64(watch->bytes) - 1;
    unsigned count = 0;

    for (unsigned i = 0; i < NBLOCKS; i++) {
        if (pages[i].count != 0 && sf_bit_test(pages[i].bitmap, 0) &&
            pages[i].offset == wanted) {
            count++;
            CHECK(watch->count == 1 && watch->hits[0] == offsets[i]);
        }
    }
    CHECK(watch->count == count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    const uint32_t page_size = SF_MIN_PAGE << fuzz_below(&input, 1, 3);
    const uint64_t window = (uint64_t)(8u * SF_MAX_PAGE) << fuzz_below(&input, 1, 2);
    struct sf_file *source = fuzz_file(NBLOCKS * ROOM, 0);
    struct sf_file *target = fuzz_file(NBLOCKS * ROOM, 0);
    uint8_t *bitmaps[NBLOCKS];
    uint8_t *content[NBLOCKS];
    struct sf_pages pages[NBLOCKS];
    struct sf_table *tables[NBLOCKS];
    uint64_t offsets[NBLOCKS];
    uint64_t hits[2];
    uint8_t bytes[8];
    struct sf_watch watch = {bytes, hits, sizeof bytes, 0, 2, 0};
    struct sf_job *job = NULL;

    for (unsigned i = 0; i < NBLOCKS; i++) {
        const uint64_t count = fuzz_below(&input, 2, MOST + 1);
        bitmaps[i] = fuzz_zeros((size_t)(count + 63) / 64 * 8);
        pages[i] = (struct sf_pages){
            bitmaps[i], count, i * ROOM + fuzz_below(&input, 2, 65536), page_size, 0};
        offsets[i] = i * ROOM + fuzz_below(&input, 2, 65536);
        CHECK(sf_table_new(count, &tables[i], NULL) == SF_OK);
    }
    sf_put_be64(bytes, pages[fuzz_below(&input, 1, NBLOCKS)].offset + 1);
    for (uint64_t page = 0; input.left != 0; page++) {
        const uint64_t choice = fuzz_take(&input, 1);
        struct sf_pages *block = &pages[choice & 1];
        page += choice & 2 ? fuzz_take(&input, 1) : 0;
        for (uint64_t k = 0; k <= choice >> 2 && page < block->count; k++, page++) {
            sf_bit_set(block->bitmap, page);
        }
    }
    CHECK(sf_fill_start(source, pages, NBLOCKS, window, 2, &job, NULL) == SF_OK);
    await(job);
    const struct sf_move move = {source,     pages,  target,  offsets, tables,
                                 fuzz_key(), &watch, NBLOCKS, 2,       window};
    CHECK(sf_move_start(&move, &job, NULL) == SF_OK);
    await(job);
    check_watch(&watch, pages, offsets);
    for (unsigned i = 0; i < NBLOCKS; i++) {
        content[i] = fuzz_zeros((size_t)pages[i].count * page_size);
        check_fill(source, &pages[i], content[i]);
        check_block(target, offsets[i], &pages[i], tables[i], content[i]);
        free(content[i]);
        free(bitmaps[i]);
        sf_table_free(tables[i]);
    }
    sf_file_free(source);
    sf_file_free(target);
    return 0;
}
