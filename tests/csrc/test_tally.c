/* sf_tally: sums and an index of sequential pages, the last record of a page winning.
 */
#include "guest.h"
#include "sf_tally.h"

#define START UINT64_C(100000)

struct scene {
    struct guest guest;
    struct wire stream;
    struct sf_table *tables[GUEST_BLOCKS];
    struct sf_index *indexes[GUEST_BLOCKS];
    uint64_t *key;
};

static void free_indexes(struct scene *scene)
{
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        sf_index_free(scene->indexes[i]);
        scene->indexes[i] = NULL;
    }
}

static void new_indexes(struct scene *scene)
{
    struct sf_err err;

    free_indexes(scene);
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        const char *name = scene->guest.names[i];
        CHECK_OK(sf_index_new(scene->guest.counts[i], scene->guest.page_size, name,
                              (uint32_t)strlen(name), &scene->indexes[i], &err),
                 &err);
    }
}

/* A live stream of a small guest; DELTAS out of 8 records are deltas. */
static void set_up(struct scene *scene, unsigned nrecords, unsigned deltas)
{
    struct dice dice = {40 + deltas};

    guest_init(&scene->guest, 1024, 300, 20);
    scene->stream = (struct wire){0};
    guest_live(&scene->guest, &dice, nrecords, deltas, &scene->stream);
    wire_end(&scene->stream);
    wire_bytes(&scene->stream, "junk", 4);
    scene->key = random_key(&dice);
    guest_tables(&scene->guest, scene->tables);
    memset(scene->indexes, 0, sizeof scene->indexes);
}

static void tear_down(struct scene *scene)
{
    free_tables(scene->tables);
    free_indexes(scene);
    free(scene->key);
    wire_free(&scene->stream);
    guest_free(&scene->guest);
}

/* Feed the stream in pieces of random length up to LIMIT. */
static enum sf_status feed(struct scene *scene, const uint64_t *key, uint64_t limit,
                           struct sf_err *err)
{
    struct dice dice = {41};
    struct sf_scan *scan = guest_scan(&scene->guest);
    struct sf_tally *tally = NULL;
    enum sf_status status = sf_tally_new(scan, scene->guest.page_size, scene->tables,
                                         scene->indexes, key, &tally, err);
    size_t at = 0;
    bool done = false;

    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        memset(sf_table_entries(scene->tables[i]), 0,
               (size_t)scene->guest.counts[i] * 8);
    }
    new_indexes(scene);
    sf_scan_begin(scan, START);
    while (status == SF_OK && !done) {
        const size_t len = (size_t)sf_min(below(&dice, limit), scene->stream.len - at);
        uint8_t *piece = grab(len);
        size_t used = 0;
        if (len != 0) {
            memcpy(piece, scene->stream.data + at, len);
        }
        status = sf_tally_feed(tally, piece, len, &used, &done, err);
        CHECK(status != SF_OK || done || used == len);
        at += used;
        free(piece);
    }
    CHECK(status != SF_OK || at == scene->stream.len - 4);
    sf_tally_free(tally);
    sf_scan_free(scan);
    return status;
}

static void test_sums(void)
{
    struct scene scene;
    struct sf_err err;

    set_up(&scene, 900, 0);
    for (unsigned i = 0; i < 12; i++) {
        CHECK_OK(feed(&scene, scene.key, 2 + (UINT64_C(3) << 2 * i), &err), &err);
        check_sums(&scene.guest, scene.tables, scene.key);
    }
    tear_down(&scene);
}

/* What the last record of each page was, by walking the stream in the simplest way. */
static void slow_index(const struct scene *scene, uint64_t *index[GUEST_BLOCKS])
{
    const struct guest *guest = &scene->guest;
    const uint8_t *p = scene->stream.data;
    unsigned block = 0;

    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        index[i] = grab((size_t)guest->counts[i] * sizeof *index[i]);
    }
    for (;;) {
        const uint64_t word = sf_be64(p);
        const uint64_t flags = word % 1024;
        const uint64_t page = word / 1024;
        const uint64_t offset = START + (uint64_t)(p - scene->stream.data);
        if (flags == WIRE_EOS) {
            return;
        }
        p += 8;
        if (flags == WIRE_FLUSH) {
            continue;
        }
        if (!(flags & WIRE_CONTINUE)) {
            block = *p == 255 ? 2 : 0;
            p += 1 + *p;
        }
        uint64_t *entry = &index[block][page];
        if (flags & WIRE_ZERO) {
            *entry = SF_INDEX_ZERO;
            p += 1;
        } else if (flags & WIRE_PAGE) {
            *entry = START + (uint64_t)(p - scene->stream.data) + SF_INDEX_BASE;
            CHECK(*entry > offset);
            p += 1024;
        } else {
            *entry = SF_INDEX_DELTA;
            p += 3 + sf_be16(p + 1);
        }
    }
}

/* All pages are covered by runs that say the same as the entries. */
static void check_runs(const struct sf_index *runs, const uint64_t *index,
                       uint64_t npages)
{
    struct sf_index_run run;
    uint64_t at = 0;

    while (sf_index_next_run(runs, at, npages, &run)) {
        CHECK_EQ(run.first, at);
        CHECK(run.count != 0 && at + run.count <= npages);
        for (uint64_t i = 0; i < run.count; i++) {
            CHECK_EQ(index[at + i], run.value + i * run.stride);
        }
        CHECK(run.value >= SF_INDEX_BASE || run.stride == 0);
        at += run.count;
        CHECK(run.value >= SF_INDEX_BASE || at == npages || index[at] != run.value);
    }
    CHECK_EQ(at, npages);
}

static void test_index(unsigned deltas)
{
    struct scene scene;
    struct sf_err err;
    uint64_t *index[GUEST_BLOCKS];

    set_up(&scene, 900, deltas);
    slow_index(&scene, index);
    for (unsigned i = 0; i < 12; i++) {
        CHECK_OK(feed(&scene, NULL, 2 + (UINT64_C(3) << 2 * i), &err), &err);
        for (unsigned block = 0; block < GUEST_BLOCKS; block++) {
            const uint64_t npages = scene.guest.counts[block];
            check_runs(scene.indexes[block], index[block], npages);
            sf_index_pack(scene.indexes[block]);
            check_runs(scene.indexes[block], index[block], npages);
        }
    }
    for (unsigned block = 0; block < GUEST_BLOCKS; block++) {
        free(index[block]);
    }
    tear_down(&scene);
}

/* A stopped guest: few runs, because neighbours lie a constant stride apart. */
static void test_runs_are_long(void)
{
    struct scene scene;
    struct sf_err err;
    struct sf_index_run run;

    set_up(&scene, 0, 0);
    memset(scene.guest.bitmaps[0], 0xff, 100 / 8);
    scene.stream.len = 0;
    guest_records(&scene.guest, &scene.stream);
    wire_end(&scene.stream);
    wire_bytes(&scene.stream, "junk", 4);
    CHECK_OK(feed(&scene, NULL, 5000, &err), &err);
    CHECK(sf_index_next_run(scene.indexes[0], 0, 300, &run));
    CHECK_EQ(run.count, 96);
    CHECK_EQ(run.value, START + 8 + 7 + SF_INDEX_BASE);
    CHECK_EQ(run.stride, 1024 + 8);
    CHECK(sf_index_next_run(scene.indexes[0], 96, 300, &run));
    CHECK_EQ(run.count, 204);
    CHECK_EQ(run.value, SF_INDEX_ZERO);
    CHECK(!sf_index_next_run(scene.indexes[0], 300, 300, &run));
    tear_down(&scene);
}

/* A name in between, and a page that came earlier, end a run. */
static void test_runs_end_where_the_stride_changes(void)
{
    static const uint64_t order[] = {5, 0, 1, 2, 3, 4};
    struct scene scene;
    struct sf_err err;
    struct sf_index_run run = {0};

    set_up(&scene, 0, 0);
    scene.stream.len = 0;
    for (unsigned i = 0; i < 6; i++) {
        const char *name = order[i] == 5 || order[i] == 3 ? "pc.ram" : NULL;
        wire_page(&scene.stream, order[i] * 1024, name, scene.guest.content[0], 1024);
    }
    wire_end(&scene.stream);
    wire_bytes(&scene.stream, "junk", 4);
    CHECK_OK(feed(&scene, NULL, 5000, &err), &err);
    for (unsigned i = 0; i < 3; i++) {
        static const uint64_t counts[] = {3, 2, 1};
        CHECK(sf_index_next_run(scene.indexes[0], run.first + run.count, 300, &run));
        CHECK(run.value >= SF_INDEX_BASE);
        CHECK_EQ(run.count, counts[i]);
        CHECK_EQ(run.stride, run.count == 1 ? 0 : 1024 + 8);
    }
    tear_down(&scene);
}

static void test_sums_need_content(void)
{
    struct scene scene;
    struct sf_err err = {0};

    set_up(&scene, 100, 8);
    for (uint64_t limit = 2; limit < 5000; limit *= 3) {
        CHECK_EQ(feed(&scene, scene.key, limit, &err), SF_E_CONTENT);
        CHECK(err.offset > START + 8);
        CHECK(err.offset < START + 300);
    }
    tear_down(&scene);
}

/* What came before the error is in the index. */
static void test_bad_records(void)
{
    struct scene scene;
    struct sf_err err = {0};

    set_up(&scene, 0, 0);
    scene.stream.len = 0;
    wire_zero(&scene.stream, 5 * 1024, "pc.ram");
    const uint64_t bad = scene.stream.len;
    wire_zero(&scene.stream, 300 * 1024, "pc.ram");
    for (uint64_t limit = 2; limit < 5000; limit *= 3) {
        CHECK_EQ(feed(&scene, NULL, limit, &err), SF_E_FORMAT);
        CHECK_EQ(err.offset, START + bad);
        struct sf_index_run run;
        CHECK(sf_index_next_run(scene.indexes[0], 5, 6, &run));
        CHECK_EQ(run.value, SF_INDEX_ZERO);
    }
    tear_down(&scene);
}

static enum sf_status make_tally(void *context, struct sf_err *err)
{
    struct sf_tally *tally = NULL;
    const enum sf_status status =
        sf_tally_new(context, 4096, NULL, NULL, NULL, &tally, err);

    CHECK((status == SF_OK) == (tally != NULL));
    sf_tally_free(tally);
    return status;
}

int main(void)
{
    test_sums();
    test_index(0);
    test_index(2);
    test_runs_are_long();
    test_runs_end_where_the_stride_changes();
    test_sums_need_content();
    test_bad_records();
    fail_each(FAULT_MEMORY, ENOMEM, SF_E_NOMEM, make_tally, NULL);
    return 0;
}
