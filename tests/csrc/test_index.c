/* sf_index: runs say what a plain array says, and reads give what the records hold. */
#include "guest.h"
#include "sf_index.h"

#define NPAGES 3000u
#define SIZE 1024u
#define START 4096u
#define END (UINT64_C(1) << 40)

struct scene {
    struct sf_index *index;
    uint64_t plain[NPAGES];
};

static struct sf_index *new_index(uint64_t npages)
{
    struct sf_index *index = NULL;
    struct sf_err err;

    CHECK_OK(sf_index_new(npages, SIZE, "ram", 3, &index, &err), &err);
    return index;
}

static void put(struct scene *scene, uint64_t page, uint64_t value)
{
    struct sf_err err;

    CHECK_OK(sf_index_put(scene->index, page, value, &err), &err);
    scene->plain[page] = value;
}

/* All pages are covered, from wherever one asks. */
static void check_same(const struct scene *scene, struct dice *dice)
{
    struct sf_index_run runs[7];
    uint64_t at = below(dice, NPAGES);
    const uint64_t end = at + below(dice, NPAGES - at + 1);
    size_t count;

    while ((count = sf_index_list(scene->index, at, end, runs, 7)) != 0) {
        for (size_t i = 0; i < count; i++) {
            CHECK_EQ(runs[i].first, at);
            for (uint64_t k = 0; k < runs[i].count; k++) {
                CHECK_EQ(runs[i].value + k * runs[i].stride, scene->plain[at + k]);
            }
            at += runs[i].count;
        }
    }
    CHECK_EQ(at, end);
}

/* Pages in runs, now and then out of order or once more; CHAOS in 8 of them. */
static void fill(struct scene *scene, struct dice *dice, unsigned chaos)
{
    uint64_t offset = START + 100 + SF_INDEX_BASE;
    uint64_t page = 0;

    while (page < NPAGES) {
        const uint64_t kind = below(dice, 4);
        const uint64_t count = 1 + below(dice, below(dice, 3) ? 9 : 700);
        const uint64_t extra = below(dice, 5) ? 8 : 8 + below(dice, 600);
        if (below(dice, 8) < chaos) {
            page = below(dice, NPAGES);
        }
        for (uint64_t i = 0; i < count && page < NPAGES; i++, page++) {
            if (kind == 3) {
                continue; /* never sent */
            }
            put(scene, page, kind == 2 ? offset : kind);
            offset += kind == 2 ? SIZE + extra : 9;
        }
        offset += below(dice, 90);
        if (below(dice, 60) == 0) {
            return;
        }
    }
}

static struct scene *set_up(struct dice *dice, unsigned chaos)
{
    struct scene *scene = grab(sizeof *scene);

    scene->index = new_index(NPAGES);
    fill(scene, dice, chaos);
    return scene;
}

static void tear_down(struct scene *scene)
{
    sf_index_free(scene->index);
    free(scene);
}

/* Hand all runs to another index, in batches of BATCH. */
static struct sf_index *copy(const struct scene *scene, size_t batch)
{
    struct sf_index *index = new_index(NPAGES);
    struct sf_index_run runs[50];
    struct sf_err err;
    uint64_t at = 0;
    size_t count;

    while ((count = sf_index_list(scene->index, at, NPAGES, runs, batch)) != 0) {
        CHECK_OK(sf_index_load(index, runs, count, START, END, &err), &err);
        at = runs[count - 1].first + runs[count - 1].count;
    }
    return index;
}

static void test_any_order(void)
{
    struct dice dice = {50};

    for (unsigned turn = 0; turn < 200; turn++) {
        struct scene *scene = set_up(&dice, turn % 4);
        check_same(scene, &dice);
        sf_index_pack(scene->index);
        check_same(scene, &dice);
        fill(scene, &dice, 1); /* a packed one takes more */
        check_same(scene, &dice);
        struct sf_index *again = copy(scene, 1 + turn % 50);
        struct sf_index *first = scene->index;
        scene->index = again;
        check_same(scene, &dice);
        scene->index = first;
        sf_index_free(again);
        tear_down(scene);
    }
}

/* The bound: 16 bytes for 512 pages, and then by runs, or 8 bytes a page. */
static void test_memory(void)
{
    const uint64_t npages = UINT64_C(1) << 24; /* 64 GiB of 4 KiB pages */
    struct sf_index *index = new_index(npages);
    struct sf_err err;

    for (uint64_t page = 0; page < npages; page++) {
        const uint64_t value =
            page % 65536 < 30000 ? START + SF_INDEX_BASE + page * 1032 : SF_INDEX_ZERO;
        CHECK_OK(sf_index_put(index, page, value, &err), &err);
    }
    sf_index_pack(index);
    CHECK(sf_index_memory(index) <= npages / 512 * 32 + 65536);
    sf_index_free(index);

    index = new_index(NPAGES);
    for (unsigned turn = 0; turn < 3; turn++) {
        for (uint64_t page = 0; page < NPAGES; page++) {
            const uint64_t value = page % 2 ? SF_INDEX_ZERO : SF_INDEX_DELTA;
            CHECK_OK(sf_index_put(index, page, value, &err), &err);
        }
        CHECK(sf_index_memory(index) <= 6 * (512 * 8 + 16) + 512);
        sf_index_pack(index);
    }
    sf_index_free(index);
}

static void test_forged_runs(void)
{
    static const struct sf_index_run bad[] = {
        {NPAGES, 1, SF_INDEX_ZERO, 0},
        {0, 0, SF_INDEX_ZERO, 0},
        {1, NPAGES, SF_INDEX_ZERO, 0},
        {1, UINT64_MAX, SF_INDEX_ZERO, 0},
        {0, 2, SF_INDEX_ZERO, 8},
        {0, 2, START + SF_INDEX_BASE, 0},
        {0, 1, START + SF_INDEX_BASE, SIZE + 8},
        {0, 2, START + SF_INDEX_BASE, SIZE},
        {0, 2, START + SF_INDEX_BASE, SIZE + 513},
        {0, 2, START + SF_INDEX_BASE, UINT64_MAX},
        {0, 1, START - 1 + SF_INDEX_BASE, 0},
        {0, 1, END - SIZE + 1 + SF_INDEX_BASE, 0},
        {0, 2, END - SIZE + SF_INDEX_BASE, SIZE + 8},
        {0, 1, UINT64_MAX, 0},
    };
    const struct sf_index_run gap[] = {{0, 1, SF_INDEX_ZERO, 0},
                                       {2, 1, SF_INDEX_ZERO, 0}};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sf_index *index = new_index(NPAGES);
        CHECK_EQ(sf_index_load(index, &bad[i], 1, START, END, NULL), SF_E_FORMAT);
        sf_index_free(index);
    }
    struct sf_index *index = new_index(NPAGES);
    CHECK_EQ(sf_index_load(index, gap, 2, START, END, NULL), SF_E_FORMAT);
    sf_index_free(index);
}

/* A stream in a file, its index, and what the pages hold. */
static void test_reads(unsigned flags)
{
    struct dice dice = {51};
    struct guest guest;
    struct wire wire = {0};
    struct sf_err err;
    struct sf_record records[64];
    struct sf_index *indexes[GUEST_BLOCKS];

    guest_init(&guest, SIZE, 1500, 30);
    guest_fill(&guest, &dice);
    guest_records(&guest, &wire);
    wire_end(&wire);
    struct sf_file *file = scratch_file(wire.len, flags);
    CHECK_OK(sf_file_write(file, wire.data, wire.len, 0, &err), &err);
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        const uint32_t length = (uint32_t)strlen(guest.names[i]);
        CHECK_OK(sf_index_new(guest.counts[i], SIZE, guest.names[i], length,
                              &indexes[i], &err),
                 &err);
    }
    struct sf_scan *scan = guest_scan(&guest);
    size_t at = 0;
    size_t used;
    size_t count;
    bool done = false;
    sf_scan_begin(scan, 0);
    while (!done) {
        CHECK_OK(sf_scan_feed(scan, wire.data + at, wire.len - at, records, 64, &used,
                              &count, &done, &err),
                 &err);
        at += used;
        for (size_t i = 0; i < count; i++) {
            const uint64_t value = records[i].kind == SF_RECORD_ZERO
                                       ? SF_INDEX_ZERO
                                       : records[i].offset + SF_INDEX_BASE;
            CHECK_OK(
                sf_index_put(indexes[records[i].block], records[i].page, value, &err),
                &err);
        }
    }
    uint8_t *buf = grab(1500 * SIZE);
    for (unsigned i = 0; i < 200; i++) {
        const unsigned block = i % 4 ? 0 : 2;
        const uint64_t first = below(&dice, guest.counts[block]);
        const uint64_t pages = below(&dice, guest.counts[block] - first + 1);
        CHECK_OK(sf_index_read(indexes[block], file, first, pages, buf, &err), &err);
        CHECK(memcmp(buf, guest_page(&guest, block, first), (size_t)pages * SIZE) == 0);
    }
    /* Another page's record, and the same page's of another block, are noticed. */
    uint64_t page = 0;
    while (!sf_bit_test(guest.bitmaps[0], page) ||
           !sf_bit_test(guest.bitmaps[0], page + 1)) {
        page++;
    }
    struct sf_index_run run;
    CHECK(sf_index_next_run(indexes[0], page + 1, page + 2, &run));
    CHECK_OK(sf_index_put(indexes[0], page, run.value, &err), &err);
    CHECK_EQ(sf_index_read(indexes[0], file, page, 1, buf, &err), SF_E_FORMAT);
    CHECK_EQ(err.offset, run.value - SF_INDEX_BASE);
    CHECK_OK(sf_index_put(indexes[0], page, wire.len + SF_INDEX_BASE, &err), &err);
    CHECK_EQ(sf_index_read(indexes[0], file, page, 1, buf, &err), SF_E_TRUNCATED);
    CHECK_OK(sf_index_put(indexes[0], page, SF_INDEX_DELTA, &err), &err);
    CHECK_EQ(sf_index_read(indexes[0], file, page, 1, buf, &err), SF_E_CONTENT);
    CHECK_EQ(sf_index_read(indexes[0], file, 1500, 1, buf, &err), SF_E_RANGE);
    CHECK_EQ(sf_index_read(indexes[0], file, 1501, 0, buf, &err), SF_E_RANGE);
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        sf_index_free(indexes[i]);
    }
    free(buf);
    sf_scan_free(scan);
    sf_file_free(file);
    wire_free(&wire);
    guest_free(&guest);
}

static enum sf_status make_index(void *context, struct sf_err *err)
{
    struct sf_index *index = NULL;
    enum sf_status status = sf_index_new(NPAGES, SIZE, "ram", 3, &index, err);

    (void)context;
    for (uint64_t page = 0; status == SF_OK && page < 20; page++) {
        status = sf_index_put(index, page * 7 % 20, page % 2 + 1, err);
    }
    sf_index_free(index);
    return status;
}

int main(void)
{
    test_any_order();
    test_memory();
    test_forged_runs();
    test_reads(0);
    test_reads(SF_OPEN_DIRECT);
    fail_each(FAULT_MEMORY, ENOMEM, SF_E_NOMEM, make_index, NULL);
    return 0;
}
