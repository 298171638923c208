/* An index under any sequence of puts, packs, listings and loads, against an array.
 *
 * Input: the number of pages, then steps. */
#include "fuzz.h"
#include "sf_index.h"

#define PAGE 512u
#define MAX_PAGES 1600u
#define MAX_STEPS 300u
#define BATCH 9u

static uint64_t npages;

static struct sf_index *new_index(void)
{
    struct sf_index *index = NULL;
    CHECK(sf_index_new(npages, PAGE, "ram", 3, &index, NULL) == SF_OK);
    return index;
}

/* FROM and END bound what is compared. */
static void compare(const struct sf_index *index, const uint64_t *model, uint64_t from,
                    uint64_t end)
{
    struct sf_index_run run;

    while (sf_index_next_run(index, from, end, &run)) {
        CHECK(run.first == from && run.count != 0 && run.count <= end - from);
        for (uint64_t i = 0; i < run.count; i++) {
            CHECK(model[from + i] == run.value + i * run.stride);
        }
        from += run.count;
    }
    CHECK(from == end);
}

static void put_some(struct sf_index *index, struct fuzz_input *input, uint64_t *model,
                     uint64_t *last)
{
    const uint64_t kind = fuzz_take(input, 1);
    const uint64_t count = 1 + fuzz_take(input, 1);
    const uint64_t stride = PAGE + (kind & 0x80 ? fuzz_below(input, 2, 700) : 8);
    uint64_t page = fuzz_below(input, 2, npages);

    for (uint64_t i = 0; i < count && page < npages; i++, page++) {
        uint64_t value = kind & 3;
        if (value >= SF_INDEX_BASE) {
            value = *last += stride;
        }
        CHECK(sf_index_put(index, page, value, NULL) == SF_OK);
        model[page] = value;
    }
}

/* What an index lists, a fresh one takes. */
static struct sf_index *reload(struct sf_index *index, size_t cap)
{
    struct sf_index *fresh = new_index();
    struct sf_index_run runs[BATCH];
    uint64_t from = 0;

    for (size_t count; (count = sf_index_list(index, from, npages, runs, cap)) != 0;
         from = runs[count - 1].first + runs[count - 1].count) {
        CHECK(sf_index_load(fresh, runs, count, 0, UINT64_C(1) << 40, NULL) == SF_OK);
    }
    CHECK(from == npages);
    sf_index_free(index);
    return fresh;
}

/* Runs that anybody may have made up are refused, or come out as they went in. */
static void load_lies(struct fuzz_input *input)
{
    struct sf_index *index = new_index();
    uint64_t *model = (uint64_t *)(void *)fuzz_zeros(npages * sizeof(uint64_t));
    struct sf_index_run runs[4];
    const size_t count = 1 + fuzz_below(input, 1, 4);
    uint64_t at = fuzz_below(input, 2, npages);

    for (size_t i = 0; i < count; i++) {
        const uint64_t lies = fuzz_take(input, 1);
        runs[i].first = lies & 1 ? fuzz_take(input, 8) : at;
        runs[i].count = lies & 2 ? fuzz_take(input, 8) : 1 + fuzz_take(input, 1);
        runs[i].value = fuzz_take(input, lies & 4 ? 8 : 2);
        runs[i].stride = lies & 8    ? fuzz_take(input, 8)
                         : lies & 16 ? PAGE + 1 + fuzz_take(input, 1) * 2
                                     : 0;
        at = runs[i].first + runs[i].count;
    }
    if (sf_index_load(index, runs, count, 100, UINT64_C(1) << 62, NULL) == SF_OK) {
        for (size_t i = 0; i < count; i++) {
            for (uint64_t k = 0; k < runs[i].count; k++) {
                model[runs[i].first + k] = runs[i].value + k * runs[i].stride;
            }
        }
        compare(index, model, 0, npages);
    }
    free(model);
    sf_index_free(index);
}

/* Whatever stands in the file: an answer, and no overrun. */
static void read_some(const struct sf_index *index, struct fuzz_input *input)
{
    static struct sf_file *file;
    const uint64_t first = fuzz_below(input, 2, npages);
    const uint64_t count = fuzz_below(input, 2, npages - first + 1);
    uint8_t *buf = fuzz_zeros(count * PAGE);

    if (file == NULL) {
        file = fuzz_file(1 << 20, 0);
        for (uint64_t i = 0; i < MAX_PAGES; i++) {
            uint8_t word[8];
            sf_put_be64(word, i * PAGE | 0x28);
            CHECK(sf_file_write(file, word, 8, i * (PAGE + 8), NULL) == SF_OK);
        }
    }
    (void)sf_index_read(index, file, first, count, buf, NULL);
    free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint64_t model[MAX_PAGES];
    struct fuzz_input input = {data, size};
    uint64_t last = 5000;

    npages = 1 + fuzz_below(&input, 2, MAX_PAGES);
    memset(model, 0, sizeof model);
    struct sf_index *index = new_index();
    for (unsigned step = 0; input.left != 0 && step < MAX_STEPS; step++) {
        const uint64_t choice = fuzz_take(&input, 1);
        if (choice < 160) {
            put_some(index, &input, model, &last);
        } else if (choice < 180) {
            sf_index_pack(index);
        } else if (choice < 200) {
            index = reload(index, 1 + fuzz_below(&input, 1, BATCH));
        } else if (choice < 220) {
            load_lies(&input);
        } else if (choice < 235) {
            read_some(index, &input);
        } else {
            const uint64_t from = fuzz_below(&input, 2, npages + 1);
            compare(index, model, from,
                    from + fuzz_below(&input, 2, npages - from + 1));
        }
    }
    compare(index, model, 0, npages);
    CHECK(sf_index_memory(index) != 0);
    sf_index_free(index);
    return 0;
}
