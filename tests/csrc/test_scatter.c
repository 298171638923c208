/* sf_scatter: records into a mapped-ram file, against memory written in order; and back
 * from what sf_emit makes. */
#include "guest.h"
#include "sf_emit.h"
#include "sf_scatter.h"

#define WINDOW (512u * 1024)
#define LONG_MS 60000u

struct scene {
    struct guest guest; /* what must come out */
    struct wire stream;
    struct sf_pages pages[GUEST_BLOCKS]; /* in the target, with bitmaps of their own */
    uint64_t length;
    struct sf_table *tables[GUEST_BLOCKS];
    uint64_t *key;
    unsigned flags;
    unsigned nthreads;
};

static void set_up(struct scene *scene, uint32_t page_size, uint64_t npages,
                   unsigned nrecords, unsigned deltas)
{
    struct dice dice = {50 + page_size + deltas};

    *scene = (struct scene){.nthreads = 3};
    guest_init(&scene->guest, page_size, npages, 20);
    guest_live(&scene->guest, &dice, nrecords, deltas, &scene->stream);
    wire_end(&scene->stream);
    scene->length = guest_place(&scene->guest, 4000, scene->pages);
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        scene->pages[i].bitmap = grab(bitmap_length(scene->guest.counts[i]));
    }
    scene->key = random_key(&dice);
    guest_tables(&scene->guest, scene->tables);
}

static void tear_down(struct scene *scene)
{
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        free(scene->pages[i].bitmap);
    }
    free_tables(scene->tables);
    free(scene->key);
    wire_free(&scene->stream);
    guest_free(&scene->guest);
}

static void forget(struct scene *scene)
{
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        const uint64_t count = scene->guest.counts[i];
        memset(scene->pages[i].bitmap, 0, bitmap_length(count));
        memset(sf_table_entries(scene->tables[i]), 0, (size_t)count * 8);
    }
}

static enum sf_status start(struct scene *scene, struct sf_scan *scan,
                            struct sf_file *target, struct sf_scatter **scatter,
                            struct sf_err *err)
{
    const struct sf_scatter_options options = {
        NULL, scene->tables, scene->key, NULL, WINDOW, scene->nthreads, 0};
    return sf_scatter_start(scan, target, scene->pages, GUEST_BLOCKS, &options, scatter,
                            err);
}

/* Feed LEN bytes, in memory of exactly that length that goes away afterwards. */
static enum sf_status feed_piece(struct sf_scatter *scatter, const uint8_t *bytes,
                                 size_t len, size_t *used, bool *done,
                                 struct sf_err *err)
{
    uint8_t *piece = grab(len);
    enum sf_status status = SF_OK;

    memcpy(piece, bytes, len);
    *used = 0;
    while (status == SF_OK && *used < len && !*done) {
        size_t took = 0;
        status = sf_scatter_feed(scatter, piece + *used, len - *used, &took, done, err);
        *used += took;
    }
    free(piece);
    return status;
}

static enum sf_status flush(struct sf_scatter *scatter, struct sf_err *err)
{
    enum sf_status status;
    do {
        status = sf_scatter_flush(scatter, 10, err);
    } while (status == SF_AGAIN);
    return status;
}

/* Scatter the whole stream in pieces of random length up to LIMIT. */
static enum sf_status run(struct scene *scene, struct sf_file *target, uint64_t limit,
                          struct sf_err *err)
{
    struct dice dice = {51 + limit};
    struct sf_scan *scan = guest_scan(&scene->guest);
    struct sf_scatter *scatter = NULL;
    size_t at = 0;
    bool done = false;

    forget(scene);
    enum sf_status status = start(scene, scan, target, &scatter, err);
    CHECK((status == SF_OK) == (scatter != NULL));
    sf_scan_begin(scan, 0);
    while (status == SF_OK && !done) {
        size_t used = 0;
        const size_t len =
            (size_t)sf_min(1 + below(&dice, limit), scene->stream.len - at);
        status = feed_piece(scatter, scene->stream.data + at, len, &used, &done, err);
        at += used;
        if (status == SF_OK && below(&dice, 400) == 0) {
            status = flush(scatter, err);
        }
    }
    if (status == SF_OK) {
        status = flush(scatter, err);
    }
    sf_scatter_finish(scatter);
    sf_scan_free(scan);
    return status;
}

static void check_target(struct scene *scene, struct sf_file *target)
{
    const struct guest *guest = &scene->guest;

    for (unsigned block = 0; block < GUEST_BLOCKS; block++) {
        const uint64_t count = guest->counts[block];
        const size_t len = (size_t)count * guest->page_size;
        uint8_t *now = slurp(target, scene->pages[block].offset, len);
        CHECK(memcmp(now, guest->content[block], len) == 0);
        CHECK(memcmp(scene->pages[block].bitmap, guest->bitmaps[block],
                     bitmap_length(count)) == 0);
        free(now);
    }
    check_sums(guest, scene->tables, scene->key);
}

static void run_and_check(struct scene *scene, uint64_t limit)
{
    const struct leftovers before = look_around();
    struct sf_file *target = scratch_file(scene->length, scene->flags);
    struct sf_err err;

    CHECK_OK(run(scene, target, limit, &err), &err);
    check_target(scene, target);
    sf_file_free(target);
    check_clean(&before);
}

/* Pages come again, become zero after data and data after zero, change by deltas. */
static void test_live_streams(uint32_t page_size, uint64_t npages)
{
    for (unsigned deltas = 0; deltas < 5; deltas += 2) {
        struct scene scene;
        set_up(&scene, page_size, npages, 1200, deltas);
        for (unsigned i = 0; i < 4; i++) {
            scene.flags = i % 2 ? SF_OPEN_DIRECT : 0;
            scene.nthreads = i;
            run_and_check(&scene, i == 3 ? UINT64_C(1) << 40 : UINT64_C(900) << 4 * i);
        }
        tear_down(&scene);
    }
}

/* Every cut of a stream that has every kind of record. */
static void test_every_cut(void)
{
    struct scene scene;
    uint8_t page[512];

    set_up(&scene, 512, 1100, 0, 0);
    scene.stream.len = 0;
    memset(page, 'p', sizeof page);
    wire_page(&scene.stream, 0, "pc.ram", page, 512);
    wire_page(&scene.stream, 1099 * 512, NULL, page, 512);
    wire_zero(&scene.stream, 0, NULL);
    wire_page(&scene.stream, 512, guest_long_name, page, 512);
    wire_delta(&scene.stream, 512, NULL, (const uint8_t *)"\5\2ab", 4);
    wire_delta(&scene.stream, 0, NULL, (const uint8_t *)"\0\1z", 3);
    wire_end(&scene.stream);
    memcpy(guest_page(&scene.guest, 0, 1099), page, 512);
    memcpy(guest_page(&scene.guest, 2, 1), page, 512);
    memcpy(guest_page(&scene.guest, 2, 1) + 5, "ab", 2);
    *guest_page(&scene.guest, 2, 0) = 'z';
    sf_bit_set(scene.guest.bitmaps[0], 1099);
    sf_bit_set(scene.guest.bitmaps[2], 0);
    sf_bit_set(scene.guest.bitmaps[2], 1);
    for (size_t cut = 0; cut < scene.stream.len; cut += cut % 512 < 16 ? 1 : 23) {
        struct sf_file *target = scratch_file(scene.length, 0);
        struct sf_scan *scan = guest_scan(&scene.guest);
        struct sf_scatter *scatter = NULL;
        struct sf_err err;
        size_t used = 0;
        bool done = false;
        forget(&scene);
        CHECK_OK(start(&scene, scan, target, &scatter, &err), &err);
        sf_scan_begin(scan, 0);
        CHECK_OK(feed_piece(scatter, scene.stream.data, cut, &used, &done, &err), &err);
        CHECK(used == cut && !done);
        CHECK_OK(feed_piece(scatter, scene.stream.data + cut, scene.stream.len - cut,
                            &used, &done, &err),
                 &err);
        CHECK(used == scene.stream.len - cut && done);
        CHECK_OK(flush(scatter, &err), &err);
        sf_scatter_finish(scatter);
        sf_scan_free(scan);
        check_target(&scene, target);
        sf_file_free(target);
    }
    tear_down(&scene);
}

/* A slow disk: the feed returns in between and goes on where it was. */
static void test_slow_writers(void)
{
    struct scene scene;
    struct sf_err err;

    set_up(&scene, 4096, 4000, 120, 1);
    scene.nthreads = 1;
    struct sf_file *target = scratch_file(scene.length, 0);
    fault_slow(15);
    CHECK_OK(run(&scene, target, UINT64_C(1) << 40, &err), &err);
    fault_off();
    check_target(&scene, target);
    sf_file_free(target);
    tear_down(&scene);
}

/* One write takes longer than the feed is willing to wait. */
static void test_feed_returns_early(void)
{
    struct scene scene;
    struct sf_err err;
    struct sf_scan_counts counts;
    unsigned early = 0;
    size_t at = 0;
    bool done = false;

    set_up(&scene, 65536, 400, 0, 0);
    memset(scene.guest.bitmaps[0], 0xff, 400 / 8);
    memset(scene.guest.content[0], 'c', 400 * 65536);
    scene.stream.len = 0;
    guest_records(&scene.guest, &scene.stream);
    wire_end(&scene.stream);
    scene.nthreads = 1;
    struct sf_file *target = scratch_file(scene.length, 0);
    struct sf_scan *scan = guest_scan(&scene.guest);
    struct sf_scatter *scatter = NULL;
    CHECK_OK(start(&scene, scan, target, &scatter, &err), &err);
    sf_scan_begin(scan, 0);
    fault_hold();
    while (!done) {
        size_t used = 0;
        CHECK_OK(sf_scatter_feed(scatter, scene.stream.data + at, scene.stream.len - at,
                                 &used, &done, &err),
                 &err);
        at += used;
        early += used == 0;
        if (early == 3) {
            fault_off();
        }
    }
    CHECK(early >= 3);
    CHECK_EQ(at, scene.stream.len);
    sf_scan_get_counts(scan, &counts); /* no record came twice */
    CHECK_EQ(counts.pages, 400);
    CHECK_EQ(counts.zeros, 20);
    CHECK_OK(flush(scatter, &err), &err);
    sf_scatter_finish(scatter);
    sf_scan_free(scan);
    check_target(&scene, target);
    sf_file_free(target);
    tear_down(&scene);
}

static void test_stuttering_files(void)
{
    struct scene scene;

    set_up(&scene, 4096, 600, 1500, 2);
    fault_stutter();
    run_and_check(&scene, 100000);
    fault_off();
    tear_down(&scene);
}

/* No punching here: zeros are written instead. */
static void test_no_holes(void)
{
    struct scene scene;
    struct sf_err err;

    set_up(&scene, 4096, 600, 1500, 0);
    for (unsigned n = 1; n < 20; n++) {
        struct sf_file *target = scratch_file(scene.length, 0);
        fault_at(FAULT_PUNCH, n, EOPNOTSUPP);
        CHECK_OK(run(&scene, target, 100000, &err), &err);
        fault_off();
        check_target(&scene, target);
        sf_file_free(target);
    }
    tear_down(&scene);
}

/* Zero pages that come as data are present, but need no room. */
static void test_present_zeros_are_not_written(void)
{
    struct scene scene;
    struct sf_err err;

    set_up(&scene, 4096, 600, 0, 0);
    memset(scene.guest.bitmaps[0], 0xff, 600 / 8);
    scene.stream.len = 0;
    guest_records(&scene.guest, &scene.stream);
    wire_end(&scene.stream);
    struct sf_file *target = scratch_file(scene.length, 0);
    fault_off();
    CHECK_OK(run(&scene, target, 100000, &err), &err);
    CHECK_EQ(fault_writes(), 0);
    check_target(&scene, target);
    sf_file_free(target);
    tear_down(&scene);
}

static void test_bad_streams(void)
{
    struct scene scene;
    struct sf_err err = {0};

    set_up(&scene, 4096, 600, 0, 0);
    scene.stream.len = 0;
    wire_delta(&scene.stream, 0, "pc.ram", (const uint8_t *)"\0\0", 2);
    struct sf_file *target = scratch_file(scene.length, 0);
    CHECK_EQ(run(&scene, target, 100, &err), SF_E_FORMAT);
    CHECK_EQ(err.offset, 8 + 7 + 3);
    scene.stream.len = 0;
    wire_zero(&scene.stream, 4096 * 600, "pc.ram");
    CHECK_EQ(run(&scene, target, 100, &err), SF_E_FORMAT);
    CHECK_EQ(err.offset, 0);
    sf_file_free(target);
    tear_down(&scene);
}

/* A delta for a page that was written and closed reads it back, and that may fail. */
static void test_reading_back_fails(void)
{
    struct scene scene;
    struct sf_err err = {0};
    struct sf_scatter *scatter = NULL;
    uint8_t page[4096];
    size_t used;
    bool done = false;

    set_up(&scene, 4096, 600, 0, 0);
    scene.stream.len = 0;
    memset(page, 1, sizeof page);
    wire_page(&scene.stream, 4096, "pc.ram", page, 4096);
    const size_t cut = scene.stream.len;
    wire_delta(&scene.stream, 4096, NULL, (const uint8_t *)"\0\1z", 3);
    struct sf_file *target = scratch_file(scene.length, 0);
    struct sf_scan *scan = guest_scan(&scene.guest);
    CHECK_OK(start(&scene, scan, target, &scatter, &err), &err);
    sf_scan_begin(scan, 0);
    CHECK_OK(sf_scatter_feed(scatter, scene.stream.data, cut, &used, &done, &err),
             &err);
    CHECK_OK(flush(scatter, &err), &err);
    fault_at(FAULT_READ, 1, EIO);
    CHECK_EQ(sf_scatter_feed(scatter, scene.stream.data + cut, scene.stream.len - cut,
                             &used, &done, &err),
             SF_E_OS);
    fault_off();
    CHECK_EQ(err.errnum, EIO);
    CHECK_EQ(err.offset, scene.pages[0].offset + 4096);
    CHECK(strcmp(err.message, "read back: read") == 0);
    sf_scatter_finish(scatter);
    sf_scan_free(scan);
    sf_file_free(target);
    tear_down(&scene);
}

static void test_finish_in_the_middle(void)
{
    const struct leftovers before = look_around();
    struct scene scene;
    struct sf_err err;

    set_up(&scene, 4096, 600, 1000, 1);
    for (unsigned i = 0; i < 10; i++) {
        struct sf_file *target = scratch_file(scene.length, 0);
        struct sf_scan *scan = guest_scan(&scene.guest);
        struct sf_scatter *scatter = NULL;
        size_t used;
        bool done = false;
        forget(&scene);
        CHECK_OK(start(&scene, scan, target, &scatter, &err), &err);
        sf_scan_begin(scan, 0);
        CHECK_OK(feed_piece(scatter, scene.stream.data, scene.stream.len * i / 10,
                            &used, &done, &err),
                 &err);
        if (i % 3 == 0) {
            (void)sf_scatter_flush(scatter, 0, &err);
        }
        sf_scatter_finish(scatter);
        sf_scan_free(scan);
        sf_file_free(target);
    }
    sf_scatter_finish(NULL);
    tear_down(&scene);
    check_clean(&before);
}

static enum sf_status run_scene(void *context, struct sf_err *err)
{
    struct scene *scene = context;
    struct sf_file *target = NULL;
    const int fd = scratch_fd(scene->length);
    enum sf_status status = sf_file_adopt(fd, SF_OPEN_WRITE, &target, err);

    close(fd);
    /* The scanner is the caller's, and does not fail here. */
    status = status == SF_OK ? run(scene, target, UINT64_C(1) << 40, err) : status;
    sf_file_free(target);
    return status;
}

static struct sf_file *idle; /* nothing is written to it */
static enum sf_status start_only(void *context, struct sf_err *err)
{
    struct sf_scatter *scatter = NULL;
    const enum sf_status status = start(context, NULL, idle, &scatter, err);

    CHECK((status == SF_OK) == (scatter != NULL));
    sf_scatter_finish(scatter);
    return status;
}

static void test_everything_that_fails(void)
{
    struct scene scene;

    set_up(&scene, 4096, 1000, 150, 2);
    idle = scratch_file(0, 0);
    fail_each(FAULT_MEMORY, ENOMEM, SF_E_NOMEM, start_only, &scene);
    fail_each(FAULT_THREAD, EAGAIN, SF_E_OS, start_only, &scene);
    sf_file_free(idle);
    fail_each(FAULT_READ, EIO, SF_E_OS, run_scene, &scene);
    fail_each(FAULT_WRITE, ENOSPC, SF_E_OS, run_scene, &scene);
    fail_each(FAULT_PUNCH, EIO, SF_E_OS, run_scene, &scene);
    tear_down(&scene);
}

static void test_windows(void)
{
    struct scene scene;
    struct sf_scatter *scatter = NULL;
    struct sf_err err;

    set_up(&scene, 4096, 10, 0, 0);
    for (uint64_t window = 0; window < 2 * WINDOW; window = 2 * window + 4096) {
        const struct sf_scatter_options options = {NULL,   NULL, NULL, NULL,
                                                   window, 1,    0};
        CHECK_EQ(sf_scatter_start(NULL, NULL, scene.pages, 3, &options, &scatter, &err),
                 SF_E_RANGE);
    }
    tear_down(&scene);
}

/* Parts of blocks go to places of their own, on no page border; other pages nowhere. */
static void test_places(unsigned deltas)
{
    static const struct sf_place places[] = {
        {100, 0, 0}, {1000, 0, 0}, {1001, 0, 0}, {1500, 0, 0}, {3, 2, 0}};
    struct sf_pages pages[] = {
        {.count = 900}, {.count = 1}, {.count = 8}, {.count = 1500}, {.count = 15}};
    const uint32_t npages = sizeof pages / sizeof *pages;
    struct scene scene;
    struct sf_err err;
    uint64_t offset = 1000;
    size_t used = 0;
    bool done = false;

    set_up(&scene, 4096, 3000, 1200, deltas);
    for (uint32_t i = npages; i-- > 0;) {
        pages[i].page_size = 4096;
        pages[i].offset = offset;
        pages[i].bitmap = grab(bitmap_length(pages[i].count));
        offset += pages[i].count * 4096;
    }
    const struct sf_scatter_options options = {places, NULL, NULL, NULL, WINDOW, 2, 0};
    struct sf_file *target = scratch_file(offset, 0);
    struct sf_scan *scan = guest_scan(&scene.guest);
    struct sf_scatter *scatter = NULL;
    CHECK_OK(sf_scatter_start(scan, target, pages, npages, &options, &scatter, &err),
             &err);
    sf_scan_begin(scan, 0);
    CHECK_OK(
        feed_piece(scatter, scene.stream.data, scene.stream.len, &used, &done, &err),
        &err);
    CHECK_OK(flush(scatter, &err), &err);
    sf_scatter_finish(scatter);
    sf_scan_free(scan);
    for (uint32_t i = 0; i < npages; i++) {
        const size_t len = (size_t)pages[i].count * 4096;
        uint8_t *now = slurp(target, pages[i].offset, len);
        const uint64_t first = places[i].first;
        CHECK(memcmp(now, guest_page(&scene.guest, places[i].block, first), len) == 0);
        for (uint64_t page = 0; page < pages[i].count; page++) {
            CHECK(sf_bit_test(pages[i].bitmap, page) ==
                  sf_bit_test(scene.guest.bitmaps[places[i].block], first + page));
        }
        free(now);
        free(pages[i].bitmap);
    }
    uint8_t *before = slurp(target, 0, 1000);
    CHECK(sf_page_is_zero(before, 1000));
    free(before);
    sf_file_free(target);
    tear_down(&scene);
}

/* Out of a mapped-ram file and into another: nothing changes. */
static void test_round_trip(uint32_t page_size, uint64_t npages, unsigned flags)
{
    struct scene scene;
    struct dice dice = {60 + page_size};
    struct sf_pages places[GUEST_BLOCKS];
    struct sf_emit_block blocks[GUEST_BLOCKS];
    struct sf_emit *emit = NULL;
    struct sf_ring *ring = NULL;
    struct sf_scatter *scatter = NULL;
    struct sf_err err;
    bool done = false;
    size_t len = 1;

    set_up(&scene, page_size, npages, 0, 0);
    guest_fill(&scene.guest, &dice);
    struct sf_file *source = guest_file(&scene.guest, flags, places);
    struct sf_file *target = scratch_file(scene.length, flags);
    struct sf_scan *scan = guest_scan(&scene.guest);
    for (unsigned i = 0; i < GUEST_BLOCKS; i++) {
        blocks[i] = (struct sf_emit_block){scene.guest.names[i], places[i],
                                           (uint32_t)strlen(scene.guest.names[i]), 0};
    }
    CHECK_OK(sf_emit_new(source, blocks, GUEST_BLOCKS, NULL, NULL, &emit, &err), &err);
    CHECK_OK(sf_emit_ring_start(emit, WINDOW, 3, &ring, &err), &err);
    CHECK_OK(start(&scene, scan, target, &scatter, &err), &err);
    sf_scan_begin(scan, 0);
    while (len != 0) {
        uint8_t *data = NULL;
        const enum sf_status status = sf_ring_next(ring, 10, &data, &len, &err);
        for (size_t at = 0; status == SF_OK && at < len;) {
            size_t used = 0;
            CHECK_OK(sf_scatter_feed(scatter, data + at, len - at, &used, &done, &err),
                     &err);
            at += used;
        }
        len = status == SF_AGAIN ? 1 : len;
        CHECK(status == SF_OK || status == SF_AGAIN);
    }
    CHECK_OK(flush(scatter, &err), &err);
    sf_scatter_finish(scatter);
    sf_ring_finish(ring);
    sf_emit_free(emit);
    sf_scan_free(scan);
    check_target(&scene, target);
    sf_file_free(source);
    sf_file_free(target);
    tear_down(&scene);
}

int main(void)
{
    test_live_streams(512, 3000);
    test_live_streams(4096, 600);
    test_every_cut();
    test_slow_writers();
    test_feed_returns_early();
    test_stuttering_files();
    test_no_holes();
    test_present_zeros_are_not_written();
    test_bad_streams();
    test_reading_back_fails();
    test_finish_in_the_middle();
    test_everything_that_fails();
    test_windows();
    test_places(0);
    test_places(3);
    test_round_trip(512, 5000, 0);
    test_round_trip(4096, 1500, 0);
    test_round_trip(4096, 1500, SF_OPEN_DIRECT);
    test_round_trip(65536, 60, 0);
    return 0;
}
